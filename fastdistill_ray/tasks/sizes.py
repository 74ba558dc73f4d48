"""How many problems a task has, so that a plan needs no download."""

from fastdistill_ray.records import Split
from fastdistill_ray.tasks import TaskKnobs, load_problems, resolve

# Of datasets on the hub, so that a plan needs no download.
HUB_ROWS: dict[str, dict[Split, int]] = {
    "gsm8k": {"train": 7473, "test": 1319},
    "gsm_plus": {"test": 2400},
    "open_s1": {"train": 18615},
    "open_rs": {"train": 7000},
    "mmlu_pro": {"train": 12032},
    "math": {"train": 7500, "test": 5000},
    "math500": {"test": 500},
    "aime24": {"test": 30},
    "amc23": {"test": 40},
    "minerva": {"test": 272},
    "olympiadbench": {"test": 674},
    "theoremqa": {"test": 747},
    "svamp": {"train": 700, "test": 300},
    "asdiv": {"test": 2305},
    "mawps": {"train": 1089, "validation": 1040, "test": 520},
    "cmath": {"validation": 600, "test": 1098},
    "aqua": {"train": 97467, "validation": 254, "test": 254},
    # 70, 10 and 20 % of the 133,815 problems of arXiv 2210.17517.
    "lila": {"train": 93670, "validation": 13382, "test": 26763},
}


def count_problems(knobs: TaskKnobs) -> dict[Split, int]:
    """Problems per split; of a hub dataset as its card says, before duplicates leave."""
    known = {knobs.name: knobs.path, **({knobs.ood.name: knobs.ood.path} if knobs.ood else {})}
    if any(path or name not in HUB_ROWS for name, path in known.items()):
        return {split: len(problems) for split, problems in load_problems(knobs).items()}
    counts = _divided(HUB_ROWS[knobs.name], resolve(knobs))
    if knobs.ood:
        other = resolve(TaskKnobs(name=knobs.ood.name))
        counts["ood"] = _at_most(_divided(HUB_ROWS[other.name], other)["test"], knobs.num_ood)
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
