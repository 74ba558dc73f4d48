"""Random and spoilt answers: no crash, no hang, no false verdict; see support.answers."""

import random
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.answers import (
    Case,
    draw_case,
    draw_quotient,
    draw_spoilt,
    mutated,
    python_value,
    write_plain,
)

from fastdistill_ray.records import VERDICTS
from fastdistill_ray.verifiers import Judge, VerifierKnobs

KNOBS = VerifierKnobs()
PATIENT = VerifierKnobs(time_limit=200.0)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(KNOBS) as judge:
        judge.judge(
            "math", r"\boxed{\sin x+\sin x}", r"2\sin x"
        )  # starting the process counts for no answer
        yield judge


@pytest.fixture(scope="module")
def patient() -> Iterator[Judge]:
    with Judge(PATIENT) as judge:
        yield judge


def check(case: Case, judge: Judge, patient: Judge) -> str:
    """The verdict; raises when it is false or took too long to read: that is done in this process,
    whose time counts, and what the process of expressions does ends at its limit."""
    begin = time.process_time()
    judged = judge.judge(case.kind, case.response, case.reference, case.options)
    assert time.process_time() - begin < KNOBS.time_limit + 0.5, f"too slow: {case}"
    if judged.verdict == "timeout" and case.is_right is not None:
        judged = patient.judge(case.kind, case.response, case.reference, case.options)
    assert judged.verdict in VERDICTS and judged.verdict != "error", (case, judged)
    if case.is_right is not None:
        assert (judged.verdict == "correct") == case.is_right, (case, judged)
    return judged.verdict


def spoilt_integer(rng: random.Random) -> Case:
    """A spoilt writing of the reference itself; right only if it still reads so."""
    right = write_plain(draw_quotient(rng))
    answer = mutated(right, rng)
    value = python_value(answer)
    is_right = None if value is None else value == python_value(right)
    return Case("number", right, rf"\boxed{{{answer}}}", is_right)


def run(count: int, seed: int) -> Counter[str]:
    rng = random.Random(seed)
    verdicts: Counter[str] = Counter()
    with Judge(KNOBS) as judge, Judge(PATIENT) as patient:
        judge.judge("math", r"\boxed{\sin x+\sin x}", r"2\sin x")
        for _ in range(count // 4):
            for draw in (draw_case, draw_case, draw_spoilt, draw_spoilt):
                verdicts[check(draw(rng), judge, patient)] += 1
    return verdicts


def test_random_and_spoilt_answers_are_judged_by_their_making() -> None:
    verdicts = run(1_200, seed=0)
    assert verdicts.total() == 1_200
    assert verdicts["correct"] > 100 and verdicts["wrong"] > 200 and verdicts["unparsable"] > 100


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_random_and_spoilt_answers_20000() -> None:
    verdicts = run(20_000, seed=1)
    print(dict(verdicts))
    assert verdicts.total() == 20_000


@given(rng=st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_drawn_answers_are_judged_by_their_making(
    judge: Judge, patient: Judge, rng: random.Random
) -> None:
    check(draw_case(rng), judge, patient)
    check(draw_spoilt(rng), judge, patient)


def test_spoilt_writings_of_the_reference_are_right_only_if_they_read_so(judge: Judge) -> None:
    rng = random.Random(2)
    for _ in range(2_000):
        case = spoilt_integer(rng)
        judged = judge.judge(case.kind, case.response, case.reference)
        # Of an equation the right side is judged; digits of other scripts are digits.
        right_side = unicodedata.normalize("NFKC", judged.answer.rsplit("=", 1)[-1])
        digits = "".join(str(unicodedata.decimal(c)) for c in right_side if c.isdecimal())
        if judged.verdict == "correct" and case.is_right is None and "\u00bd" not in judged.answer:
            assert digits.strip("0") == re.sub(r"\D", "", case.reference).strip("0"), case
        elif case.is_right is False:
            assert judged.verdict != "correct", case
