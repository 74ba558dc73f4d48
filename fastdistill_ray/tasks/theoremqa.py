"""TheoremQA (TIGER-Lab/TheoremQA, MIT): university theorems; problems with pictures are left out.

The dataset's own evaluation lets a decimal be 4 % off.
"""

import math
from typing import NamedTuple

from fastdistill_ray.errors import UserError
from fastdistill_ray.records import Kind, Problem
from fastdistill_ray.tasks.base import Problems
from fastdistill_ray.tasks.knobs import TaskKnobs
from fastdistill_ray.tasks.source import Hub, Row, load_table, plain_number

HUB = Hub("TIGER-Lab/TheoremQA", {"test": ("test", "theoremqa_test")}, rows={"test": 747})
TOLERATED = 0.04
ASKED = {
    "integer": "Answer with a whole number.",
    "float": "Answer with a decimal number.",
    "list of integer": "Answer with a list of whole numbers.",
    "list of float": "Answer with a list of decimal numbers.",
    "option": "Answer with the letter of the option.",
    "bool": "Is this true or false?",
}


class Answer(NamedTuple):
    kind: Kind
    reference: str
    options: list[str] = []
    tolerance: float | None = None


def load(knobs: TaskKnobs) -> Problems:
    return load_table(knobs, HUB, _parse)


def _parse(row: Row) -> Problem | str:
    if row.fields.get("Picture"):
        return "it needs a picture"
    kind = row.text("Answer_type")
    if kind not in ASKED:
        raise UserError(f"{row.where}: Answer_type {kind!r} is not one of {', '.join(ASKED)}")
    answer = _answer(row, kind)
    return Problem(
        problem_id=f"theoremqa/{kind.replace(' ', '_')}/{row.index:05d}",
        task="theoremqa",
        split="test",
        question=f"{row.text('Question')}\n{ASKED[kind]}",
        reference=answer.reference,
        kind=answer.kind,
        options=answer.options,
        tolerance=answer.tolerance,
    )


def _answer(row: Row, kind: str) -> Answer:
    """The hub keeps answers as text, the repository as JSON of their type."""
    value = row.value("Answer")
    text = str(value).strip()
    if kind == "bool":
        if text not in ("True", "False"):
            raise UserError(f"{row.where}: Answer must be True or False, is {value!r}")
        return Answer("choice", "A" if text == "True" else "B", ["True", "False"])
    if kind == "option":
        return Answer("choice", text.strip("() ").upper())
    items = text.strip("[]").split(",") if kind.startswith("list") else [text]
    numbers = [plain_number(item) for item in items]
    if not all(numbers):
        raise UserError(f"{row.where}: Answer must be {kind}, is {value!r}")
    tolerance = None
    if kind.endswith("float"):
        smallest = min(abs(float(number)) for number in numbers)
        tolerance = TOLERATED * smallest if smallest > 0 and math.isfinite(smallest) else None
    if kind.startswith("list"):
        return Answer("list", f"[{', '.join(numbers)}]", tolerance=tolerance)
    return Answer("number", numbers[0], tolerance=tolerance)
