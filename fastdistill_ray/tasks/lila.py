"""Lila (allenai/lila, CC-BY-4.0): 23 tasks of mathematical reasoning, its split iid.

An answer is a number, a list or a text; rows without an answer are left out.
"""

from fastdistill_ray.records import Kind, Problem
from fastdistill_ray.tasks.base import Problems
from fastdistill_ray.tasks.knobs import TaskKnobs
from fastdistill_ray.tasks.source import Hub, Row, load_table, plain_number, rounding, slug

# The dataset's loading script no longer runs; its conversion to Parquet has a folder per config.
# Rows: 70, 10 and 20 % of the 133,815 problems of arXiv 2210.17517.
HUB = Hub(
    "allenai/lila",
    {"train": ("train",), "validation": ("validation", "dev"), "test": ("test",)},
    arguments={"data_dir": "iid", "revision": "refs/convert/parquet"},
    rows={"train": 93670, "validation": 13382, "test": 26763},
)
COLUMNS = ("output_answer", "Output Answer")  # on the hub, in the repository


def load(knobs: TaskKnobs) -> Problems:
    return load_table(knobs, HUB, _parse)


def _parse(row: Row) -> Problem | str:
    present = [name for name in COLUMNS if name in row.fields]
    if not present:
        row.value(*COLUMNS)
    answer = str(row.fields[present[0]] or "").strip()
    if not answer:
        return "no answer"
    reference = plain_number(answer) or answer
    return Problem(
        problem_id=f"lila/{slug(row.text('dataset'))}/{row.source}-{row.index:06d}",
        task="lila",
        split="train",
        question=row.text("input", "Input"),
        reference=reference,
        kind=_kind(answer),
        tolerance=rounding(reference, places=6),
    )


def _kind(answer: str) -> Kind:
    if plain_number(answer):
        return "number"
    return "list" if answer[0] + answer[-1] in ("[]", "()", "{}") else "text"
