"""Any dataset of the package reasoning-gym: `reasoning_gym:<dataset>`, such as chain_sum.

Item i of a dataset is drawn with its seed + i, so neighbouring seeds share nearly all items: each
split has a range of seeds of its own, and no question of an earlier split comes again. An item is
judged by its one reference answer, as a number or as the exact text: where many answers are right
(countdown, n_queens, polynomials), the others count as wrong.
"""

import re
from typing import Any

from fastdistill_ray.errors import UserError
from fastdistill_ray.records import Problem, Split
from fastdistill_ray.tasks.base import Problems, normalise
from fastdistill_ray.tasks.knobs import TaskKnobs

PREFIX = "reasoning_gym:"
SEEDS_PER_SPLIT = 10_000_000
ORDER: tuple[Split, ...] = ("test", "validation", "train")
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")
TRIES = 20  # items drawn per problem wanted


def load(knobs: TaskKnobs) -> Problems:
    """Test is drawn first, so that more train problems change no other split."""
    if knobs.path:
        raise UserError(f"task.path: {knobs.name} is made, not read; leave it empty")
    if unset := [name for name in ("num_train", "num_test") if getattr(knobs, name) is None]:
        raise UserError(
            f"task.{unset[0]}: {knobs.name} makes as many problems as asked for; give "
            f"{', '.join(unset)}"
        )
    counts = {"test": knobs.num_test, "validation": knobs.num_validation, "train": knobs.num_train}
    used: set[str] = set()
    made: Problems = {"train": [], "validation": [], "test": [], "ood": []}
    for place, split in enumerate(ORDER):
        first_seed = (knobs.seed * len(ORDER) + place) * SEEDS_PER_SPLIT
        made[split] = _draw(knobs, split, counts[split] or 0, first_seed, used)
    return made


def _draw(
    knobs: TaskKnobs, split: Split, count: int, first_seed: int, used: set[str]
) -> list[Problem]:
    """Adds the questions to `used` and repeats none of them."""
    name = knobs.name.removeprefix(PREFIX)
    items = _items(name, knobs.settings, min(TRIES * count + 100, SEEDS_PER_SPLIT), first_seed)
    problems: list[Problem] = []
    for index in range(len(items)):
        if len(problems) == count:
            return problems
        item = items[index]
        question, answer = item["question"].strip(), item["answer"]
        if normalise(question) in used or not str(answer or "").strip():
            continue
        used.add(normalise(question))
        problems.append(
            Problem(
                problem_id=f"{PREFIX}{name}/{first_seed + index}",
                task=knobs.name,
                split=split,
                question=question,
                reference=str(answer).strip(),
                kind="number" if NUMBER.fullmatch(str(answer).strip()) else "text",
            )
        )
    if len(problems) == count:
        return problems
    raise UserError(
        f"task.num_{split}: {knobs.name} gave only {len(problems)} of {count} different problems "
        f"with a reference answer in {len(items)} items; ask for fewer, or widen task.settings"
    )


def _items(name: str, settings: dict[str, Any], size: int, seed: int) -> Any:
    try:
        import reasoning_gym  # noqa: PLC0415  takes seconds; no other task needs it
    except ImportError as error:
        raise UserError(
            f"task.name {PREFIX}{name}: needs a package, pip install '.[gym]'"
        ) from error
    try:
        return reasoning_gym.create_dataset(name, size=size, seed=seed, **settings)
    except (ValueError, TypeError, AssertionError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"task.name {PREFIX}{name}: reasoning-gym says: {message}") from error
