"""Competition mathematics whose answer is LaTeX: MATH, MATH-500, AIME 2024, AMC 2023, Minerva's
OCWCourses, OPEN-S1 and OPEN-RS.

A row has a question and an answer, or a solution whose last box is the answer. The last two have
no test split: the numbers of arXiv 2507.00054 are held out by seed, hard ones of OPEN-RS.
"""

import functools
import random
import re
from typing import NamedTuple

from fastdistill_ray.errors import UserError
from fastdistill_ray.records import Kind, Problem
from fastdistill_ray.tasks.base import Problems, divide, take
from fastdistill_ray.tasks.knobs import TaskKnobs
from fastdistill_ray.tasks.source import Hub, Row, load_table, plain_number, read_table, slug
from fastdistill_ray.text import is_blank, scan

BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s+([^\s${}.,]+)")


class Competition(NamedTuple):
    hub: Hub
    kind: Kind = "math"
    part: tuple[str, ...] = ()  # columns whose value goes into the id


MATH = Competition(
    Hub(
        "DigitalLearningGmbH/MATH-lighteval",
        {"train": ("train",), "test": ("test",)},
        rows={"train": 7500, "test": 5000},
    ),
    part=("type",),
)
MATH500 = Competition(
    Hub("HuggingFaceH4/MATH-500", {"test": ("test",)}, rows={"test": 500}), part=("subject",)
)
AIME24 = Competition(
    Hub("HuggingFaceH4/aime_2024", {"test": ("train", "test")}, rows={"test": 30}), kind="number"
)
AMC23 = Competition(Hub("math-ai/amc23", {"test": ("test",)}, rows={"test": 40}), kind="number")
MINERVA = Competition(Hub("math-ai/minervamath", {"test": ("test",)}, rows={"test": 272}))
OPEN_S1 = Competition(
    Hub("knoveleng/open-s1", {"train": ("train",)}, rows={"train": 18615}, held_out=553)
)
OPEN_RS = Competition(
    Hub("knoveleng/open-rs", {"train": ("train",)}, rows={"train": 7000}, held_out=850),
    part=("level",),
)


def load(competition: Competition, knobs: TaskKnobs) -> Problems:
    return load_table(knobs, competition.hub, functools.partial(_parse, competition, knobs.name))


def load_open_rs(knobs: TaskKnobs) -> Problems:
    """Test problems are held out of the hard ones."""
    found = read_table(knobs, OPEN_RS.hub, functools.partial(_parse, OPEN_RS, knobs.name))
    hard = [one for one in found["train"] if one.problem_id.startswith("open_rs/hard/")]
    rng = random.Random(f"open_rs/{knobs.seed}")
    found["test"], _ = take(hard, knobs.num_test, rng, "task.num_test")
    chosen = {problem.problem_id for problem in found["test"]}
    found["train"] = [one for one in found["train"] if one.problem_id not in chosen]
    return divide(found, knobs)


def _parse(competition: Competition, task: str, row: Row) -> Problem | str:
    if "reward_model" in row.fields:  # files made for reinforcement learning keep both in here
        row = row._replace(fields={**row.fields, **_ground_truth(row)})
    reference = _reference(row)
    if not reference:
        return "neither an answer nor a box in the solution"
    part = slug(row.text(*competition.part)) if competition.part else row.source
    # Rows of both splits share a part.
    source = f"{row.source}-" if competition.part and len(competition.hub.splits) > 1 else ""
    return Problem(
        problem_id=f"{task}/{part}/{source}{row.index:05d}",
        task=task,
        split="train",
        question=row.text("problem", "question"),
        reference=reference,
        kind=competition.kind,
    )


def _ground_truth(row: Row) -> dict[str, str]:
    model = row.fields["reward_model"]
    truth = model.get("ground_truth") if isinstance(model, dict) else None
    if not isinstance(truth, dict):
        raise UserError(f"{row.where}: missing reward_model.ground_truth")
    return truth


def _reference(row: Row) -> str:
    """The answer as it stands, of a number its value; without one the last box of the solution.

    A column `target` beside the solution is not used: it lost degrees, spaces and row breaks.
    """
    if "answer" not in row.fields and "solution" not in row.fields:
        row.value("answer", "solution")
    answer = row.fields.get("answer")
    if isinstance(answer, list) and answer:  # other writings of the same answer follow
        answer = answer[0]
    if isinstance(answer, int | float):
        return plain_number(answer)
    if isinstance(answer, str) and not is_blank(answer):
        return answer.strip()
    return last_box(row.fields.get("solution") or "")


def last_box(solution: str) -> str:
    r"""What the last box holds, also one written `\boxed 2`; "" without any."""
    filled = [box for box in scan(solution).boxes if not is_blank(solution[box.start : box.end])]
    end = filled[-1].end if filled else 0
    if bare := [match for match in BARE_BOX.finditer(solution) if match.start() > end]:
        return bare[-1].group(1)
    return solution[filled[-1].start : filled[-1].end].strip() if filled else ""
