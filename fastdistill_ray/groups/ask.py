"""The one loop that asks engines: requests -> completions -> judged rows -> committed files.

One Ray Data execution: engine actors, then judging actors that write what they judged. The driver
only logs commits; it holds neither requests nor completions. Generation and evaluation differ in
what they make of completions, and in nothing else.
"""

import contextlib
import json
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.exceptions import RayError

from fastdistill_ray.background import repeated
from fastdistill_ray.cluster.metrics import show
from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.cluster.queues import actor_pool
from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.asking import unbundle
from fastdistill_ray.generation.completions import Asked, completions, start_dispenser
from fastdistill_ray.generation.dispenser import Status
from fastdistill_ray.groups.aside import note_aside
from fastdistill_ray.groups.log import Commit
from fastdistill_ray.groups.store import STORE, Store
from fastdistill_ray.groups.watch import LOOK_SECONDS, Watch
from fastdistill_ray.progress import Progress

MakeRows = Callable[[pa.Table], pa.Table]  # requests with raw completions -> rows of a store
GATE_SECONDS = 0.1
FEWEST_ASIDE = 2  # requests that may be set aside, however few there are


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
        """What is raised is returned: Ray Data would drop the bundle."""
        lines: list[tuple[str, str, str]] = []
        try:
            lines += self._write(unbundle(batch))
        except UserError as error:
            lines.append(("", "", f"{UserError.__name__}: {error}"))
        except Exception:  # noqa: BLE001  of whatever kind
            lines.append(("", "", traceback.format_exc()))
        columns = zip(*lines, strict=True) if lines else ([], [], [])
        names = (STORE, "commit", "failure")
        return pa.table(
            {
                name: pa.array(column, pa.string())
                for name, column in zip(names, columns, strict=True)
            }
        )

    def _write(self, rows: pa.Table) -> Iterable[tuple[str, str, str]]:
        for name, store in self.stores.items():
            own = rows.filter(pc.equal(rows[STORE], name)) if len(self.stores) > 1 else rows
            for first in range(0, own.num_rows, self.rows_per_file):
                commit = store.write(self.make_rows(own.slice(first, self.rows_per_file)))
                yield name, json.dumps(commit._asdict()), ""


def ask(
    asked: list[Asked],
    start: Callable[[], MakeRows],
    stores: Mapping[str, Store],
    *,
    judges: PoolKnobs,
    rows_per_file: int,
    max_aside: float,
    stall_minutes: float,
    progress: Progress,
    note: Callable[[Commit], str],
    gate: Callable[[Any], None] | None = None,
) -> None:
    """Ask for all requests; each commit is logged as it arrives, then `note` is told of it.

    What `note` returns stands in the progress line; what it raises ends the loop. Requests that
    fail again and again are noted in their store and set aside, up to the share `max_aside`.
    UserError where that is exceeded or an engine cannot be kept alive, once the others are done.
    `gate` is called again and again with each dispenser, which it tells how far it may go.
    """
    asked = [one for one in asked if len(one.requests)]
    if not asked:
        return
    dispensers = [
        start_dispenser(one, max(FEWEST_ASIDE, round(max_aside * len(one.requests))))
        for one in asked
    ]
    first, *others = [
        completions(one, dispenser) for one, dispenser in zip(asked, dispensers, strict=True)
    ]
    dataset = (first.union(*others) if others else first).map_batches(
        RowWriter,
        fn_constructor_args=(start, dict(stores), rows_per_file),
        batch_size=1,
        batch_format="pyarrow",
        compute=actor_pool(judges, first.context),
        **judges.remote_args(),
    )
    folder = next(iter(stores.values())).folder
    watch = Watch(dispensers, progress.label, folder, stall_minutes)
    with repeated(watch.look, LOOK_SECONDS), opened(gate, dispensers):
        # No prefetching: what is committed would be logged once the next one is.
        batches = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        log_rows(cast(Iterable[pa.Table], batches), stores, progress, note)
    statuses: list[Status] = ray.get([one.status.remote() for one in dispensers])
    watch.show(statuses)
    for one, status in zip(asked, statuses, strict=True):
        note_aside(one.requests, status.aside, stores)
    for status in statuses:
        if status.crashed:
            raise RuntimeError(status.crashed)
    for status in statuses:
        if status.stopped:
            raise UserError(
                f"{status.stopped}; {progress.done} of {progress.total} are committed, start again "
                "to go on"
            )


@contextlib.contextmanager
def opened(gate: Callable[[Any], None] | None, dispensers: list[Any]) -> Iterator[None]:
    if gate is None:
        yield
        return

    def look() -> None:
        # The execution itself tells of Ray's errors; a folder that cannot be read is asked again.
        with contextlib.suppress(RayError, OSError):
            for dispenser in dispensers:
                gate(dispenser)

    look()  # before an actor can ask
    with repeated(look, GATE_SECONDS):
        yield


def log_rows(
    batches: Iterable[pa.Table],
    stores: Mapping[str, Store],
    progress: Progress,
    note: Callable[[Commit], str],
) -> None:
    """Log what RowWriters return, as it comes."""
    failure = ""
    for batch in batches:
        logged: dict[str, list[Commit]] = {}
        for row in batch.to_pylist():
            failure = failure or row["failure"]
            if row["commit"]:
                commit = Commit(**json.loads(row["commit"]))
                logged.setdefault(row[STORE], []).append(commit)
        for name, commits in logged.items():
            stores[name].append(commits)
            for commit in commits:
                progress.advance(len(commit.keys), commit.num_tokens, note(commit))
        show(
            progress.label,
            {
                "rows": progress.done,
                "rows_planned": progress.total,
                "tokens": progress.all_tokens,
            },
        )
    progress.end()
    if failure.startswith(f"{UserError.__name__}: "):
        raise UserError(failure.partition(": ")[2])
    if failure:
        raise RuntimeError(failure)
