"""How many problems a task has, so that a plan needs no download."""

from fastdistill_ray.records import Split
from fastdistill_ray.tasks import TaskKnobs, decontaminated, hub_of, load_problems, resolve


def count_problems(knobs: TaskKnobs) -> dict[Split, int]:
    """Problems per split; of a hub dataset as its card says, before duplicates and overlaps
    leave."""
    own, ood = hub_of(knobs.name), hub_of(knobs.ood.name) if knobs.ood else None
    paths = [knobs.path, knobs.ood.path if knobs.ood else ""]
    if not own or (knobs.ood and not ood) or any(paths):
        loaded = decontaminated(load_problems(knobs), knobs)
        return {split: len(problems) for split, problems in loaded.items()}
    counts = _divided(own.rows, resolve(knobs))
    if knobs.ood and ood:
        other = resolve(TaskKnobs(name=knobs.ood.name))
        counts["ood"] = _at_most(_divided(ood.rows, other)["test"], knobs.num_ood)
    return counts


def _divided(rows: dict[Split, int], knobs: TaskKnobs) -> dict[Split, int]:
    """As tasks.base.divide does it: what the source lacks is held out of train."""
    test = _at_most(rows["test"], knobs.num_test) if "test" in rows else knobs.num_test or 0
    validation = knobs.num_validation
    train = rows.get("train", 0)
    train -= sum(n for n, has in ((test, "test"), (validation, "validation")) if has not in rows)
    train = _at_most(max(train, 0), knobs.num_train)
    return {"train": train, "validation": validation, "test": test, "ood": 0}


def _at_most(there: int, wanted: int | None) -> int:
    return there if wanted is None else min(there, wanted)
