"""The durable store between stages: immutable Parquet files, a commit log, and reading in steps.

A row has a key (a group's problem id). A worker writes a file and renames it when whole; the
driver, the only writer of `log.jsonl`, then logs it. The log's order is the arrival order and
names each key once: a key is asked once, and `recover` logs no key again. Nobody holds the log in
memory: readers stream it, followers read each line once.
"""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fastdistill_ray.records import SIGNALS
from fastdistill_ray.run_files import MANIFEST

LOG = "log.jsonl"
FAILED = "failed.txt"
POLL_SECONDS = 0.5
ROWS_PER_ROW_GROUP = 16  # read for one row: of 8 completions of 1,000 tokens about a megabyte

ROWS_AT_ONCE = 64


class Commit(NamedTuple):
    """One line of the log: a file and what it holds, in row order."""

    file: str
    keys: list[str]
    dropped: list[str]  # "" for a kept row
    num_tokens: int  # completion tokens
    prompt_tokens: int
    time: float
    cost: float = 0.0  # money
    parts: list[tuple[str, int, float]] = []  # (file, rows, time) of each file merged into this
    verdicts: dict[str, int] = {}  # of the completions
    taken_from: str = ""  # the folder of the stage that asked for them, where it is another


class Location(NamedTuple):
    key: str
    file: str
    row: int


class Store:
    """A folder of committed rows whose key is the column `key`."""

    def __init__(self, folder: str | Path, key: str = "problem_id") -> None:
        self.folder = Path(folder)
        self.key = key

    def write(self, table: pa.Table) -> Commit:
        """Worker side: make the rows durable, under a name made of the keys: a retry overwrites."""
        keys = table[self.key].to_pylist()
        name = part_name(keys)
        temporary = self.folder / f".{name}.{uuid.uuid4().hex}"
        options = write_options(table)
        pq.write_table(table, temporary, row_group_size=ROWS_PER_ROW_GROUP, **options)
        os.replace(temporary, self.folder / name)
        return _commit_of(name, table, self.key)

    def append(self, commit: Commit) -> None:
        """Driver side: the rows are now part of the store."""
        with open(self.folder / LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps(commit._asdict()) + "\n")
            log.flush()
            os.fsync(log.fileno())

    def commits(self) -> Iterator[Commit]:
        """The log as far as it is written; a line still being written is not there yet."""
        try:
            log = open(self.folder / LOG, "rb")  # noqa: SIM115  closed below
        except FileNotFoundError:
            return
        with log:
            while commit := _next_commit(log):
                yield commit

    def keys(self) -> Iterator[str]:
        return (key for commit in self.commits() for key in commit.keys)

    def num_kept(self) -> int:
        return sum(commit.dropped.count("") for commit in self.commits())

    def recover(self) -> None:
        """After a kill: log rows that were written but not logged, remove torn and merged files."""
        self._cut_torn_line()
        for torn in (*self.folder.glob(".part-*"), *self.folder.glob(f".{LOG}.*")):
            torn.unlink()
        orphans = {path.name for path in self.folder.glob("part-*.parquet")}
        orphans.difference_update(commit.file for commit in self.commits())
        columns = [pq.read_table(self.folder / name, columns=[self.key]) for name in orphans]
        unlogged = {key for column in columns for key in column[self.key].to_pylist()}
        if unlogged:
            unlogged.difference_update(self.keys())
        for name in sorted(orphans):
            self._log_rows(name, unlogged)

    def _log_rows(self, name: str, unlogged: set[str]) -> None:
        """Log the rows of a file whose keys are still unlogged; a file without any goes."""
        table = pq.read_table(self.folder / name)
        keys = table[self.key].to_pylist()
        fresh = [key in unlogged for key in keys]
        unlogged.difference_update(keys)
        if all(fresh):
            self.append(_commit_of(name, table, self.key))
            return
        if any(fresh):
            self.append(self.write(table.filter(pa.array(fresh))))
        (self.folder / name).unlink()

    def rewrite_log(self, commits: Iterable[Commit]) -> None:
        """Driver side: these lines in place of the log's, at once or not at all."""
        temporary = self.folder / f".{LOG}.{uuid.uuid4().hex}"
        with open(temporary, "w", encoding="utf-8") as log:
            for commit in commits:
                log.write(json.dumps(commit._asdict()) + "\n")
            log.flush()
            os.fsync(log.fileno())
        os.replace(temporary, self.folder / LOG)

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """All rows, kept or not, a few at a time; of all columns unless some are named."""
        for commit in self.commits():
            with pq.ParquetFile(self.folder / commit.file) as file:
                for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
                    yield pa.Table.from_batches([batch])

    def moved(self) -> dict[str, tuple[str, int]]:
        """Files that are merged into larger ones -> that file and the row they begin at."""
        found = {}
        for commit in self.commits():
            start = 0
            for file, rows, _ in commit.parts:
                found[file] = (commit.file, start)
                start += rows
        return found

    def is_complete(self) -> bool:
        return (self.folder / MANIFEST).exists()

    def _cut_torn_line(self) -> None:
        file = self.folder / LOG
        if file.exists():
            with open(file, "rb+") as log:
                while _next_commit(log):
                    pass
                log.truncate()


class LogFollower:
    """The kept rows of a store in arrival order, as they are committed; reads each line once."""

    def __init__(self, store: Store) -> None:
        self.file = store.folder / LOG
        self.log: IO[bytes] | None = None
        self.at = 0  # rows before the next line of the open log
        self.given = 0  # rows looked at, kept or not

    def new(self) -> Iterator[Location]:
        """Rows logged since the last call."""
        self._open()
        while self.log and (commit := _next_commit(self.log)):
            start, self.at = self.at, self.at + len(commit.keys)
            first, self.given = max(self.given - start, 0), max(self.given, self.at)
            for row in range(first, len(commit.keys)):
                if not commit.dropped[row]:
                    yield Location(commit.keys[row], commit.file, row)

    def _open(self) -> None:
        """Open the log, again when a compacted one, of the same rows in the same order, took its
        place."""
        try:
            current = self.file.stat()
        except FileNotFoundError:
            return
        if self.log and os.path.samestat(os.fstat(self.log.fileno()), current):
            return
        if self.log:
            self.log.close()
        self.log, self.at = open(self.file, "rb"), 0  # noqa: SIM115  kept open to follow


def write_options(table: pa.Table) -> dict[str, Any]:
    """How such rows are best written."""
    # Values of signals hardly repeat: a dictionary of them costs ten times the rest of writing.
    has_signals = any(
        name in table.column_names and table[name].null_count < table.num_rows
        for name, _ in SIGNALS
    )
    return {"compression": "zstd", "use_dictionary": not has_signals}


def part_name(keys: list[str]) -> str:
    digest = hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:20]
    return f"part-{digest}.parquet"


def _next_commit(log: IO[bytes]) -> Commit | None:
    """None where no whole line follows; the next call looks there again."""
    position = log.tell()
    line = log.readline()
    if line.endswith(b"\n"):
        return Commit(**json.loads(line))
    log.seek(position)
    return None


def _taken_from(table: pa.Table) -> str:
    """A file's groups are all of one stage."""
    if "taken_from" not in table.column_names:
        return ""
    (stage,) = {one or "" for one in table["taken_from"].unique().to_pylist()} or {""}
    return stage


def _commit_of(name: str, table: pa.Table, key: str) -> Commit:
    rows = table.num_rows
    dropped = table["dropped"].to_pylist() if "dropped" in table.column_names else [""] * rows
    # Arrow's own sum: token ids never become Python objects here.
    completions = pc.list_flatten(table["completions"])
    lengths = pc.struct_field(completions, "num_tokens")
    verdicts = pc.value_counts(pc.struct_field(completions, "verdict").combine_chunks())
    return Commit(
        file=name,
        keys=table[key].to_pylist(),
        dropped=dropped,
        num_tokens=pc.sum(lengths).as_py() or 0,
        prompt_tokens=pc.sum(table["prompt_num_tokens"]).as_py() or 0,
        time=time.time(),
        cost=(pc.sum(table["cost"]).as_py() or 0.0) if "cost" in table.column_names else 0.0,
        verdicts={one["values"]: one["counts"] for one in verdicts.to_pylist()},
        taken_from=_taken_from(table),
    )


def wait_until_complete(store: Store) -> None:
    while not store.is_complete():
        raise_if_failed(store)
        time.sleep(POLL_SECONDS)


def raise_if_failed(store: Store) -> None:
    if (store.folder / FAILED).exists():
        raise RuntimeError(f"generation stopped: {(store.folder / FAILED).read_text()}")
