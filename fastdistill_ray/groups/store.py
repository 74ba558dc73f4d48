"""The durable store between stages: immutable Parquet files, their log, and reading in steps.

A row has a key (a group's problem id). A worker writes a file; the driver, the only writer of the
log, then logs it. The log's order is the arrival order and names each key once: a key is asked
once, and `begin` logs no key again. Nobody holds the log in memory: readers stream it, followers
read each line once.
"""

import hashlib
import logging
import re
import time
import uuid
from collections.abc import Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.log import Commit, DamagedSegment, Follower, Log
from fastdistill_ray.records import SIGNALS
from fastdistill_ray.run_files import MANIFEST
from fastdistill_ray.storage.folders import move
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import digest, open_parquet, read_parquet, write_parquet

logger = logging.getLogger(__name__)

STORE = "store"  # column of a request whose rows go to one of several stores: that store's name
FAILED = "failed.txt"
PART = re.compile(r"part-.+\.parquet")
DAMAGED = "damaged"  # folder of files that cannot be trusted
POLL_SECONDS = 0.5
ROWS_PER_ROW_GROUP = 16  # read for one row: of 8 completions of 1,000 tokens about a megabyte

ROWS_AT_ONCE = 64
READS_AT_ONCE = 8


class Location(NamedTuple):
    key: str
    file: str
    row: int


class Store:
    """A folder of committed rows whose key is the column `key`."""

    def __init__(self, folder: Any, key: str = "problem_id") -> None:
        self.folder = Place(folder)
        self.key = key
        self.log = Log(self.folder)

    def write(self, table: pa.Table, *, is_new: bool = False) -> Commit:
        """Worker side: make the rows durable, under a name made of the keys: a retry overwrites.
        `is_new`: under another name than a file of these keys that the log has."""
        name = part_name(table[self.key].to_pylist(), uuid.uuid4().hex[:8] if is_new else "")
        options = {"row_group_size": ROWS_PER_ROW_GROUP, **write_options(table)}
        size, digest_of = write_parquet(table, self.folder / name, **options)
        return _commit_of(name, table, self.key)._replace(size=size, digest=digest_of)

    def append(self, commits: list[Commit]) -> None:
        """Driver side: the rows are now part of the store. SupersededError where another driver
        writes here."""
        if not self.log.term:
            self.begin({commit.file for commit in commits})
        self.log.append(commits)

    def commits(self) -> Iterator[Commit]:
        """The log as far as it is written; UserError where it is damaged."""
        try:
            yield from self.log.commits()
        except DamagedSegment as error:
            raise UserError(f"{error}; the run's own verb repairs it: start it again") from error

    def keys(self) -> Iterator[str]:
        return (key for commit in self.commits() for key in commit.keys)

    def num_kept(self) -> int:
        return sum(commit.dropped.count("") for commit in self.commits())

    def begin(self, others: Iterable[str] = ()) -> None:
        """Driver side, before it writes: repairs what a kill, a power loss or a hand left, and
        takes over the log. Rows that were written and not logged are, but those of the files
        `others`; the keys of what is damaged are no longer part of the store."""
        self.folder.remove_unfinished()
        if fault := self.log.fault():
            logger.warning("%s; what it named is found again by its files", fault)
        damaged = self.damaged(is_deep=not self.is_complete())
        for name, what in damaged.items():
            logger.warning("%s: %s; its keys are asked again", self.folder / name, what)
            if (self.folder / name).is_file():
                move(self.folder / name, self.folder / DAMAGED / name)
        found = self._recovered(set(others))
        self.log.begin(chain(self.sound(damaged), found))
        for name in self._parts() - {commit.file for commit in self.commits()} - set(others):
            (self.folder / name).unlink()  # merged, or written by neighbours of what is logged

    def damaged(self, is_deep: bool) -> dict[str, str]:
        """Files of the log that are not as they were written: name -> what is wrong. Deep: by their
        content, else by their size."""
        sizes = self.folder.sizes()
        found: dict[str, str] = {}
        whole = []
        for commit in self.sound():
            if commit.file not in sizes:
                found[commit.file] = "is missing"
            elif sizes[commit.file] != commit.size:
                found[commit.file] = f"has {sizes[commit.file]} of {commit.size} bytes"
            else:
                whole.append(commit)
        if is_deep:
            with ThreadPoolExecutor(READS_AT_ONCE) as pool:
                seen = pool.map(lambda commit: digest(self.folder / commit.file), whole)
                for commit, its in zip(whole, seen, strict=True):
                    if its != commit.digest:
                        found[commit.file] = "was altered"
        return found

    def lost(self, names: Iterable[str]) -> list[str]:
        """What is wrong with a log that should name the store's files among these."""
        parts = {name for name in names if PART.fullmatch(name)}
        if not parts:
            return []
        try:
            known = {commit.file for commit in self.log.commits()}
        except DamagedSegment as error:
            return [str(error)]
        return [f"{self.log.folder} does not name {name}" for name in sorted(parts - known)]

    def sound(self, damaged: Container[str] = ()) -> Iterator[Commit]:
        """Lines of the log up to its damage, if any, without those of damaged files."""
        try:
            for commit in self.log.commits():
                if commit.file not in damaged:
                    yield commit
        except DamagedSegment:
            return

    def _recovered(self, others: set[str]) -> list[Commit]:
        """Lines for rows that were written and not logged."""
        orphans = self._parts() - others
        orphans.difference_update(commit.file for commit in self.sound())
        if not orphans:
            return []
        tables = {}
        for name in sorted(orphans):
            try:
                tables[name] = read_parquet(self.folder / name, [self.key])[self.key].to_pylist()
            except (OSError, pa.ArrowInvalid) as error:
                logger.warning("%s: cannot be read (%s), set aside", self.folder / name, error)
                move(self.folder / name, self.folder / DAMAGED / name)
        unlogged = {key for keys in tables.values() for key in keys}
        unlogged.difference_update(key for one in self.sound() for key in one.keys)
        found = []
        for name, keys in tables.items():
            is_fresh = [key in unlogged for key in keys]
            unlogged.difference_update(keys)
            if any(is_fresh):
                table = read_parquet(self.folder / name)
                rows = table if all(is_fresh) else table.filter(pa.array(is_fresh))
                found.append(self._commit_of(name, rows) if all(is_fresh) else self.write(rows))
        return found

    def _parts(self) -> set[str]:
        return {name for name in self.folder.sizes() if PART.fullmatch(name)}

    def rewrite_log(self, commits: Iterable[Commit]) -> None:
        """Driver side: these lines in place of the log's, at once or not at all."""
        self.log.begin(commits)

    def tables(
        self, columns: list[str] | None = None, without: Container[str] = ()
    ) -> Iterator[pa.Table]:
        """All rows, kept or not, a few at a time; of all columns unless some are named; but for
        those of the files `without`."""
        for commit in self.commits():
            if commit.file in without:
                continue
            with open_parquet(self.folder / commit.file) as file:
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

    def _commit_of(self, name: str, table: pa.Table) -> Commit:
        place = self.folder / name
        return _commit_of(name, table, self.key)._replace(size=place.size(), digest=digest(place))


class LogFollower:
    """The kept rows of a store in arrival order, as they are committed; reads each line once."""

    def __init__(self, store: Store) -> None:
        self.follower = Follower(store.log.folder)

    @property
    def given(self) -> int:
        """Rows looked at, kept or not."""
        return self.follower.given

    def new(self) -> Iterator[Location]:
        """Rows logged since the last call."""
        for commit, first in self.follower.new():
            for row in range(first, len(commit.keys)):
                if not commit.dropped[row]:
                    yield Location(commit.keys[row], commit.file, row)


def write_options(table: pa.Table) -> dict[str, Any]:
    """How such rows are best written."""
    # Values of signals hardly repeat: a dictionary of them costs ten times the rest of writing.
    has_signals = any(
        name in table.column_names and table[name].null_count < table.num_rows
        for name, _ in SIGNALS
    )
    return {"compression": "zstd", "use_dictionary": not has_signals}


def part_name(keys: list[str], version: str = "") -> str:
    name = hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:20]
    return f"part-{'-'.join(filter(None, [name, version]))}.parquet"


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
    verdicts = []
    if "completions" in table.column_names:
        completions = pc.list_flatten(table["completions"])
        lengths = pc.struct_field(completions, "num_tokens")
        found = pc.value_counts(pc.struct_field(completions, "verdict").combine_chunks())
        verdicts = found.to_pylist()
    else:  # signals of completions
        lengths = pc.list_flatten(table["num_tokens"])
    return Commit(
        file=name,
        keys=table[key].to_pylist(),
        dropped=dropped,
        num_tokens=pc.sum(lengths).as_py() or 0,
        prompt_tokens=pc.sum(table["prompt_num_tokens"]).as_py() or 0,
        time=time.time(),
        cost=(pc.sum(table["cost"]).as_py() or 0.0) if "cost" in table.column_names else 0.0,
        verdicts={one["values"]: one["counts"] for one in verdicts},
        taken_from=_taken_from(table),
    )


def wait_until_complete(store: Store) -> None:
    while not store.is_complete():
        raise_if_failed(store)
        time.sleep(POLL_SECONDS)


def raise_if_failed(store: Store) -> None:
    if (store.folder / FAILED).is_file():
        raise RuntimeError(f"generation stopped: {(store.folder / FAILED).read_text()}")


def batches_of(
    file: Place, columns: list[str], fields: tuple[str, ...], batch_size: int
) -> Iterator[pa.RecordBatch]:
    """The named columns and fields of the completions of every group of a file."""
    with open_parquet(file) as table:
        leaves = [table.schema.column(i).path for i in range(len(table.schema))]
        wanted = list(columns)
        for leaf in leaves:
            if leaf.startswith("completions.") and leaf.split(".", 3)[-1] in fields:
                wanted.append(leaf)
        yield from table.iter_batches(columns=wanted, batch_size=batch_size)
