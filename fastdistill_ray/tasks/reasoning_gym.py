"""Any dataset of the package reasoning-gym: `reasoning_gym:<dataset>`, such as chain_sum.

Item i of a dataset is drawn with its seed + i, so neighbouring seeds share nearly all items: each
split has a range of seeds of its own, and no question of an earlier split comes again. An item is
judged as the dataset itself judges it: a number as a number where nothing else is right, all others
by its own `score_answer`. Datasets of which that cannot be said are in `REFUSED`.
"""

import json
import re
from typing import Any

from fastdistill_ray.errors import UserError
from fastdistill_ray.records import Kind, Problem, Split
from fastdistill_ray.tasks.base import Problems, normalise
from fastdistill_ray.tasks.knobs import TaskKnobs

PREFIX = "reasoning_gym:"
SEEDS_PER_SPLIT = 10_000_000
ORDER: tuple[Split, ...] = ("test", "validation", "train")
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")
TRIES = 20  # items drawn per problem wanted
_NUMBERS = """
aiw base_conversion basic_arithmetic binary_alternation chain_sum circuit_logic count_bits
count_primes decimal_chain_sum gcd gsm_symbolic largest_island lcm leg_counting letter_counting maze
number_sequence products rectangle_count rotten_oranges self_reference simple_equations
simple_geometry
"""
# Their scorers take the one number that is the answer, some of them also wrong ones beside it.
NUMBERS = frozenset(_NUMBERS.split())
# Their scorers run an answer that is not equal to the right one as code, for a part of the score.
COMPARED = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
_CODE = "its scorer runs the answer as code"
_NO_ANSWER = "its items have no reference answer"
REFUSED = {
    "boxnet": _NO_ANSWER,
    "codeio": "its items differ from process to process and are made by running code",
    "coin_flip": "its scorer takes the first digits of the right number for right",
    "complex_arithmetic": "its scorer takes NaN for right",
    "composite": "it is a mixture; make a run of each of its datasets",
    "game_of_life_halting": "its scorer takes any answer for right",
    "graph_color": _NO_ANSWER,
    "intermediate_integration": _CODE,
    "list_functions": "its items differ from process to process",
    "number_sorting": "its scorer takes numbers for right that are off by one, or NaN",
    "polynomial_multiplication": _CODE,
    "propositional_logic": _NO_ANSWER,
    "puzzle24": "its scorer takes any four numbers for right that make 24, and runs them as code",
    "rubiks_cube": _NO_ANSWER,
    "rush_hour": _NO_ANSWER,
    "simple_integration": _CODE,
}


def load(knobs: TaskKnobs) -> Problems:
    """Test is drawn first, so that more train problems change no other split."""
    if knobs.path:
        raise UserError(f"task.path: {knobs.name} is made, not read; leave it empty")
    name = knobs.name.removeprefix(PREFIX)
    if name in REFUSED:
        raise UserError(f"task.name: {knobs.name} cannot be judged: {REFUSED[name]}")
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
        question, answer = item["question"].strip(), str(item["answer"] or "").strip()
        if normalise(question) in used or not answer:
            continue
        kind, scorer = _judged_by(name, knobs.settings, item)
        # An answer is read without the white space around it. Where that is part of it, none is
        # right.
        if kind == "scored" and name not in COMPARED and items.score_answer(answer, item) != 1:
            continue
        used.add(normalise(question))
        problems.append(
            Problem(
                problem_id=f"{PREFIX}{name}/{first_seed + index}",
                task=knobs.name,
                split=split,
                question=question,
                reference=answer,
                kind=kind,
                scorer=scorer,
            )
        )
    if len(problems) == count:
        return problems
    raise UserError(
        f"task.num_{split}: {knobs.name} gave only {len(problems)} of {count} different problems "
        f"with a reference answer in {len(items)} items; ask for fewer, or widen task.settings"
    )


def _judged_by(name: str, settings: dict[str, Any], item: dict[str, Any]) -> tuple[Kind, str]:
    """The kind of an item's answer and, of kind scored, the scorer of `verifiers/scored.py`.

    The item is kept as it was drawn: of some datasets another process draws others.
    """
    answer = str(item["answer"]).strip()
    if name in NUMBERS and NUMBER.fullmatch(answer):
        return "number", ""
    if name in COMPARED:
        accepted = item["metadata"].get("valid_answers", [answer])
        return "scored", json.dumps({"accepted": accepted})
    entry = {"answer": item["answer"], "metadata": item["metadata"]}
    return "scored", json.dumps({"dataset": name, "settings": settings, "entry": entry})


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
