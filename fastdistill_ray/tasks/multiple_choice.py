"""Multiple choice: MMLU-Pro (TIGER-Lab/MMLU-Pro, MIT) with up to ten options, and AQuA
(deepmind/aqua_rat, Apache-2.0) with five.

MMLU-Pro has no train split: the 2,284 of arXiv 2507.00054 are held out of its test split by seed.
"""

import re
import string

from fastdistill_ray.errors import UserError
from fastdistill_ray.records import Problem
from fastdistill_ray.tasks.base import Problems
from fastdistill_ray.tasks.knobs import TaskKnobs
from fastdistill_ray.tasks.source import Hub, Row, load_table, slug

MMLU_PRO = Hub("TIGER-Lab/MMLU-Pro", {"train": ("test",)}, rows={"train": 12032}, held_out=2284)
AQUA = Hub(
    "deepmind/aqua_rat",
    {"train": ("train",), "validation": ("validation", "dev"), "test": ("test",)},
    config="raw",
    optional=("train", "validation"),
    rows={"train": 97467, "validation": 254, "test": 254},
)
PADDING = "N/A"


def load_mmlu_pro(knobs: TaskKnobs) -> Problems:
    return load_table(knobs, MMLU_PRO, _parse_mmlu_pro)


def load_aqua(knobs: TaskKnobs) -> Problems:
    return load_table(knobs, AQUA, _parse_aqua)


def _parse_mmlu_pro(row: Row) -> Problem:
    options, letter = _options(row), row.text("answer")
    index = string.ascii_uppercase.find(letter)
    if len(letter) != 1 or not 0 <= index < len(options) or options[index] == PADDING:
        raise UserError(
            f"{row.where}: answer {letter!r} is no letter of its {len(options)} options"
        )
    # The hub pads questions with fewer than ten options.
    position = index - options[:index].count(PADDING)
    number = row.fields.get("question_id", row.index)
    return Problem(
        problem_id=f"mmlu_pro/{slug(row.text('category'))}/{number}",
        task="mmlu_pro",
        split="train",
        question=row.text("question"),
        reference=string.ascii_uppercase[position],
        kind="choice",
        options=[option for option in options if option != PADDING],
    )


def _parse_aqua(row: Row) -> Problem:
    """Its options begin with their letters: "A)21"."""
    options, letter = _options(row), row.text("correct")
    texts = [re.sub(r"^\s*[A-E]\s*\)", "", option).strip() for option in options]
    if letter not in string.ascii_uppercase[: len(options)]:
        raise UserError(
            f"{row.where}: correct {letter!r} is no letter of its {len(options)} options"
        )
    return Problem(
        problem_id=f"aqua/{row.source}/{row.index:05d}",
        task="aqua",
        split="train",
        question=row.text("question"),
        reference=letter,
        kind="choice",
        options=texts,
    )


def _options(row: Row) -> list[str]:
    options = row.value("options")
    if not isinstance(options, list) or not options or not all(isinstance(o, str) for o in options):
        raise UserError(f"{row.where}: options must be a list of texts, is {options!r}")
    return options
