"""Answers judged per CPU-second, beside math-verify alone, TRL's, open-r1's and verl's functions.

    python -m benchmarks.judging [--data FOLDER] [--json FILE] [--completions 5000] [--run RUN]
        [--verl FOLDER]

gsm8k: real completions of the four models of GSM8K's example_model_solutions.jsonl, their last line
"A: 18" written as the paper's format asks, so that all methods find it; right and wrong as labelled
there. gsm8k_groups: the same, each problem's four as a group. math: solutions of MATH, the answer
right, in another right writing, another problem's or with a digit changed; every (reference,
answer) once, so that no cache helps. math_groups: eight completions of a problem, its solution with
answers drawn from the right one, a right writing and two wrong ones, as a teacher repeats itself.
faults: the cases of tests/verifiers/judging_cases.jsonl whose answer is a number or mathematics;
ours was mended until it judged them as labelled, so they say how the others fare. run_groups: the
groups of a finished run (--run), as they are. Imports and starting the judging process are not
counted, CPU time of that process is.

verl is read from a folder, for its own needs would replace half of what is installed:
`pip install --no-deps --target FOLDER verl==0.9.1 pylatexenc`. verl_prime begins with prm800k's
grader, which is also asked alone, with the last box.
"""

import json
import os
import random
import re
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import psutil
import pyarrow.parquet as pq
from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify

from benchmarks.harness import make_parser, print_rows, write_json
from fastdistill_ray.records import Kind
from fastdistill_ray.run_files import stage_folders
from fastdistill_ray.text import find_boxes
from fastdistill_ray.verifiers import Judge, VerifierKnobs

GSM8K = "gsm8k/example_model_solutions.jsonl"
MATH = ("math/train.parquet", "math/test.parquet")
FAULTS = Path(__file__).resolve().parent.parent / "tests/verifiers/judging_cases.jsonl"
VERL = "verl.utils.reward_score"
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


PLAIN = {"kind", "response", "reference", "verdict"}  # no options, tolerance or settings


class Case(NamedTuple):
    """`is_right` as labelled or made; None when nobody knows."""

    kind: Kind
    text: str
    reference: str
    is_right: bool | None


class Measured(NamedTuple):
    verdicts: list[bool]
    reasons: list[str]
    cpu_seconds: float


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data", default=os.environ.get("FASTDISTILL_DATA", ""))
    parser.add_argument("--completions", type=int, default=5_000, help="of each set, at most")
    parser.add_argument("--run", default="", help="also the groups of this run folder")
    parser.add_argument("--verl", default="", help="also verl's graders, from this folder")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS))
    arguments = parser.parse_args()
    if arguments.verl:
        make_verl_importable(Path(arguments.verl))
    others = [name for name in METHODS if arguments.verl or name not in OF_VERL]
    methods = arguments.methods or others
    sets = read_sets(Path(arguments.data), arguments.completions)
    if arguments.run:
        sets["run_groups"] = run_groups(Path(arguments.run), arguments.completions)
    rows, differences = [], {}
    for name, cases in sets.items():
        found = {method: METHODS[method](cases) for method in methods}
        rows += table(name, cases, found)
        if {"ours", "math_verify"} <= set(found):
            differences[name] = list_differences(cases, found["ours"], found["math_verify"])
    print_rows(rows)
    for name, lines in differences.items():
        print(f"{name}: {len(lines)} verdicts differ from math-verify's")
        print_rows(lines[:20])
    write_json(arguments.json, {"rows": rows, "differences": differences})


def read_sets(data: Path, limit: int) -> dict[str, list[Case]]:
    missing = [str(data / name) for name in (GSM8K, *MATH) if not (data / name).is_file()]
    if missing:
        raise SystemExit(
            f"error: {', '.join(missing)} missing; give the folder of the benchmark files "
            "by --data or FASTDISTILL_DATA"
        )
    lines = (data / GSM8K).read_text(encoding="utf-8").splitlines()
    gsm8k = [case for line in lines for case in gsm8k_group(json.loads(line))]
    problems = [row for name in MATH for row in pq.read_table(data / name).to_pylist()]
    # The copy's `target` lost spaces and row breaks: the last box of the solution is the reference.
    solutions = [row["reward_model"]["ground_truth"]["solution"] for row in problems]
    solved = [{"solution": one, "target": last_box(one)} for one in solutions]
    solved = [one for one in solved if one["target"]]
    random.Random(0).shuffle(solved)
    return {
        "gsm8k": gsm8k[:limit],
        "gsm8k_groups": gsm8k[:limit],
        "math": math_singles(solved, limit),
        "math_groups": math_groups(solved, limit),
        "faults": faults(limit),
    }


def faults(limit: int) -> list[Case]:
    lines = [json.loads(line) for line in FAULTS.read_text(encoding="utf-8").splitlines()]
    return [
        Case(line["kind"], line["response"], line["reference"], line["verdict"] == "correct")
        for line in lines
        if line["kind"] in ("number", "math") and set(line) == PLAIN
    ][:limit]


def last_box(text: str) -> str:
    boxes = find_boxes(text)
    return text[boxes[-1].start : boxes[-1].end].strip() if boxes else ""


def gsm8k_group(line: dict[str, Any]) -> list[Case]:
    reference = line["ground_truth"].rsplit("A:", 1)[1].strip()
    cases = []
    for model in MODELS:
        work, _, answer = line[model]["solution"].rpartition("A:")
        text = in_format(work.strip(), answer.strip())
        cases.append(Case("number", text, reference, line[model]["is_correct"]))
    return cases


def in_format(work: str, answer: str) -> str:
    return f"<think>\n{work}\n</think>\n<answer>\n\\boxed{{{answer}}}\n</answer>"


def math_singles(solved: list[dict[str, str]], limit: int) -> list[Case]:
    rng = random.Random(1)
    cases, seen = [], set()
    for one in solved:
        answers = math_answers(one["target"], rng.choice(solved)["target"], rng)
        is_right, answer = answers[rng.choice((0, 0, 1, 2, 3, 3))]
        if answer is not None and (one["target"], answer) not in seen:
            seen.add((one["target"], answer))
            cases.append(math_case(one, answer, is_right))
    return cases[:limit]


def math_groups(solved: list[dict[str, str]], limit: int) -> list[Case]:
    rng = random.Random(2)
    cases: list[Case] = []
    for one in solved[: limit // 8]:
        answers = math_answers(one["target"], rng.choice(solved)["target"], rng)
        for is_right, answer in rng.choices(answers, weights=(3, 1, 1, 3), k=8):
            cases.append(math_case(one, answer or one["target"], is_right or answer is None))
    return cases


def math_answers(reference: str, other: str, rng: random.Random) -> list[tuple[bool, str | None]]:
    """The reference, a right writing of it, another problem's, one with a digit changed."""
    again = reference.replace("\\frac", "\\dfrac").replace(", ", ",")
    again = re.sub(r"(?<!\\)\\ ", " ", again)  # but not the row breaks of a matrix
    again = re.sub(r"(?<=[\w)}])([+=])(?=[\w(\\])", r" \1 ", again)
    digits = [match.start() for match in re.finditer(r"\d", reference)]
    changed = None
    if digits:
        at = rng.choice(digits)
        changed = f"{reference[:at]}{(int(reference[at]) + rng.randint(1, 9)) % 10}"
        changed += reference[at + 1 :]
    is_same = other.replace(" ", "") == reference.replace(" ", "")
    return [(True, reference), (True, again), (is_same, other), (False, changed)]


def math_case(one: dict[str, str], answer: str, is_right: bool) -> Case:
    work = re.sub(r"\\boxed", "", one["solution"])
    return Case("math", in_format(work, answer), one["target"], is_right)


def run_groups(run: Path, limit: int) -> list[Case]:
    groups = stage_folders(run).get("groups")
    files = sorted(groups.glob("part-*.parquet")) if groups else []
    if not files:
        raise SystemExit(f"error: no groups in {run}; give a run that has written some")
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return [
        Case(row["kind"], completion["text"], row["reference"], None)
        for row in rows
        for completion in row["completions"]
    ][:limit]


def cpu_seconds() -> float:
    """Of this process and of all it started."""
    children = psutil.Process().children(recursive=True)
    times = [child.cpu_times() for child in children]
    return time.process_time() + sum(one.user + one.system for one in times)


def timed(cases: list[Case], judge_one: Callable[[Case], tuple[bool, str]]) -> Measured:
    begin = cpu_seconds()
    judged = [judge_one(case) for case in cases]
    seconds = cpu_seconds() - begin
    return Measured([is_right for is_right, _ in judged], [why for _, why in judged], seconds)


def ours(cases: list[Case]) -> Measured:
    with Judge(VerifierKnobs()) as judge:
        judge.judge("math", r"\boxed{\sin x+\sin x}", r"2\sin x")  # starts the judging process

        def judge_one(case: Case) -> tuple[bool, str]:
            judged = judge.judge(case.kind, case.text, case.reference)
            return judged.verdict == "correct", f"{judged.verdict}: {judged.reason}"

        return timed(cases, judge_one)


def math_verify_alone(cases: list[Case]) -> Measured:
    def judge_one(case: Case) -> tuple[bool, str]:
        return bool(verify(parse(f"${case.reference}$"), parse(case.text))), ""

    return timed(cases, judge_one)


def trl_reward(cases: list[Case]) -> Measured:
    """The package's own function."""
    from trl.rewards import accuracy_reward  # not a dependency of the project

    def judge_one(case: Case) -> tuple[bool, str]:
        message = [{"role": "assistant", "content": case.text}]
        return accuracy_reward([message], [f"${case.reference}$"])[0] == 1.0, ""

    return timed(cases, judge_one)


def open_r1_reward(cases: list[Case]) -> Measured:
    """open-r1 is on no package index: the calls of math-verify that its accuracy reward makes."""
    config = LatexExtractionConfig(
        boxed_match_priority=0,
        try_extract_without_anchor=False,
        normalization_config=NormalizationConfig(
            basic_latex=True, units=True, malformed_operators=False, nits=False, boxed="all"
        ),
    )

    def judge_one(case: Case) -> tuple[bool, str]:
        expected = parse(f"${case.reference}$", extraction_mode="first_match")
        given = parse(case.text, extraction_config=[config], extraction_mode="first_match")
        return bool(expected) and bool(verify(expected, given)), ""

    return timed(cases, judge_one)


def make_verl_importable(folder: Path) -> None:
    """Without the files of its packages, which import what a grader has no use for."""
    sys.path.append(str(folder))
    for name in ("verl", "verl.utils", VERL):
        package = ModuleType(name)
        package.__path__ = [str(folder / name.replace(".", "/"))]
        sys.modules[name] = package


def verl_math(cases: list[Case]) -> Measured:
    """The package's function for MATH."""
    grader = import_module(f"{VERL}.math_reward")
    return timed(cases, lambda case: (grader.compute_score(case.text, case.reference) == 1, ""))


def verl_prime(cases: list[Case]) -> Measured:
    """The package's function for NuminaMath."""
    grader = import_module(f"{VERL}.prime_math")
    return timed(cases, lambda case: (bool(grader.compute_score(case.text, case.reference)[0]), ""))


def prm800k(cases: list[Case]) -> Measured:
    """`grade_answer` of its grader, which verl carries."""
    grader = import_module(f"{VERL}.prime_math")
    return timed(
        cases, lambda case: (bool(grader.grade_answer(last_box(case.text), case.reference)), "")
    )


OF_VERL = ("verl_math", "verl_prime", "prm800k")
METHODS: dict[str, Callable[[list[Case]], Measured]] = {
    "ours": ours,
    "math_verify": math_verify_alone,
    "trl": trl_reward,
    "open_r1": open_r1_reward,
    "verl_math": verl_math,
    "verl_prime": verl_prime,
    "prm800k": prm800k,
}


def table(name: str, cases: list[Case], found: dict[str, Measured]) -> list[dict[str, Any]]:
    rows = []
    for method, measured in found.items():
        known = [i for i, case in enumerate(cases) if case.is_right is not None]
        row: dict[str, Any] = {"set": name, "method": method, "answers": len(cases)}
        row["cpu_seconds"] = round(measured.cpu_seconds, 2)
        row["answers_per_cpu_second"] = round(len(cases) / measured.cpu_seconds)
        if "ours" in found:
            row["ours_is_faster"] = round(measured.cpu_seconds / found["ours"].cpu_seconds, 1)
        row["accepted_wrong"] = sum(measured.verdicts[i] and not cases[i].is_right for i in known)
        row["refused_right"] = sum(not measured.verdicts[i] and cases[i].is_right for i in known)
        rows.append(row)
    return rows


def list_differences(cases: list[Case], first: Measured, second: Measured) -> list[dict[str, Any]]:
    lines = []
    for i, case in enumerate(cases):
        if first.verdicts[i] != second.verdicts[i]:
            answer = case.text.rsplit("\\boxed{", 1)[-1].rsplit("}", 1)[0]
            lines.append(
                {
                    "reference": case.reference,
                    "answer": answer[:200],
                    "ours": first.reasons[i],
                    "math_verify": "correct" if second.verdicts[i] else "not correct",
                    "label": case.is_right,
                }
            )
    return lines


if __name__ == "__main__":
    main()
