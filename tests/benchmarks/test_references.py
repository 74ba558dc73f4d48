"""Reference answers of published files: accepted by their own verifier, no other's is."""

import os
from pathlib import Path

import pytest

from benchmarks.references import FILES, check, is_coincidence, read, shuffled
from fastdistill_ray.records import Problem
from fastdistill_ray.verifiers import Judge, VerifierKnobs

# Rows per file, counted in the files by other means; TheoremQA's 800 less 53 with pictures, MATH's
# 12,500 less 2 whose boxes are empty and 1 train question that is asked in test.
NUM_PROBLEMS = {
    "gsm8k": 8792,
    "gsm_plus": 2400,
    "mmlu_pro": 12032,
    "math": 12497,
    "math500": 500,
    "aime24": 30,
    "deepscaler/train_aime.json": 975,
    "amc23": 40,
    "deepscaler/test_amc.json": 83,
    "minerva_math": 272,
    "deepscaler/test_minerva.json": 272,
    "olympiadbench": 675,
    "theoremqa": 747,
    "cmath": 600,
    "cmath/distractor.jsonl": 360,
    "svamp": 1000,
    "asdiv": 2215,
    "asdiv/ASDiv.xml": 2305,
    "mawps": 2065,
    "aqua": 254,
    "aqua/dev.json": 254,
}


@pytest.fixture(scope="module")
def judge():
    with Judge(VerifierKnobs(time_limit=5.0)) as judge:
        yield judge


@pytest.mark.skipif("FASTDISTILL_DATA" not in os.environ, reason="needs a folder of data files")
@pytest.mark.parametrize(
    ("task", "path"), [(task, path) for task, path in FILES if path in NUM_PROBLEMS]
)
def test_references_are_accepted_and_those_of_other_problems_refused(task, path, judge):
    problems = read(task, Path(os.environ["FASTDISTILL_DATA"]) / path)
    needs_sympy = any(problem.kind in ("math", "list") for problem in problems)
    found = check(problems, judge, num_shuffled=15 if needs_sympy else 1000)
    assert found.num_problems == NUM_PROBLEMS[path]
    assert found.refused == []
    assert found.fooled == []


def problem(reference: str, kind: str = "number", tolerance: float | None = None) -> Problem:
    return Problem(f"t/{reference}", "t", "test", "q?", reference, kind, tolerance=tolerance)


@pytest.mark.parametrize(
    ("reference", "other", "tolerance", "expected"),
    [
        ("1,080", "1080", None, True),
        ("$25^\\circ$", "25", None, True),
        ("1/2", "0.5", None, True),
        ("0.5", "0.51", 0.02, True),
        ("0.5", "0.53", 0.02, False),
        ("\\frac{2}{3}", "\\dfrac23", None, True),
        ("\\frac{2}{3}", "\\frac32", None, False),
        ("2s", "2", None, False),
        ("A", "B", None, False),
    ],
)
def test_is_coincidence_only_for_equal_readings(reference, other, tolerance, expected):
    assert is_coincidence(problem(reference, tolerance=tolerance), other) is expected


def test_is_coincidence_of_lists_does_not_look_at_their_order():
    assert is_coincidence(problem("[1, 0]", "list"), "[0, 1]")
    assert not is_coincidence(problem("[1, 0]", "list"), "[1, 1]")


def test_check_reports_a_refused_reference_and_a_fooled_control(judge):
    bad = Problem("t/bad", "t", "test", "q?", "Z", "choice", ["red", "blue"])
    found = check([bad, problem("7"), problem("8")], judge)
    assert [one.problem_id for one in found.refused] == ["t/bad"]
    assert (found.num_shuffled, found.num_coincidences, found.fooled) == (2, 0, [])
    loose = [problem("7", tolerance=2.0), problem("8", tolerance=2.0)]
    assert check(loose, judge).num_coincidences == 2


def test_shuffled_gives_each_problem_another_of_its_kind():
    problems = [problem(str(i)) for i in range(20)] + [problem(f"x^{i}", "math") for i in range(20)]
    pairs = shuffled(problems)
    assert sorted(one.reference for one, _ in pairs) == sorted(p.reference for p in problems)
    assert all(one != other and one.kind == other.kind for one, other in pairs)
