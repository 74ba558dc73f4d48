"""OlympiadBench (Hothan/OlympiadBench, MIT): open-ended English competition problems in text."""

from fastdistill_ray.errors import UserError
from fastdistill_ray.records import Problem
from fastdistill_ray.tasks.base import Problems
from fastdistill_ray.tasks.knobs import TaskKnobs
from fastdistill_ray.tasks.source import Hub, Row, load_table

HUB = Hub(
    "Hothan/OlympiadBench",
    {"test": ("train", "test")},
    config="OE_TO_maths_en_COMP",
    rows={"test": 674},
)


def load(knobs: TaskKnobs) -> Problems:
    return load_table(knobs, HUB, _parse)


def _parse(row: Row) -> Problem:
    answers = row.value("final_answer")
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) for a in answers):
        raise UserError(f"{row.where}: final_answer must be a list of texts, is {answers!r}")
    is_list = bool(row.fields.get("is_multiple_answer")) or len(answers) > 1
    context = (row.fields.get("context") or "").strip()
    return Problem(
        problem_id=f"olympiadbench/{row.source}/{row.index:05d}",
        task="olympiadbench",
        split="test",
        question="\n".join(filter(None, [context, row.text("question")])),
        reference=", ".join(answer.strip() for answer in answers),
        kind="list" if is_list else "math",
        tolerance=_tolerance(row),
    )


def _tolerance(row: Row) -> float | None:
    """The column `error`: how far off the answer may be, absolute."""
    error = row.fields.get("error")
    if error in (None, ""):
        return None
    try:
        return float(error)
    except (TypeError, ValueError) as problem:
        raise UserError(f"{row.where}: error must be a number, is {error!r}") from problem
