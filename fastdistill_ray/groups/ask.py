"""The one loop that asks engines: requests -> completions -> judged rows -> committed files.

One Ray Data execution: engine actors, then judging actors that write what they judged. The driver
only logs commits; it holds neither requests nor completions. Generation and evaluation differ in
what they make of completions, and in nothing else.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from ray.data import ActorPoolStrategy

from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.completions import (
    EngineSpec,
    completions,
    num_bundles,
    unbundle,
)
from fastdistill_ray.generation.requests import Requests
from fastdistill_ray.groups.log import Commit
from fastdistill_ray.groups.store import Store
from fastdistill_ray.progress import Progress

MakeRows = Callable[[pa.Table], pa.Table]  # requests with raw completions -> rows of a store
STORE = "store"  # column of a request whose rows go to one of several stores: that store's name


class Asked(NamedTuple):
    """Who is asked what, and where its actors run."""

    requests: Requests
    spec: EngineSpec
    pool: PoolKnobs


class RowWriter:
    """Ray Data UDF: bundles of completions -> committed rows; returns their log lines.

    `start` is called once in the actor, and returns what makes rows.
    """

    def __init__(
        self, start: Callable[[], MakeRows], stores: Mapping[str, Store], rows_per_file: int
    ) -> None:
        self.make_rows = start()
        self.stores = stores
        self.rows_per_file = rows_per_file

    def __call__(self, batch: pa.Table) -> pa.Table:
        batch = unbundle(batch)
        failures = [failure for failure in batch["failure"].to_pylist() if failure]
        batch = batch.filter(pc.equal(batch["failure"], ""))
        lines: list[tuple[str, str, str]] = []
        for name, store in self.stores.items():
            own = batch.filter(pc.equal(batch[STORE], name)) if len(self.stores) > 1 else batch
            for first in range(0, own.num_rows, self.rows_per_file):
                commit = store.write(self.make_rows(own.slice(first, self.rows_per_file)))
                lines.append((name, json.dumps(commit._asdict()), ""))
        lines += [("", "", failure) for failure in failures]
        columns = zip(*lines, strict=True) if lines else ([], [], [])
        names = (STORE, "commit", "failure")
        return pa.table(
            {
                name: pa.array(column, pa.string())
                for name, column in zip(names, columns, strict=True)
            }
        )


def ask(
    asked: list[Asked],
    start: Callable[[], MakeRows],
    stores: Mapping[str, Store],
    *,
    judges: PoolKnobs,
    rows_per_file: int,
    progress: Progress,
    note: Callable[[Commit], str],
) -> None:
    """Ask for all requests; each commit is logged as it arrives, then `note` is told of it.

    What `note` returns stands in the progress line; what it raises ends the loop. Requests that
    were not answered end it too, with their reason, once all others are committed.
    """
    asked = [one for one in asked if len(one.requests)]
    if not asked:
        return
    first, *others = [completions(one.requests, one.spec, one.pool) for one in asked]
    dataset = (first.union(*others) if others else first).map_batches(
        RowWriter,
        fn_constructor_args=(start, dict(stores), rows_per_file),
        batch_size=min(num_bundles(rows_per_file, one.spec, one.pool) for one in asked),
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=judges.workers),
        **judges.remote_args(),
    )
    log_rows(dataset.iter_rows(), stores, progress, note)


def log_rows(
    rows: Iterable[dict[str, str]],
    stores: Mapping[str, Store],
    progress: Progress,
    note: Callable[[Commit], str],
) -> None:
    """Log what RowWriters return, as it comes."""
    failure = ""
    for row in rows:
        if row["failure"]:
            failure = failure or row["failure"]
            continue
        commit = Commit(**json.loads(row["commit"]))
        stores[row[STORE]].append([commit])
        progress.advance(len(commit.keys), commit.num_tokens, note(commit))
    progress.end()
    if failure:
        raise UserError(
            f"{failure}; {progress.done} of {progress.total} are committed, start again to go on"
        )
