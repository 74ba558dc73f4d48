"""Seeded one- and two-step arithmetic word problems with whole, non-negative answers.

train, validation and test are of one distribution and share no question. ood perturbs it in three
equal parts, named in the problem_id: larger numbers, reworded sentences that train never uses, and
a distracting clause with a number that does not matter.
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fastdistill_ray.errors import UserError
from fastdistill_ray.records import Problem, Split
from fastdistill_ray.tasks.base import Problems, normalise
from fastdistill_ray.tasks.knobs import TaskKnobs

Range = tuple[int, int]


class Operation(NamedTuple):
    """Numbers are drawn from `small` (or `larger`) and turned into (operands, answer)."""

    share: int
    small: tuple[Range, ...]
    larger: tuple[Range, ...]
    solve: Callable[..., tuple[tuple[int, ...], int]]


# How hard the problems are is set here and nowhere else: shares and ranges of numbers.
OPERATIONS = {
    "add": Operation(10, ((2, 9), (1, 8)), ((12, 60), (12, 60)), lambda x, y: ((x, y), x + y)),
    "subtract": Operation(10, ((2, 6), (1, 4)), ((12, 60), (12, 40)), lambda x, y: ((x + y, y), x)),
    "multiply": Operation(1, ((2, 5), (2, 5)), ((6, 12), (7, 12)), lambda x, y: ((x, y), x * y)),
    "add_add": Operation(
        1,
        ((2, 5), (1, 3), (1, 3)),
        ((12, 40), (12, 40), (12, 40)),
        lambda x, y, z: ((x, y, z), x + y + z),
    ),
    "add_subtract": Operation(
        1,
        ((1, 5), (1, 4), (1, 3)),
        ((12, 40), (12, 40), (12, 40)),
        lambda x, y, z: ((x + z, y, z), x + y),
    ),
}
# Every text asks once, with "How many", in its last sentence.
TEMPLATES = {
    "add": [
        "{name} has {a} {things} and buys {b} more. How many {things} does {name} have now?",
        "{name} has {a} {things} and finds {b} more. How many {things} does {name} have now?",
    ],
    "subtract": [
        "{name} had {a} {things} and gave {b} of them away. "
        "How many {things} does {name} have left?",
        "{name} had {a} {things} and lost {b} of them. How many {things} does {name} have left?",
    ],
    "multiply": [
        "There are {a} boxes with {b} {things} in each box. How many {things} are there?",
        "There are {a} rows with {b} {things} in each row. How many {things} are there?",
    ],
    "add_add": [
        "{name} had {a} {things}, got {b} more and then found {c} more. "
        "How many {things} does {name} have now?",
    ],
    "add_subtract": [
        "{name} had {a} {things}, got {b} more and then lost {c} of them. "
        "How many {things} does {name} have now?",
    ],
}
REWORDED = {
    "add": [
        "A jar holds {a} {things}. After {name} drops in {b} others, what is the number of "
        "{things} in the jar?",
        "{name} counted {a} {things} and {other} counted {b} different ones. What do the two "
        "counts come to?",
    ],
    "subtract": [
        "Out of {a} {things}, {name} used up {b}. What number of {things} remains?",
        "{name} wants {a} {things} but owns only {b}. What number of {things} is missing?",
    ],
    "multiply": [
        "Each of {a} shelves carries {b} {things}. What is the number of {things} on the shelves "
        "altogether?",
    ],
    "add_add": [
        "{name} sold {a} {things} on Monday, {b} on Tuesday and {c} on Wednesday. What was the "
        "total for the three days?",
    ],
    "add_subtract": [
        "To {a} {things} on a cart, {name} adds {b}. Then {c} fall off. What number of {things} "
        "stays on the cart?",
    ],
}
DISTRACTIONS = [
    "{other} is {d} years old.",
    "The way home takes {d} minutes.",
    "There are {d} trees in the garden.",
    "{other} also saw {d} birds.",
]
DISTRACTING_RANGE = (2, 20)
# Tom, Mia and Sam, and pens, eggs, apples and marbles are left to worked examples in prompts, so
# that no example can be one of these problems.
NAMES = (
    "Anna Ben Carla Dan Ella Finn Grace Hugo Ivy Jack Kate Leo Maya Nora Oscar Paula Rosa Simon "
    "Tina Victor Wendy Zoe"
)
THINGS = (
    "books stickers cards coins stones shells buttons cookies candles pencils balls flowers toys "
    "stamps beads cups oranges nuts"
)
OOD_PARTS = ("larger", "reworded", "distracted")
MAX_REPEATS = 1000


def load(knobs: TaskKnobs) -> Problems:
    """A split depends on the seed and on the size of those made before it: test, ood,
    validation, train. So more train problems change no other split."""
    counts = {"num_train": knobs.num_train, "num_test": knobs.num_test, "num_ood": knobs.num_ood}
    if unset := [name for name, count in counts.items() if count is None]:
        raise UserError(
            f"task.{unset[0]}: word_problems makes as many problems as asked for; give "
            f"{', '.join(unset)}"
        )
    if knobs.path:
        raise UserError("task.path: word_problems are made, not read; leave it empty")
    used: set[str] = set()
    test = _make(knobs.num_test or 0, "test", "", knobs.seed, used)
    ood: list[Problem] = []
    for index, part in enumerate(OOD_PARTS):
        share = ((knobs.num_ood or 0) + len(OOD_PARTS) - 1 - index) // len(OOD_PARTS)
        ood += _make(share, "ood", part, knobs.seed, used)
    validation = _make(knobs.num_validation, "validation", "", knobs.seed, used)
    train = _make(knobs.num_train or 0, "train", "", knobs.seed, used)
    return {"train": train, "validation": validation, "test": test, "ood": ood}


def by_operation(
    operations: Sequence[str], num_train: int, num_test: int, seed: int
) -> dict[str, list[tuple[str, str]]]:
    """(question, its operation) of `train` and `test`, which share no question.

    Both have each operation equally often, but for a remainder, and within one the wording of
    `train` as often as each of the three parts of ood. UserError where there are too few.
    """
    used: set[str] = set()
    found: dict[str, list[tuple[str, str]]] = {}
    for split, count in (("test", num_test), ("train", num_train)):
        rng = random.Random(f"word_problems/{seed}/by_operation/{split}")
        made: list[tuple[str, str]] = []
        repeats = 0
        while len(made) < count:
            name = operations[len(made) % len(operations)]
            part = ("", *OOD_PARTS)[len(made) // len(operations) % (1 + len(OOD_PARTS))]
            question, _ = _write(rng, part, name)
            if normalise(question) in used:
                repeats += 1
                if repeats > MAX_REPEATS + count:
                    raise UserError(f"task.num_{split}: word_problems cannot make {count}")
                continue
            used.add(normalise(question))
            made.append((question, name))
        found[split] = made
    return found


def _make(count: int, split: Split, part: str, seed: int, used: set[str]) -> list[Problem]:
    """Adds the questions to `used` and repeats none of them."""
    rng = random.Random(f"word_problems/{seed}/{split}/{part}")
    problems: list[Problem] = []
    repeats = 0
    while len(problems) < count:
        question, answer = _draw(rng, part)
        if normalise(question) in used:
            repeats += 1
            if repeats > MAX_REPEATS + count:
                raise UserError(f"task.num_{split}: word_problems cannot make {count} different")
            continue
        used.add(normalise(question))
        digest = hashlib.sha1(question.encode()).hexdigest()[:12]
        problem = Problem(
            problem_id=f"word_problems/{split}/{part}/{digest}"
            if part
            else f"word_problems/{digest}",
            task="word_problems",
            split=split,
            question=question,
            reference=str(answer),
            kind="number",
        )
        problems.append(problem)
    return problems


def _draw(rng: random.Random, part: str) -> tuple[str, int]:
    names = list(OPERATIONS)
    name = rng.choices(names, [OPERATIONS[each].share for each in names])[0]
    return _write(rng, part, name)


def _write(rng: random.Random, part: str, name: str) -> tuple[str, int]:
    """(question, answer) of this operation."""
    operation = OPERATIONS[name]
    ranges = operation.larger if part == "larger" else operation.small
    operands, answer = operation.solve(*(rng.randint(low, high) for low, high in ranges))
    text = rng.choice((REWORDED if part == "reworded" else TEMPLATES)[name])
    if part == "distracted":
        text = text.replace("How many", f"{rng.choice(DISTRACTIONS)} How many", 1)
    person, other = rng.sample(NAMES.split(), 2)
    question = text.format(
        name=person,
        other=other,
        things=rng.choice(THINGS.split()),
        d=rng.randint(*DISTRACTING_RANGE),
        **dict(zip("abc", operands, strict=False)),
    )
    return question, answer
