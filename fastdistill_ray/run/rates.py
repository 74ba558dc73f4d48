"""How long stages that are not there yet would take, by what work of their kind in the run took."""

from typing import NamedTuple

from fastdistill_ray.progress import duration
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.run.graph import Made, made
from fastdistill_ray.run_files import MANIFEST, read_json
from fastdistill_ray.storage.place import Place


class Spent(NamedTuple):
    seconds: float
    gpu_hours: float
    cpu_hours: float


class Rates:
    """Of a recipe in a run folder; sums what was asked for."""

    def __init__(self, recipe: Recipe, run: Place) -> None:
        self._pools, self._run = recipe.pools, run
        self._all: list[Spent | None] = []

    def expected(self, kind: str, amount: int, near: Made | None = None) -> str:
        """In words, of a stage of this kind with so many rows, or steps of a training; "" where no
        complete work says it. `near` is asked first."""
        complete = [one for one in made(self._run, kind) if one.is_complete]
        if near and near.is_complete:
            complete.insert(0, near)
        found = next(filter(None, (_scaled(one, amount) for one in complete)), None)
        self._all.append(found)
        return f"about {self._words(found)}" if found else ""

    def total(self) -> str:
        """Of all that were asked for; "" where that is none."""
        known = [one for one in self._all if one]
        if not self._all:
            return ""
        rest = len(self._all) - len(known)
        unknown = f"{rest} stages of a kind that this folder has not seen yet"
        if not known:
            return f"hours not known: {unknown}"
        spent = Spent(*(sum(one[part] for one in known) for part in range(3)))
        return f"about {self._words(spent)}{f', and {unknown}' if rest else ''}"

    def _words(self, spent: Spent) -> str:
        hours = f"{spent.gpu_hours:.2f} GPU-hours" if spent.gpu_hours else ""
        hours = hours or f"{spent.cpu_hours:.2f} CPU-hours"
        money = spent.gpu_hours * self._pools.gpu_hour_price
        money += spent.cpu_hours * self._pools.cpu_hour_price
        return f"{duration(spent.seconds)} ({hours}{f', {money:,.2f} to pay' if money else ''})"


def _scaled(one: Made, amount: int) -> Spent | None:
    manifest = read_json(one.folder / MANIFEST, {})
    done = manifest.get("facts", {}).get("planned_steps") or manifest.get("rows_in")
    if not done:
        return None
    share = amount / done
    return Spent(*(manifest[name] * share for name in ("seconds", "gpu_hours", "cpu_hours")))
