"""Every reference answer judged by its own verifier, and references shuffled among problems.

    FASTDISTILL_DATA=FOLDER python -m benchmarks.references [TASK ...] [--json FILE]

Prints a table and the exceptions by id; JSON on the last line. A shuffled reference that is
accepted must be a coincidence: equal as text, as a number within the tolerance, or listed.
"""

import json
import os
import random
import re
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import make_parser, write_json
from fastdistill_ray.records import Judgement, Problem
from fastdistill_ray.tasks import TASKS, TaskKnobs
from fastdistill_ray.verifiers import Judge, VerifierKnobs

# Task and the folder or file of its published data.
FILES = [
    ("gsm8k", "gsm8k"),
    ("gsm_plus", "gsm_plus"),
    ("mmlu_pro", "mmlu_pro"),
    ("math", "math"),
    ("math", "deepscaler/train_math.json"),
    ("math500", "math500"),
    ("aime24", "aime24"),
    ("aime24", "deepscaler/train_aime.json"),
    ("amc23", "amc23"),
    ("amc23", "deepscaler/test_amc.json"),
    ("minerva", "minerva_math"),
    ("minerva", "deepscaler/test_minerva.json"),
    ("olympiadbench", "olympiadbench"),
    ("theoremqa", "theoremqa"),
    ("cmath", "cmath"),
    ("cmath", "cmath/distractor.jsonl"),
    ("svamp", "svamp"),
    ("asdiv", "asdiv"),
    ("asdiv", "asdiv/ASDiv.xml"),
    ("mawps", "mawps"),
    ("aqua", "aqua"),
    ("aqua", "aqua/dev.json"),
]


class Refused(NamedTuple):
    problem_id: str
    reference: str
    reason: str


class Outcome(NamedTuple):
    num_problems: int
    refused: list[Refused]  # references that their own verifier does not accept
    num_shuffled: int
    num_coincidences: int
    fooled: list[Refused]  # another problem's reference accepted, equal by no plain reading


def read(task: str, path: Path) -> list[Problem]:
    """All problems of all splits of the source, in their order."""
    held_out = {"num_test": 0} if task in ("open_s1", "open_rs", "mmlu_pro") else {}
    knobs = TaskKnobs(name=task, path=str(path), **held_out)
    found = TASKS[task].load(knobs)
    if path.name == "dev.json":  # a file of validation problems only
        found = TASKS[task].load(knobs.model_copy(update={"num_validation": 254}))
    return [problem for problems in found.values() for problem in problems]


def check(problems: list[Problem], judge: Judge, num_shuffled: int | None = None) -> Outcome:
    """`num_shuffled`: of the controls, in a random order; None takes all."""
    refused = [
        Refused(one.problem_id, one.reference, f"{verdict.verdict}: {verdict.reason}")
        for one in problems
        if (verdict := _judge(judge, one, one.reference)).verdict != "correct"
    ]
    fooled, num_coincidences = [], 0
    others = shuffled(problems)[:num_shuffled]
    for problem, other in others:
        if _judge(judge, problem, other.reference).verdict != "correct":
            continue
        if is_coincidence(problem, other.reference):
            num_coincidences += 1
        else:
            text = f"{problem.reference} accepts {other.reference} of {other.problem_id}"
            fooled.append(Refused(problem.problem_id, problem.reference, text))
    return Outcome(len(problems), refused, len(others), num_coincidences, fooled)


def shuffled(problems: list[Problem]) -> list[tuple[Problem, Problem]]:
    """Each problem with another one of its kind, in random order."""
    pairs = []
    for kind in sorted({problem.kind for problem in problems}):
        members = [problem for problem in problems if problem.kind == kind]
        order = list(members)
        random.Random(kind).shuffle(order)
        pairs += zip(order, order[1:] + order[:1], strict=True) if len(order) > 1 else []
    random.Random(0).shuffle(pairs)
    return pairs


def is_coincidence(problem: Problem, other: str) -> bool:
    """Whether two references are the same by the plainest reading there is."""
    mine, theirs = (_squeezed(text) for text in (problem.reference, other))
    if mine == theirs:
        return True
    if problem.kind == "list" and _items(problem.reference) == _items(other):
        return True
    try:
        gap = abs(Fraction(mine) - Fraction(theirs))
    except (ValueError, ZeroDivisionError):
        return False
    return gap <= Fraction(problem.tolerance or 0)


def _items(text: str) -> list[str]:
    """A list has no order."""
    return sorted(item.strip() for item in text.strip("[] ").split(","))


def _squeezed(text: str) -> str:
    """Without what the contract ignores: spaces, dollars, separators, degrees, percent, `x=`."""
    text = re.sub(r"\s|\\!|\\?[$%,]|\^(\\circ|\{\\circ\})", "", text)
    text = re.sub(r"\\[dt]?frac(\d)(\d)", r"\\frac{\1}{\2}", text.replace("dfrac", "frac"))
    return re.sub(r"^[a-z]=", "", text)


def _judge(judge: Judge, problem: Problem, answer: str) -> Judgement:
    response = f"<think>So.</think>\n<answer>\\boxed{{{answer}}}</answer>"
    asked = (problem.kind, response, problem.reference, problem.options)
    return judge.judge(*asked, tolerance=problem.tolerance)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="only these")
    arguments = parser.parse_args()
    if "FASTDISTILL_DATA" not in os.environ:
        sys.exit("error: FASTDISTILL_DATA must name the folder of data files")
    root = Path(os.environ["FASTDISTILL_DATA"])
    lines = []
    print(f"{'task':14} {'file':30} {'accepted':>15} {'shuffled':>9} {'same':>6} {'fooled':>6}")
    with Judge(VerifierKnobs()) as judge:
        for task, path in FILES:
            if arguments.tasks and task not in arguments.tasks:
                continue
            start = time.monotonic()
            found = check(read(task, root / path), judge)
            accepted = found.num_problems - len(found.refused)
            print(
                f"{task:14} {path:30} {accepted:>7,}/{found.num_problems:<7,} "
                f"{found.num_shuffled:>9,} {found.num_coincidences:>6,} {len(found.fooled):>6,} "
                f" {time.monotonic() - start:.1f} s",
                flush=True,
            )
            for one in found.refused:
                print(f"    not accepted: {one.problem_id} {one.reference!r}: {one.reason}")
            for one in found.fooled:
                print(f"    accepted: {one.problem_id} {one.reason}")
            lines.append({"task": task, "file": path, **found._asdict()})
    print(json.dumps(lines))
    write_json(arguments.json, {"rows": lines})


if __name__ == "__main__":
    main()
