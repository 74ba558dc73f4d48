"""GSM8K (openai/gsm8k, MIT): grade-school word problems whose answer is a number.

GSM-Plus (qintongli/GSM-Plus, CC-BY-SA-4.0; its testmini of 2,400) perturbs 300 of GSM8K's test
questions in eight ways, one of which makes them unanswerable: the reference is then None.
"""

import re

from fastdistill_ray.errors import UserError
from fastdistill_ray.records import Problem
from fastdistill_ray.tasks.base import Problems, normalise
from fastdistill_ray.tasks.knobs import TaskKnobs
from fastdistill_ray.tasks.source import Hub, Row, load_table, read_table, rounding, slug

GSM8K = Hub(
    "openai/gsm8k",
    {"train": ("train",), "test": ("test",)},
    config="main",
    rows={"train": 7473, "test": 1319},
)
GSM_PLUS = Hub(
    "qintongli/GSM-Plus", {"test": ("testmini", "gsmplus_testmini")}, rows={"test": 2400}
)
NUMBER = re.compile(r"-?\d+(\.\d+)?")


def load_gsm8k(knobs: TaskKnobs) -> Problems:
    """Validation is held out of train, and so is test where the path is one file."""
    return load_table(knobs, GSM8K, _parse)


def load_gsm_plus(knobs: TaskKnobs) -> Problems:
    return load_table(knobs, GSM_PLUS, _parse_perturbed)


def seed_questions(knobs: TaskKnobs) -> set[str]:
    """The questions that GSM-Plus was made from: a student that knew them would be tested on what
    it was trained on."""
    return {problem.question for problem in read_table(knobs, GSM_PLUS, _parse_seed)["test"]}


def reference_of(solution: str, where: str) -> str:
    """The number after the one `####`, without thousands commas."""
    parts = solution.split("####")
    reference = parts[-1].strip().replace(",", "")
    if len(parts) != 2 or not NUMBER.fullmatch(reference):
        raise UserError(f"{where}: answer must end with '#### ' and a number")
    return reference


def _parse(row: Row) -> Problem:
    return Problem(
        problem_id=f"gsm8k/{row.source}/{row.index:05d}",
        task="gsm8k",
        split="train",
        question=row.text("question"),
        reference=reference_of(row.text("answer"), row.where),
        kind="number",
    )


def _parse_perturbed(row: Row) -> Problem:
    """Decimals are rounded: 4.33 stands for 26 / 6. Variants of one question are a cluster."""
    return Problem(
        problem_id=f"gsm_plus/{slug(row.text('perturbation_type'))}/{row.index:05d}",
        task="gsm_plus",
        split="test",
        question=row.text("question"),
        reference=row.text("answer"),
        kind="number",
        tolerance=rounding(row.text("answer"), places=2),
        cluster=normalise(row.text("seed_question")),
    )


def _parse_seed(row: Row) -> Problem:
    return Problem(str(row.index), "gsm_plus", "test", row.text("seed_question"), "-", "number")
