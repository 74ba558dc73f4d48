"""How long what is not done yet would take, by what work of its kind in the run took."""

import itertools
import json
import statistics
from collections.abc import Collection, Sequence
from typing import NamedTuple

from fastdistill_ray.cluster.pools import PoolsKnobs
from fastdistill_ray.groups.log import LOG
from fastdistill_ray.groups.store import Store
from fastdistill_ray.progress import amount, duration
from fastdistill_ray.run.graph import Made, made
from fastdistill_ray.run_files import MANIFEST, METRICS, SECONDS, read_json
from fastdistill_ray.storage.place import Place

ENOUGH = 0.1  # of a stage: before that its pace is that of engines and workers that start


class Spent(NamedTuple):
    seconds: float
    gpu_hours: float
    cpu_hours: float


class Line(NamedTuple):
    """A stage of a plan. Of one that is not done, the seconds that it still takes, and of a new one
    what it costs, where work in the run says it."""

    name: str
    text: str
    is_done: bool = False
    is_begun: bool = False
    is_new: bool = False  # and costs something
    seconds: float | None = None
    spent: Spent | None = None
    folder: str = ""  # in the run, of one that is done or begun


class Work(NamedTuple):
    """What tells how long a stage takes: the work of its kind, `nearest` first, that depends on the
    same sections of a recipe, if they are given. A training in rounds also writes, and one with a
    teacher beside it asks: SFT's time says nothing of theirs."""

    kind: str
    sections: Collection[str] | None = None
    nearest: Made | None = None

    def done_in(self, run: Place, *, complete: bool) -> list[Made]:
        found = [one for one in made(run, self.kind) if one.is_complete is complete]
        if self.sections is not None:
            own = set(self.sections)
            found = [one for one in found if one.dependencies.get("sections", {}).keys() == own]
        return sorted(found, key=lambda one: one != self.nearest)


def expected(run: Place, work: Work, amount: int) -> Spent | None:
    """Of a stage with so many rows, or steps of a training; None where no complete work says
    it."""
    complete = work.done_in(run, complete=True)
    return next(filter(None, (_scaled(one, amount) for one in complete)), None)


def seconds_left(run: Place, work: Work, amount: int, done: int = 0) -> float | None:
    """Of a stage of which so much is done: at the pace of what is begun, which several stages of
    one kind share where they are worked on together, or of complete work; of a stage of which
    nothing is done the other way round."""
    by_others = expected(run, work, max(amount - done, 0))
    begun = [one.folder for one in work.done_in(run, complete=False)]
    all_done = sum(map(num_done, begun))
    if (by_others and not done) or all_done < max(ENOUGH * amount, 1):
        return by_others.seconds if by_others else None
    spent = sum(map(_spent_on, begun))
    return spent / all_done * max(amount - done, 0)


def num_done(folder: Place) -> int:
    """Rows, or steps of a training, of a stage that is begun."""
    if (folder / LOG).is_dir():
        return sum(len(commit.keys) for commit in Store(folder).commits())
    metrics = folder / METRICS
    return metrics.read_text().count("\n") if metrics.is_file() else 0


def words(spent: Spent | None, pools: PoolsKnobs) -> str:
    """`about 1:00 (0.50 CPU-hours)`; "" where it is not known."""
    if not spent:
        return ""
    hours = f"{spent.gpu_hours:.2f} GPU-hours" if spent.gpu_hours else ""
    hours = hours or f"{spent.cpu_hours:.2f} CPU-hours"
    money = spent.gpu_hours * pools.gpu_hour_price + spent.cpu_hours * pools.cpu_hour_price
    paid = f", {amount(money)} to pay" if money else ""
    return f"about {duration(spent.seconds)} ({hours}{paid})"


def total_of_new(lines: Sequence[Line], pools: PoolsKnobs) -> str:
    """What all new stages would take; "" where there is none."""
    new = [line for line in lines if line.is_new]
    known = [line.spent for line in new if line.spent]
    rest = len(new) - len(known)
    unknown = f"{rest} stages of a kind that this folder has not seen yet"
    if not new:
        return ""
    if not known:
        return f"hours not known: {unknown}"
    spent = Spent(*(sum(one[part] for one in known) for part in range(3)))
    return f"{words(spent, pools)}{f', and {unknown}' if rest else ''}"


def time_left(lines: Sequence[Line], together: Sequence[str] = ()) -> str:
    """`about 12:05` of all that is not done, `about 12:05 or more` where that of some of it is not
    known, "" where nothing is. Of the stages `together`, which run side by side, the longest
    counts."""
    open_ = [line for line in lines if not line.is_done]
    known = [line for line in open_ if line.seconds is not None]
    if not known:
        return ""
    apart = sum(line.seconds or 0.0 for line in known if line.name not in together)
    beside = max((line.seconds or 0.0 for line in known if line.name in together), default=0.0)
    more = "" if len(known) == len(open_) else " or more"
    return f"about {duration(apart + beside)}{more}"


def _scaled(one: Made, amount: int) -> Spent | None:
    manifest = read_json(one.folder / MANIFEST, {})
    if manifest.get("facts", {}).get("reused_completion_tokens"):
        return None  # what is taken along takes no time of a teacher's
    done = manifest.get("facts", {}).get("planned_steps") or manifest.get("rows_in")
    if not done:
        return None
    seconds = manifest["seconds"]
    working = min(_working(one.folder) or seconds, seconds)  # the rest is start and end
    share = (seconds - working + working * amount / done) / seconds if seconds else 0.0
    return Spent(*(manifest[name] * share for name in ("seconds", "gpu_hours", "cpu_hours")))


def _spent_on(begun: Place) -> float:
    """Seconds of a stage that is begun in which its steps were made or its rows came, as far as
    that is known: what starts and stops took is no pace."""
    known = _working(begun)
    if not known and (begun / LOG).is_dir():
        times = sorted(time for one in Store(begun).commits() for _, time in one.arrivals)
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        most = 10 * statistics.median(gaps) if gaps else 0.0
        known = sum(min(gap, most) for gap in gaps)
    return known if known > 1.0 else read_json(begun / SECONDS, {"seconds": 0.0})["seconds"]


def _working(training: Place) -> float:
    """Seconds of the steps of a training; 0 of another stage."""
    metrics = training / METRICS
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    return sum(json.loads(line).get("time/step", 0.0) for line in lines)
