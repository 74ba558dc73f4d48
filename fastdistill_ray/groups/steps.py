"""Which groups make up each training step; the same on every rank and after every restart."""

import hashlib
import time
from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fastdistill_ray.groups.shares import Shares
from fastdistill_ray.groups.signals import SHORT_IDS, Signal, Spoken, schema_of, to_table
from fastdistill_ray.groups.store import (
    POLL_SECONDS,
    ROWS_PER_ROW_GROUP,
    Location,
    LogFollower,
    Store,
    raise_if_failed,
    wait_until_complete,
)
from fastdistill_ray.records import SIGNALS
from fastdistill_ray.storage.tables import open_parquet

CACHED_ROW_GROUPS = 64

INDEX_ROWS = 1024
DRAWN = Signal("drawn")


class StoredSignals(NamedTuple):
    """A store of signals of the groups, and what they are."""

    folder: str
    signal: Signal


class Rounds(NamedTuple):
    """Of a training whose student writes what it is trained on."""

    num_steps: int
    num_own: int  # groups of a step that it wrote, in arrival order
    mixed: str  # the complete store of the others
    num_mixed: int  # groups of a step from there
    is_logged: bool  # with the log-probabilities with which its tokens were drawn
    shares: Shares | None = None  # where they say what a step is made of, in place of both numbers


class StepPlan(NamedTuple):
    """Which groups make up each step; the same on every rank and after every restart."""

    folder: str
    groups_per_step: int
    epochs: int
    max_steps: int | None
    seed: int
    follow: bool  # epoch 0 in arrival order, while the store may still grow
    held_out: float = 0.0  # share of the kept groups that no step trains; a complete store's
    signals: StoredSignals | None = None  # groups without any are not trained
    rounds: Rounds | None = None  # one epoch, of as many steps

    @property
    def signal(self) -> Signal | None:
        """What each group comes with."""
        if self.rounds and self.rounds.is_logged:
            return DRAWN
        return self.signals.signal if self.signals else None


def num_trained(plan: StepPlan) -> int:
    """Groups of a complete store that steps or held-out values are made of."""
    store = Store(plan.folder)
    return usable(read_index(store), plan).num_rows if plan.signals else store.num_kept()


def num_steps(plan: StepPlan, num_groups: int) -> int:
    """Steps of the whole plan over `num_groups` kept groups; a short last step counts."""
    trained = num_groups - num_held_out(plan.held_out, num_groups)
    steps = plan.epochs * -(-trained // plan.groups_per_step)
    return min(steps, plan.max_steps) if plan.max_steps else steps


class Step(NamedTuple):
    step: int
    epoch: int
    ends_epoch: bool
    locations: list[Location]
    mixed: list[Location] = []  # of another store

    @property
    def all_locations(self) -> list[Location]:
        return [*self.locations, *self.mixed]


def steps(plan: StepPlan, first: int = 0) -> Iterator[Step]:
    """The steps from `first` on, in order; waits for groups that are still being written."""
    store, index = Store(plan.folder), None
    if plan.rounds:
        yield from _steps_of_rounds(plan, plan.rounds, first)
        return
    step = 0
    for epoch in range(plan.epochs):
        if plan.follow and epoch == 0:
            groups = _arriving(store)
        else:
            index = _trained(store, plan) if index is None else index
            in_epoch = -(-index.num_rows // plan.groups_per_step)
            skipped = min(max(0, first - step), in_epoch)
            groups = _shuffled(index, plan, epoch, skipped * plan.groups_per_step)
            step += skipped
        for chunk, ends_epoch in _chunks(groups, plan.groups_per_step):
            if step == plan.max_steps:
                return
            if step >= first:
                yield Step(step, epoch, ends_epoch, chunk)
            step += 1
        if step == plan.max_steps:
            return


def rank_rows(
    plan: StepPlan, rank: int, world_size: int, first: int = 0
) -> Iterator[dict[str, Any]]:
    """One row per step from `first` on, with the groups that this rank reads of it, at positions
    rank, rank + world_size, ..., and with tables of their signals where the plan has any. Who
    trains them is decided once their tokens are known (training/dealing.py)."""
    reader = RowReader(Store(plan.folder))
    mixed = RowReader(Store(plan.rounds.mixed)) if plan.rounds and plan.rounds.mixed else reader
    signals_of = _signals_of(plan, reader.store)
    for step in steps(plan, first):
        placed = [(reader, one) for one in step.locations] + [(mixed, one) for one in step.mixed]
        own = placed[rank::world_size]
        row = {"signals": [signals_of(one) for _, one in own]} if signals_of else {}
        yield row | {
            "step": step.step,
            "epoch": step.epoch,
            "ends_epoch": step.ends_epoch,
            "num_groups": len(placed),
            "groups": [its.read(location) for its, location in own],
            "group_ids": [location.key for location in step.all_locations],
        }


def _steps_of_rounds(plan: StepPlan, rounds: Rounds, first: int) -> Iterator[Step]:
    """A step is handed out once its groups are there: the next one's wait for it."""
    if rounds.shares:
        yield from _steps_by_shares(plan, rounds, rounds.shares, first)
        return
    own = _arriving(Store(plan.folder))
    others = _mixed(plan, rounds) if rounds.num_mixed else iter(())
    for step in range(rounds.num_steps):
        chunk = list(islice(own, rounds.num_own))
        mixed = list(islice(others, rounds.num_mixed))
        if len(chunk) < rounds.num_own:  # nothing follows: some were set aside
            if chunk and step >= first:
                yield Step(step, 0, True, chunk, mixed)
            return
        if step >= first:
            yield Step(step, 0, step + 1 == rounds.num_steps, chunk, mixed)


def _steps_by_shares(plan: StepPlan, rounds: Rounds, shares: Shares, first: int) -> Iterator[Step]:
    """As above, each once it is known how many of its groups the student is to write."""
    store = Store(plan.folder)
    own, others = _arriving(store), _mixed(plan, rounds)
    earlier: list[Location] = []
    share: float | None = None
    for step in range(rounds.num_steps):
        number, place = divmod(step, shares.steps_per_round)
        while place == 0 and (share := shares.of(number)) is None:
            raise_if_failed(store)
            time.sleep(POLL_SECONDS)
        assert share is not None
        wanted = Counter(shares.sources(step, share, has_earlier=bool(earlier)))
        new = list(islice(own, wanted["new"]))
        again = [earlier[i] for i in shares.earlier(step, len(earlier), wanted["earlier"])]
        mixed = list(islice(others, wanted["teacher"]))
        earlier += new
        if step >= first:
            yield Step(step, 0, step + 1 == rounds.num_steps, [*new, *again], mixed)


def _mixed(plan: StepPlan, rounds: Rounds) -> Iterator[Location]:
    """The groups of the other store, again and again, each pass in an order of its own."""
    index = _trained(Store(rounds.mixed), plan)
    for number in count():
        yield from _shuffled(index, plan, number, 0)


def _arriving(store: Store) -> Iterator[Location]:
    follower = LogFollower(store)
    while True:
        is_complete = store.is_complete()  # asked before reading: nothing is logged after it
        before = follower.given
        yield from follower.new()
        if is_complete:
            return
        raise_if_failed(store)
        if follower.given == before:
            time.sleep(POLL_SECONDS)


def _trained(store: Store, plan: StepPlan) -> pa.Table:
    """The index of a complete store without its held-out groups."""
    wait_until_complete(store)
    index = usable(read_index(store), plan)
    return index.filter(pc.invert(held_out(index["key"], plan.held_out, plan.seed)))


def usable(index: pa.Table, plan: StepPlan) -> pa.Table:
    """The groups of an index that can be trained: all, or those that have signals."""
    if plan.signals is None:
        return index
    wait_until_complete(signals := Store(plan.signals.folder))
    return index.filter(pc.is_in(index["key"], pa.array(list(signals.keys()), pa.string())))


def _shuffled(index: pa.Table, plan: StepPlan, epoch: int, first: int) -> Iterator[Location]:
    order = np.random.default_rng([plan.seed, epoch]).permutation(index.num_rows)[first:]
    for start in range(0, len(order), INDEX_ROWS):
        for row in index.take(order[start : start + INDEX_ROWS]).to_pylist():
            yield Location(**row)


def read_index(store: Store) -> pa.Table:
    """Where each kept row is, in order of the keys; columns as in Location, about 40 bytes each."""
    names = Strings()
    keys = Strings()
    files, rows = array("i"), array("i")
    for number, commit in enumerate(store.commits()):
        names.append(commit.file)
        for row, dropped in enumerate(commit.dropped):
            if not dropped:
                keys.append(commit.keys[row])
                files.append(number)
                rows.append(row)
    file = pa.DictionaryArray.from_arrays(pa.array(np.asarray(files)), names.array())
    index = pa.table({"key": keys.array(), "file": file, "row": np.asarray(rows)})
    return index.take(pc.sort_indices(index["key"]))


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


class RowReader:
    """Single rows of many files, the last used row groups kept in memory."""

    def __init__(self, store: Store, left_out: Collection[str] = frozenset(dict(SIGNALS))) -> None:
        """`left_out`: columns that are many; whoever trains on them reads them as arrays."""
        self.store, self.left_out = store, left_out
        self.row_groups: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()
        self.moved: dict[str, tuple[str, int]] = {}

    def read(self, location: Location) -> dict[str, Any]:
        return self.table(location).to_pylist()[0]

    def table(self, location: Location) -> pa.Table:
        """Of one row."""
        name, start = self.moved.get(location.file, (location.file, 0))
        try:
            table, row = self._row_group(name, start + location.row)
        except FileNotFoundError:
            # Merged into a larger file since the location was read from the log.
            self.moved = self.store.moved()
            if location.file not in self.moved:
                raise
            name, start = self.moved[location.file]
            table, row = self._row_group(name, start + location.row)
        return table.slice(row, 1)

    def _row_group(self, name: str, row: int) -> tuple[pa.Table, int]:
        """The row group that holds a row of a file, and the row's place in it."""
        number, place = divmod(row, ROWS_PER_ROW_GROUP)
        at = (name, number)
        if at not in self.row_groups:
            with open_parquet(self.store.folder / name) as file:
                names = [name for name in file.schema_arrow.names if name not in self.left_out]
                self.row_groups[at] = file.read_row_group(number, columns=names)
            if len(self.row_groups) > CACHED_ROW_GROUPS:
                self.row_groups.popitem(last=False)
        self.row_groups.move_to_end(at)
        return self.row_groups[at], place


def _signals_of(plan: StepPlan, store: Store) -> Callable[[Location], pa.Table] | None:
    """Gives a table of one row, where each group comes with signals."""
    if plan.signal == DRAWN:
        reader = RowReader(store, ())
        return lambda location: drawn_signals(reader.table(location), location.key)
    if plan.signals:
        stored = SignalReader(plan.signals)
        return lambda location: stored.read(location.key)
    return None


def drawn_signals(row: pa.Table, key: str) -> pa.Table:
    """The log-probabilities with which the tokens of a group were drawn, noted in its row."""
    lengths = pc.list_flatten(row["completions"])
    numbers = pc.struct_field(lengths, "num_tokens").to_pylist()
    arrays = [row[name].combine_chunks().flatten().to_numpy() for name, _ in SIGNALS]
    ids, values = (array.reshape(sum(numbers), -1)[:, 0] for array in arrays)
    spoken = Spoken(
        problem_id=key,
        places=range(len(numbers)),
        token_ids=[part.tolist() for part in np.split(ids, np.cumsum(numbers)[:-1])],
        prompt_num_tokens=row["prompt_num_tokens"][0].as_py(),
        arrays={"values": values},
    )
    return to_table([spoken], schema_of(DRAWN, SHORT_IDS))


class SignalReader:
    """Rows of a complete store of signals, by the keys of their groups."""

    def __init__(self, stored: StoredSignals) -> None:
        store = Store(stored.folder)
        self.reader = RowReader(store, ())
        self.index = read_index(store)
        self.rows = {key: row for row, key in enumerate(self.index["key"].to_pylist())}

    def read(self, key: str) -> pa.Table:
        """Of one row."""
        row = self.rows[key]
        return self.reader.table(Location(**self.index.slice(row, 1).to_pylist()[0]))


def num_held_out(share: float, num_groups: int) -> int:
    """At least one where a share is asked for and one is left to train."""
    if share == 0 or num_groups < 2:
        return 0
    return max(1, round(share * num_groups))


def held_out(keys: pa.ChunkedArray, share: float, seed: int) -> pa.Array:
    """A mask over the keys; a hash of seed and key decides, whatever their order."""
    mask = np.zeros(len(keys), dtype=bool)
    if number := num_held_out(share, len(keys)):
        texts = (f"{seed}/{key}".encode() for key in keys.to_pylist())
        draws = [hashlib.sha256(text).digest() for text in texts]
        mask[sorted(range(len(draws)), key=lambda row: draws[row])[:number]] = True
    return pa.array(mask)


STRINGS_AT_ONCE = 65_536


class Strings:
    def __init__(self) -> None:
        self.chunks: list[pa.Array] = []
        self.last: list[str] = []

    def append(self, text: str) -> None:
        self.last.append(text)
        if len(self.last) == STRINGS_AT_ONCE:
            self._flush()

    def array(self) -> pa.Array:
        self._flush()
        return pa.concat_arrays(self.chunks)

    def _flush(self) -> None:
        self.chunks.append(pa.array(self.last, pa.string()))
        self.last = []
