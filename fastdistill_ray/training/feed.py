"""Committed groups -> one Ray Dataset per training rank, one row per optimizer step.

Ray's own splitting deals rows to ranks as blocks arrive. Here every rank derives its share of each
step from the store's log, so that a restart, a second run or another rank sees the same steps. A
rank makes its own dataset, once it knows at which step it goes on: nothing before that is read.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import pyarrow as pa
import ray.data

from fastdistill_ray.cluster.queues import bound_queues
from fastdistill_ray.groups.signals import GroupSignals, Signal, arrays_of
from fastdistill_ray.groups.steps import StepPlan, rank_rows
from fastdistill_ray.records import STEP_SCHEMA

FEED_CPUS = 0.1  # of the task that reads a rank's groups
T = TypeVar("T")
SIGNALS = "signals"  # column beside those of STEP_SCHEMA, and field of a group
STEPS_AHEAD = 8  # read before a rank asks for them


class FollowSteps:
    """Ray Data UDF: a row naming a rank -> the rows of its steps from `first` on, as they become
    known."""

    def __init__(self, plan: StepPlan, world_size: int, first: int) -> None:
        self.plan = plan
        self.world_size = world_size
        self.first = first

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for rank in batch["rank"].to_pylist():
            for row in rank_rows(self.plan, rank, self.world_size, self.first):
                yield step_table(row)


def step_table(row: dict[str, Any]) -> pa.Table:
    """A row of a step; signals stay lists of numbers, none becomes a Python object."""
    table = pa.Table.from_pylist([row], schema=STEP_SCHEMA)
    if tables := row.get("signals"):
        structs = pa.concat_tables(tables).to_struct_array().combine_chunks()
        column = pa.ListArray.from_arrays([0, len(structs)], structs)
        table = table.append_column(SIGNALS, column)
    return table


def step_row(table: pa.Table, signal: Signal | None) -> dict[str, Any]:
    """A STEP_SCHEMA row of `step_table`; each group has its `signals`, where there are any."""
    is_stored = SIGNALS in table.column_names
    (row,) = (table.drop_columns([SIGNALS]) if is_stored else table).to_pylist()
    if signal and is_stored:
        stored = pa.Table.from_struct_array(table[SIGNALS].combine_chunks().flatten())
        for place, group in enumerate(row["groups"]):
            group[SIGNALS] = GroupSignals(arrays_of(stored.slice(place, 1)), signal)
    return row


class Ahead(Generic[T]):
    """What `prepare` makes of each row, of the next one in a thread while this one is used; a row
    that is not known yet keeps none back. An iterator that can also be asked what there is."""

    def __init__(self, rows: Iterator[T], prepare: Callable[[T], T]) -> None:
        self._coming: queue.Queue[T | BaseException | None] = queue.Queue(1)
        self._here: list[T | BaseException | None] = []  # at most one; None: there are no more
        # It may wait for what never comes when its training ends early.
        threading.Thread(target=self._fetch, args=(rows, prepare), daemon=True).start()

    def is_here(self, seconds: float) -> bool:
        """Whether within so many the next row, or that there is none, is known."""
        if not self._here:
            with contextlib.suppress(queue.Empty):
                self._here.append(self._coming.get(timeout=seconds))
        return bool(self._here)

    @property
    def is_over(self) -> bool:
        """Whether it is known that no more rows come."""
        return self._here == [None]

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        row = self._here.pop() if self._here else self._coming.get()
        if isinstance(row, BaseException):
            raise row
        if row is None:
            self._here.append(None)
            raise StopIteration
        return row

    def _fetch(self, rows: Iterator[T], prepare: Callable[[T], T]) -> None:
        try:
            for row in rows:
                self._coming.put(prepare(row))
            self._coming.put(None)
        except BaseException as error:  # noqa: BLE001  raised where it is waited for
            self._coming.put(error)


def rank_dataset(plan: StepPlan, rank: int, world_size: int, first: int) -> ray.data.Dataset:
    """The lazy dataset of one rank from step `first` on; it reads a few steps ahead."""
    steps = FollowSteps(plan, world_size, first)
    dataset = ray.data.from_items([{"rank": rank}]).map_batches(
        steps.__call__, batch_format="pyarrow", num_cpus=FEED_CPUS
    )
    bound_queues(dataset.context, max_blocks=STEPS_AHEAD)
    return dataset
