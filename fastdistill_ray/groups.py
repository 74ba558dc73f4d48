"""The durable store between stages: immutable Parquet files, a commit log, and reading in steps.

A row has a key (a group's problem id). A worker writes a file and renames it when whole; the
driver, the only writer of `log.jsonl`, then logs it. The log's order is the arrival order. A key
that was committed twice counts once: the first file in the log wins.
"""

import hashlib
import json
import os
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fastdistill_ray.records import SIGNALS
from fastdistill_ray.run_dir import MANIFEST

LOG = "log.jsonl"
FAILED = "failed.txt"
POLL_SECONDS = 0.5
CACHED_FILES = 32


class Commit(NamedTuple):
    """One line of the log: a file and what it holds, in row order."""

    file: str
    keys: list[str]
    dropped: list[str]  # "" for a kept row
    num_tokens: int  # completion tokens
    prompt_tokens: int
    time: float
    cost: float = 0.0  # money


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
        digest = hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:20]
        name = f"part-{digest}.parquet"
        temporary = self.folder / f".{name}.{uuid.uuid4().hex}"
        # Values of signals hardly repeat: a dictionary of them costs ten times the rest of writing.
        has_signals = any(
            name in table.column_names and table[name].null_count < table.num_rows
            for name, _ in SIGNALS
        )
        pq.write_table(table, temporary, compression="zstd", use_dictionary=not has_signals)
        os.replace(temporary, self.folder / name)
        return _commit_of(name, table, self.key)

    def append(self, commit: Commit) -> None:
        """Driver side: the rows are now part of the store."""
        with open(self.folder / LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps(commit._asdict()) + "\n")
            log.flush()
            os.fsync(log.fileno())

    def commits(self) -> list[Commit]:
        """The log as far as it is written; a line still being written is not there yet."""
        file = self.folder / LOG
        if not file.exists():
            return []
        text = file.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        return [Commit(**json.loads(line)) for line in whole.splitlines()]

    def recover(self) -> set[str]:
        """After a kill: log files written but not logged, drop torn ones; -> committed keys."""
        self._cut_torn_line()
        commits = self.commits()
        logged = {commit.file for commit in commits}
        for path in sorted(self.folder.glob("part-*.parquet")):
            if path.name not in logged:
                commit = _commit_of(path.name, pq.read_table(path), self.key)
                self.append(commit)
                commits.append(commit)
        for torn in self.folder.glob(".part-*"):
            torn.unlink()
        return {key for commit in commits for key in commit.keys}

    def locations(self, start: int = 0) -> list[Location]:
        """Kept rows in arrival order, each key once."""
        found = {}
        for commit in self.commits():
            for row, (key, dropped) in enumerate(zip(commit.keys, commit.dropped, strict=True)):
                if key not in found:
                    found[key] = (dropped, Location(key, commit.file, row))
        return [location for dropped, location in found.values() if not dropped][start:]

    def tables(self) -> Iterator[pa.Table]:
        """All rows, kept or not, one file at a time, each key once."""
        seen: set[str] = set()
        for commit in self.commits():
            table = pq.read_table(self.folder / commit.file)
            fresh = [key not in seen for key in commit.keys]
            seen.update(commit.keys)
            yield table.filter(pa.array(fresh))

    def is_complete(self) -> bool:
        return (self.folder / MANIFEST).exists()

    def _cut_torn_line(self) -> None:
        file = self.folder / LOG
        if file.exists():
            data = file.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                os.truncate(file, whole)


def _commit_of(name: str, table: pa.Table, key: str) -> Commit:
    rows = table.num_rows
    dropped = table["dropped"].to_pylist() if "dropped" in table.column_names else [""] * rows
    # Arrow's own sum: token ids never become Python objects here.
    lengths = pc.struct_field(pc.list_flatten(table["completions"]), "num_tokens")
    return Commit(
        file=name,
        keys=table[key].to_pylist(),
        dropped=dropped,
        num_tokens=pc.sum(lengths).as_py() or 0,
        prompt_tokens=pc.sum(table["prompt_num_tokens"]).as_py() or 0,
        time=time.time(),
        cost=(pc.sum(table["cost"]).as_py() or 0.0) if "cost" in table.column_names else 0.0,
    )


class StepPlan(NamedTuple):
    """Which groups make up each step; the same on every rank and after every restart."""

    folder: str
    groups_per_step: int
    epochs: int
    max_steps: int | None
    seed: int
    follow: bool  # epoch 0 in arrival order, while the store may still grow


def num_steps(plan: StepPlan, num_groups: int) -> int:
    """Steps of the whole plan over `num_groups` groups; a short last step counts."""
    steps = plan.epochs * -(-num_groups // plan.groups_per_step)
    return min(steps, plan.max_steps) if plan.max_steps else steps


class Step(NamedTuple):
    step: int
    epoch: int
    ends_epoch: bool
    locations: list[Location]


def steps(plan: StepPlan) -> Iterator[Step]:
    """All steps in order; waits for groups that are still being written."""
    store = Store(plan.folder)
    step = 0
    for epoch in range(plan.epochs):
        arrivals = _arriving(store) if plan.follow and epoch == 0 else _shuffled(store, plan, epoch)
        for chunk, ends_epoch in _chunks(arrivals, plan.groups_per_step):
            yield Step(step, epoch, ends_epoch, chunk)
            step += 1
            if step == plan.max_steps:
                return


def rank_rows(plan: StepPlan, rank: int, world_size: int) -> Iterator[dict[str, Any]]:
    """One row per step with the groups at positions rank, rank + world_size, ... of its slice."""
    reader = _RowReader(Path(plan.folder))
    for step in steps(plan):
        yield {
            "step": step.step,
            "epoch": step.epoch,
            "ends_epoch": step.ends_epoch,
            "num_groups": len(step.locations),
            "groups": [reader.read(location) for location in step.locations[rank::world_size]],
            "group_ids": [location.key for location in step.locations],
        }


def _arriving(store: Store) -> Iterator[Location]:
    sent = 0
    while True:
        is_complete = store.is_complete()  # asked before reading: nothing is logged after it
        new = store.locations(sent)
        yield from new
        sent += len(new)
        if is_complete:
            return
        _raise_if_failed(store)
        if not new:
            time.sleep(POLL_SECONDS)


def _shuffled(store: Store, plan: StepPlan, epoch: int) -> Iterator[Location]:
    wait_until_complete(store)
    locations = sorted(store.locations())
    order = np.random.default_rng([plan.seed, epoch]).permutation(len(locations))
    return iter([locations[i] for i in order])


def wait_until_complete(store: Store) -> None:
    while not store.is_complete():
        _raise_if_failed(store)
        time.sleep(POLL_SECONDS)


def _raise_if_failed(store: Store) -> None:
    if (store.folder / FAILED).exists():
        raise RuntimeError(f"generation stopped: {(store.folder / FAILED).read_text()}")


def _chunks(items: Iterator[Location], size: int) -> Iterator[tuple[list[Location], bool]]:
    """Chunks of `size` and whether each is the last; a chunk waits for the next one's head."""
    chunk: list[Location] = []
    for item in items:
        if len(chunk) == size:
            yield chunk, False
            chunk = []
        chunk.append(item)
    if chunk:
        yield chunk, True


class _RowReader:
    """Single rows of many small files, the last used files kept open in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: OrderedDict[str, pa.Table] = OrderedDict()

    def read(self, location: Location) -> dict[str, Any]:
        if location.file not in self.files:
            table = pq.read_table(self.folder / location.file)
            # Signals are many; whoever trains on them reads them as arrays.
            self.files[location.file] = table.drop_columns(
                [name for name, _ in SIGNALS if name in table.column_names]
            )
            if len(self.files) > CACHED_FILES:
                self.files.popitem(last=False)
        self.files.move_to_end(location.file)
        return self.files[location.file].slice(location.row, 1).to_pylist()[0]
