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
from fastdistill_ray.verifiers.decision import Question
from fastdistill_ray.verifiers.extraction import (
    Rules,
    answer_blocks,
    extract_answer,
    only_content,
)
from fastdistill_ray.verifiers.judge import DECIDERS, decide_integers

REFERENCES = ("42", "042", "7", "0", "1000", "1,000", "-5", "42.0")
PIECES = (
    *("<answer>", "</answer>", "<answer>", "</answer>", "<ANSWER>", "</Answer >", "<think>"),
    *("</think>", r"\boxed{42}", r"\boxed{}", "42", "042", "0", "x < 3", " ", "\n", "<", "<answer"),
    *("<|im_end|>", "</s>", "[INST]", "The answer is 7", "#### 9", "$", "1,000", "\u00b2"),
)
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
@settings(max_examples=150, derandomize=True)  # one draw in some thousands takes sympy minutes
def test_drawn_answers_are_judged_by_their_making(
    judge: Judge, patient: Judge, rng: random.Random
) -> None:
    check(draw_case(rng), judge, patient)
    check(draw_spoilt(rng), judge, patient)


def short_way_differs(case: Case) -> bool:
    """Whether what is found in the last block or decided by digits alone is not what the full way
    finds and decides, which is tried for the same answer."""
    rules = Rules(True, True, True, False)
    content = only_content(case.response)
    blocks, opened = answer_blocks(case.response)
    if content and (
        opened is not None or case.response[blocks[-1].start : blocks[-1].end].strip() != content
    ):
        return True
    answer, _ = extract_answer(case.response, rules, case.kind, is_cut=False)
    question = Question(case.kind, case.reference, answer, (), None)
    short = decide_integers(question) if answer else None
    return short is not None and short != DECIDERS[case.kind](question, Judge(KNOBS))


def test_the_short_ways_say_what_the_full_ways_say() -> None:
    rng = random.Random(3)
    cases = [draw(rng) for _ in range(1_000) for draw in (draw_case, draw_spoilt, spoilt_integer)]
    for _ in range(5_000):
        text = "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 8)))
        cases.append(Case("number", rng.choice(REFERENCES), text, None))
    for _ in range(1_000):  # digits of any length, some equal but for the zeros before them
        digits = str(rng.getrandbits(rng.choice((4, 64, 14_000))))
        other = rng.choice((digits, "0" * rng.choice((1, 3_000)) + digits, digits + "0"))
        cases.append(Case("number", digits, f"<answer>{other}</answer>", None))
    assert sum(bool(only_content(case.response)) for case in cases) > 1_200
    assert [case for case in cases if short_way_differs(case)] == []


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
