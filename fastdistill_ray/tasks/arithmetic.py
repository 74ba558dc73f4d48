"""Short word problems: SVAMP (ChilleD/SVAMP, MIT), ASDiv (EleutherAI/asdiv, CC-BY-NC-4.0), MAWPS
(MU-NLPC/Calc-mawps, MIT) and, in Chinese, CMATH (weitianwen/cmath, CC-BY-4.0).
"""

import re

from fastdistill_ray.records import Kind, Problem
from fastdistill_ray.tasks.base import Problems
from fastdistill_ray.tasks.knobs import TaskKnobs
from fastdistill_ray.tasks.source import Hub, Row, load_table, plain_number, rounding

SVAMP = Hub(
    "ChilleD/SVAMP",
    {"train": ("train",), "test": ("test", "SVAMP")},
    optional=("train",),
    rows={"train": 700, "test": 300},
)
ASDIV = Hub("EleutherAI/asdiv", {"test": ("validation", "test", "ASDiv")}, rows={"test": 2305})
MAWPS = Hub(
    "MU-NLPC/Calc-mawps",
    {"train": ("train",), "validation": ("validation",), "test": ("test",)},
    optional=("train", "validation"),
    rows={"train": 1089, "validation": 1040, "test": 520},
)
CMATH = Hub(
    "weitianwen/cmath",
    {"validation": ("validation",), "test": ("test", "cmath_dev", "distractor")},
    optional=("validation",),
    rows={"validation": 600, "test": 1098},
)
FRACTION = re.compile(r"-?\(?\d+/\d+\)?")
UNIT = re.compile(r"\s*\([^()]*[^()\d/][^()]*\)$")


def load_svamp(knobs: TaskKnobs) -> Problems:
    return load_table(knobs, SVAMP, _parse_svamp)


def load_asdiv(knobs: TaskKnobs) -> Problems:
    return load_table(knobs, ASDIV, _parse_asdiv)


def load_mawps(knobs: TaskKnobs) -> Problems:
    return load_table(knobs, MAWPS, _parse_mawps)


def load_cmath(knobs: TaskKnobs) -> Problems:
    return load_table(knobs, CMATH, _parse_cmath)


def _parse_svamp(row: Row) -> Problem:
    question = _joined(row.text("Body"), row.text("Question"))
    return _problem("svamp", row, question, row.number("Answer"))


def _parse_asdiv(row: Row) -> Problem:
    """Answers end with their unit: "9 (apples)"; several are parted by semicolons."""
    question = _joined(row.text("body"), row.text("question"))
    answers = [UNIT.sub("", part).strip() for part in row.text("answer").split(";")]
    kinds: set[Kind] = {_kind(answer) for answer in answers}
    if len(answers) > 1 and kinds <= {"number", "math"}:
        return _problem("asdiv", row, question, ", ".join(answers), "list")
    return _problem("asdiv", row, question, "; ".join(answers), min(kinds, key=_looseness))


def _parse_mawps(row: Row) -> Problem:
    question, reference = row.text("question", "input"), row.number("target", "result_float")
    return _problem("mawps", row, question, reference)


def _parse_cmath(row: Row) -> Problem:
    question, reference = row.text("question", "input"), row.text("golden", "answer")
    return _problem("cmath", row, question, reference)


def _problem(task: str, row: Row, question: str, reference: str, kind: Kind = "number") -> Problem:
    return Problem(
        problem_id=f"{task}/{row.source}/{row.index:05d}",
        task=task,
        split="test",
        question=question,
        reference=reference,
        kind=kind,
        # 0.6666666667 stands for two thirds.
        tolerance=rounding(reference, places=6),
    )


def _joined(body: str, question: str) -> str:
    """A body without a full stop is the first half of the question's sentence."""
    return f"{body}{'' if body[-1] in '.!?,' else ','} {question}"


def _kind(answer: str) -> Kind:
    if plain_number(answer):
        return "number"
    return "math" if FRACTION.fullmatch(answer) else "text"


def _looseness(kind: Kind) -> int:
    return ("text", "math", "number").index(kind)
