"""Judging: hand-labelled cases, real references, bombs, threads, killed processes, random text."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import psutil
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdistill_ray.records import VERDICTS
from fastdistill_ray.text import find_boxes
from fastdistill_ray.verifiers import Judge, VerifierKnobs, fingerprints
from fastdistill_ray.verifiers.arithmetic import NotANumber, TooLarge, is_equal
from fastdistill_ray.verifiers.extraction import last_number
from fastdistill_ray.verifiers.numbers import parse_number

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "judging_cases.jsonl").read_text().splitlines()
]
BOMBS = (
    "9^{9^{9}}",
    "9**9**9",
    "2^{10^{9}}",
    "99999999!",
    "((9^9)^9)^{9^9}",
    "5^(5^(5^(5^5)))",
    "x^{9^{9}}+1",
    r"\sum_{i=1}^{10^{10}} i",
    r"\sqrt{2}^{\sqrt{2}^{99999}}",
    "(x+1)^{9999}-(x+2)^{9999}",
    r"\frac{1}{" * 150 + "2" + "}" * 150,
    "{" * 250 + "x" + "}" * 250,
    "((" * 200 + "1" + "))" * 200,
)


# For tests of what is right, not of how long it may take: the machine may be busy.
PATIENT = VerifierKnobs(time_limit=30.0)


@pytest.fixture(scope="module")
def patient_judge() -> Iterator[Judge]:
    with Judge(PATIENT) as judge:
        yield judge


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(VerifierKnobs()) as judge:
        yield judge


def boxed(answer: str) -> str:
    return rf"\boxed{{{answer}}}"


def data_folder() -> Path:
    folder = os.environ.get("FASTDISTILL_DATA")
    if not folder:
        pytest.skip("FASTDISTILL_DATA is not set")
    return Path(folder)


def gsm8k_references() -> list[str]:
    lines = [
        line
        for name in ("train", "test")
        for line in (data_folder() / f"gsm8k/{name}.jsonl").read_text().splitlines()
    ]
    return [json.loads(line)["answer"].split("####")[1].strip() for line in lines]


def test_cases_are_judged_as_labelled(patient_judge: Judge) -> None:
    assert len(CASES) >= 150
    judged = [
        patient_judge.judge(
            case["kind"],
            case["response"],
            case["reference"],
            case.get("options", ()),
            case.get("finish_reason", "stop"),
        )
        for case in CASES
    ]
    differing = [
        (case["kind"], case["reference"][:60], case["response"][:60], case["verdict"], got)
        for case, got in zip(CASES, judged, strict=True)
        if got.verdict not in case["verdict"].split("|")
    ]
    assert differing == []


@pytest.mark.parametrize(
    ("kind", "reference", "tolerance", "within", "beyond"),
    [
        ("number", "4.33", 0.01, ["4.34", "4.32", "13/3", "$4.33"], ["4.341", "433", "-4.33"]),
        ("number", "1000", 40.0, ["960", "1,040 km"], ["1040.5", "959"]),
        ("number", "5", 0.0, ["5.0"], ["5.0000001"]),
        ("math", "0.5", 0.01, [r"\frac{51}{100}", "0.49", r"\sqrt{0.25}"], ["0.52", "x", "-0.5"]),
        ("math", r"2\pi", 0.01, ["6.28", r"x = 6.29", r"2\pi"], ["6.3", r"2\pi x"]),
        ("math", "(1, 2.5)", 0.1, ["(1.1, 2.4)"], ["(2.5, 1)", "(1, 2.7)", "[1, 2.5]"]),
        ("list", "1, 2", 0.6, ["2.5, 1.5", "[1.5, 0.5]"], ["1, 3", "1.5"]),
        ("list", r"\sqrt{2}, 3", 0.01, ["3, 1.41", "1.42, 3.005"], ["3, 1.4"]),
    ],
)
def test_tolerance_is_absolute_and_inclusive(
    patient_judge: Judge,
    kind: str,
    reference: str,
    tolerance: float,
    within: list[str],
    beyond: list[str],
) -> None:
    for verdict, answers in (("correct", within), ("wrong", beyond)):
        for answer in answers:
            judged = patient_judge.judge(kind, boxed(answer), reference, tolerance=tolerance)
            assert (answer, judged.verdict) == (answer, verdict)


def test_gsm8k_references_accepted_by_their_verifier() -> None:
    with Judge(VerifierKnobs()) as judge:
        for reference in gsm8k_references():
            assert judge.judge("number", boxed(reference), reference).verdict == "correct"
        assert not judge.is_worker_started


def test_gsm8k_references_shuffled_rejected() -> None:
    references = gsm8k_references()
    answers = random.Random(0).sample(references, len(references))
    with Judge(VerifierKnobs()) as judge:
        for reference, answer in zip(references, answers, strict=True):
            is_same = int(reference.replace(",", "")) == int(answer.replace(",", ""))
            verdict = judge.judge("number", f"#### {answer}", reference).verdict
            assert verdict == ("correct" if is_same else "wrong")


def test_gsm_plus_references_accepted_by_their_verifier() -> None:
    lines = (data_folder() / "gsm_plus/gsmplus_testmini.jsonl").read_text().splitlines()
    with Judge(VerifierKnobs()) as judge:
        for reference in (str(json.loads(line)["answer"]) for line in lines):
            assert judge.judge("number", boxed(reference), reference).verdict == "correct"


@pytest.mark.parametrize("kind", ["number", "math"])
@pytest.mark.parametrize("bomb", BOMBS, ids=range(len(BOMBS)))
def test_bomb_ends_within_limit(judge: Judge, kind: str, bomb: str) -> None:
    judge.judge("math", boxed(r"\sin x+\sin x"), r"2\sin x")  # starting the process does not count
    begin = time.process_time()  # texts are read here; what the process does ends at its limit
    verdict = judge.judge(kind, boxed(bomb), "42").verdict
    assert time.process_time() - begin < VerifierKnobs().time_limit + 0.5
    assert verdict in ("wrong", "unparsable", "timeout")


def test_bomb_killed_leaves_next_answer_unharmed(judge: Judge) -> None:
    judge.judge("math", boxed(r"\sin x+\sin x"), r"2\sin x")
    bomb = judge.judge("math", boxed(r"\sin((x+y+z+1)^{2999})"), "(x+y+z+2)^{2998}")
    assert bomb.verdict == "timeout"
    verdicts = (
        judge.judge("math", boxed(rf"{n}\sin z+\sin z"), rf"{n + 1}\sin z").verdict
        for n in itertools.count(1)
    )
    # A busy machine may not answer within the limit.
    assert next(verdict for verdict in verdicts if verdict != "timeout") == "correct"


def test_long_texts_take_linear_time(judge: Judge) -> None:
    begin = time.process_time()  # of this process: texts are read here
    for text in (
        "\\boxed{" * 20_000,
        "{" * 100_000,
        "\\" * 100_000,
        "<answer>" * 20_000 + "42",
        boxed("4" * 100_000),
        boxed("**a" * 30_000),
        "answer is " * 10_000,
        boxed(" " * 50_000 + "x" + " " * 50_000),
        "\\boxed" + " " * 100_000,
        "1," * 50_000,
    ):
        for kind in ("number", "math", "choice", "text", "list"):
            reference = "A" if kind == "choice" else "42"
            assert judge.judge(kind, text, reference).verdict != "correct"
    assert time.process_time() - begin < 10


def test_worker_in_thread_answers_as_in_main_thread() -> None:
    verdicts: list[str] = []
    with Judge(PATIENT) as judge:

        def work(i: int) -> None:
            verdicts.append(
                judge.judge("math", boxed(rf"{i}\cos x+\cos x"), rf"{i + 1}\cos x").verdict
            )

        threads = [threading.Thread(target=work, args=(i,)) for i in range(2, 6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert verdicts == ["correct"] * 4


@pytest.mark.parametrize("victim", ["child", "process"])
def test_worker_killed_is_replaced(victim: str) -> None:
    with Judge(PATIENT) as judge:
        assert judge.judge("math", boxed(r"\sin x+\sin x"), r"2\sin x").verdict == "correct"
        worker = judge._process
        assert worker._process is not None
        os.kill(worker._child if victim == "child" else worker._process.pid, signal.SIGKILL)
        assert judge.judge("math", boxed(r"\sin y+\sin y"), r"2\sin y").verdict == "correct"


def test_time_that_the_machine_gives_to_others_does_not_count() -> None:
    with Judge(VerifierKnobs(time_limit=1.0)) as judge:
        assert judge.judge("math", boxed(r"\sin x+\sin x"), r"2\sin x").verdict == "correct"
        child = psutil.Process(judge._process._child)
        child.suspend()
        waker = threading.Timer(2.5, child.resume)  # more than the limit, none of it computing
        waker.start()
        assert judge.judge("math", boxed(r"\cos x+\cos x"), r"2\cos x").verdict == "correct"
        waker.join()


def test_timeout_is_not_remembered() -> None:
    with Judge(VerifierKnobs(time_limit=0.01)) as judge:
        hard = boxed(r"(\sin x+\cos y+1)^{40}-\tan x")
        reference = r"(\sin x+\cos y+1)^{40}+\tan y"
        assert judge.judge("math", hard, reference).verdict == "timeout"
        judge._knobs = VerifierKnobs(time_limit=60.0)
        assert judge.judge("math", hard, reference).verdict != "timeout"


def test_timeout_is_tried_once_more() -> None:
    asked = []
    with Judge(VerifierKnobs(time_limit=0.01)) as judge:
        ask = judge._process.ask
        judge._process.ask = lambda request, seconds: asked.append(seconds) or ask(request, seconds)
        hard, reference = boxed(r"(\sin x+\cos y+1)^{40}-\tan x"), r"(\sin x+\cos y+1)^{40}+\tan y"
        assert judge.judge("math", hard, reference).verdict == "timeout"
    assert asked == [0.01, 0.01]


def test_worker_dies_with_its_parent() -> None:
    script = (
        "import os, signal\n"
        "from fastdistill_ray.verifiers import Judge, VerifierKnobs\n"
        "judge = Judge(VerifierKnobs())\n"
        "judge.judge('math', r'\\boxed{\\sin x+\\sin x}', r'2\\sin x')\n"
        "print(judge._process._process.pid, judge._process._child, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    remaining = [int(pid) for pid in done.stdout.split()]
    assert len(remaining) == 2
    while any(is_running(pid) for pid in remaining):
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Neither gone nor a zombie that its adoptive parent has not yet collected."""
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("kind", "reference", "options"),
    [("number", " ", []), ("math", "", []), ("choice", "E", ["a", "b"]), ("choice", "a dog", [])],
)
def test_reference_unusable_is_error_and_never_correct(
    judge: Judge, kind: str, reference: str, options: list[str]
) -> None:
    assert judge.reference_error(kind, reference, options)
    assert judge.judge(kind, boxed(reference), reference, options).verdict == "error"


@pytest.mark.parametrize(
    ("knobs", "response", "verdict"),
    [
        ({"stated_answers": False}, "The answer is 42.", "unparsable"),
        ({"stated_answers": False}, "#### 42", "unparsable"),
        ({"boxes_outside_answer": False}, r"\boxed{42}", "unparsable"),
        ({"unboxed_blocks": False}, "<answer>42</answer>", "unparsable"),
        ({"unboxed_blocks": False}, "<answer>the answer is 42</answer>", "unparsable"),
        ({"unboxed_blocks": False}, r"<answer>so \boxed{42}</answer>", "correct"),
        ({"boxes_outside_answer": False}, r"<answer>\boxed{42}</answer>", "correct"),
        ({"last_number": True}, "So it is 41, no, 42 apples.", "correct"),
        ({"last_number": True}, r"It is 42. \boxed{41}", "wrong"),
        ({"last_number": True}, "The answer is the number of apples, 42.", "correct"),
        ({"last_number": True}, "nothing", "unparsable"),
    ],
)
def test_switch_of_extraction_rule_changes_verdict(
    knobs: dict[str, bool], response: str, verdict: str
) -> None:
    with Judge(VerifierKnobs(**knobs)) as judge:
        assert judge.judge("number", response, "42").verdict == verdict


@pytest.mark.parametrize(
    ("response", "several", "verdict"),
    [
        (r"\boxed{1}, \boxed{2} and $\boxed{3}$.", True, "correct"),
        (r"<answer>\boxed{3}, \boxed{2}, \boxed{1}</answer>", True, "correct"),
        (r"\boxed{7}, I mean: \boxed{1}, \boxed{2}, \boxed{3}", True, "correct"),
        (r"\boxed{1}, \boxed{2}", True, "wrong"),
        (r"\boxed{1} so \boxed{2} so \boxed{3}", True, "wrong"),
        (r"\boxed{1, 2, 3}", True, "correct"),
        (r"\boxed{1}, \boxed{2} and $\boxed{3}$.", False, "wrong"),
    ],
)
def test_several_boxes_are_one_list_where_asked_for(response, several, verdict) -> None:
    with Judge(VerifierKnobs(several_boxes=several)) as judge:
        assert judge.judge("list", response, "1, 2, 3").verdict == verdict
        if several:
            assert judge.judge("number", r"\boxed{1}, \boxed{2}", "2").verdict == "correct"


def test_last_number_keeps_sign_and_separators() -> None:
    assert last_number("from 3 to -1,080.5, then", is_cut=False) == "-1,080.5"
    assert last_number("3-4", is_cut=False) == "4"
    assert last_number("none", is_cut=False) == ""


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4 * 60 = 240, 4 * 240 = 16", "240"),  # went on to 1680
        ("2 pens, so 16.", "2"),
        ("2 pens, so 1/", "2"),
        ("2 pens, so 1,", "2"),
        ("2 pens, so 16 ", "16"),
        ("so 16 pens", "16"),
        ("16", ""),
    ],
)
def test_last_number_of_a_cut_text_is_none_that_may_go_on(text, number) -> None:
    assert last_number(text, is_cut=True) == number
    with Judge(VerifierKnobs(last_number=True)) as judge:
        for reason in ("length", "repetition"):
            judged = judge.judge("number", text, "16", finish_reason=reason)
            assert (judged.verdict == "correct") == (number == "16")
        assert judge.judge("number", "so 16", "16").verdict == "correct"


def test_boxes_found_nested_boxes_innermost_first() -> None:
    text = r"\boxed{a \boxed{b} \} c}"
    assert [text[box.start : box.end] for box in find_boxes(text)] == ["b", r"a \boxed{b} \} c"]


@given(st.fractions(max_denominator=10**6), st.sampled_from(["{}", "${}$", "x = {} cm", "({})"]))
@settings(max_examples=200)
def test_number_any_quotient_has_its_value(value: Fraction, pattern: str) -> None:
    written = f"{value.numerator}/{value.denominator}"
    assert is_equal(parse_number(pattern.format(written)), value)


@given(st.integers(), st.integers(min_value=0, max_value=30))
@settings(max_examples=200)
def test_number_decimal_literal_has_its_value(digits: int, places: int) -> None:
    sign, size = ("-" if digits < 0 else ""), str(abs(digits)).rjust(places + 1, "0")
    text = f"{sign}{size[: len(size) - places]}.{size[len(size) - places :]}"
    assert is_equal(parse_number(text), Fraction(digits, 10**places))


FRAGMENTS = (
    r"42 4 2 , . - + * / ^ ! ( ) [ ] { } \{ \} \frac \sqrt \boxed{ \text{ } <answer> </answer> "
    r"<think> </think> $ % x = \cdot \times \pm \cup or and None A B 9^9 #### answer_is \\ e _ ' "
    "\\infty < : dollars \\begin{pmatrix} & \u00b0 \u00bd \u00b2 \uff14 \u221a \u0664"
)
PIECES = st.sampled_from(FRAGMENTS.split())
TEXTS = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=14).map(" ".join))


@pytest.fixture(scope="module")
def lenient_judge() -> Iterator[Judge]:
    with Judge(VerifierKnobs(last_number=True)) as judge:
        yield judge


@given(text=TEXTS)
@settings(max_examples=400)
def test_number_random_text_never_crashes_and_is_never_correct(
    lenient_judge: Judge, text: str
) -> None:
    """The reference is a number that no piece can make."""
    for response in (text, boxed(text), f"<answer>{text}</answer>"):
        judgement = lenient_judge.judge("number", response, "7300000000019")
        assert judgement.verdict in VERDICTS and judgement.verdict not in ("correct", "error")
    assert lenient_judge.judge("choice", text, "A", ["x", "y"]).verdict in VERDICTS
    assert lenient_judge.judge("text", text, "y").verdict in VERDICTS


@given(text=TEXTS)
@settings(max_examples=150)
def test_math_random_text_never_crashes_and_is_never_correct(judge: Judge, text: str) -> None:
    for kind in ("math", "list"):
        begin = time.process_time()
        judgement = judge.judge(kind, f"<answer>{text}</answer>", r"\frac{7300019}{\pi}")
        assert judgement.verdict in VERDICTS and judgement.verdict not in ("correct", "error")
        assert time.process_time() - begin < VerifierKnobs().time_limit + 0.5


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "1_000", "1e", "--", "1/0", "0^{-1}", "\u0664x"]
)
def test_number_malformed_text_is_refused(text: str) -> None:
    with pytest.raises((NotANumber, TooLarge)):
        parse_number(text)


def test_fingerprint_modulus_is_prime_and_small_primes_have_roots() -> None:
    assert sympy.isprime(fingerprints.P)
    for square in (fingerprints.P - 1, 2, 3, 5, 7, 97, 199):
        assert pow(fingerprints._root(square), 2, fingerprints.P) == square


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (r"\sqrt{12}", r"2\sqrt3", True),
        (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt2}{2}", True),
        ("(x+1)^2", "x^{2}+2x+1", True),
        ("(x+i)(x-i)", "x^2+1", True),
        (r"2^{1009}", r"2 \cdot 2^{1008}", True),
        ("n(n+1)/2", r"\frac{n^2+n}{2}", True),
        (r"\sqrt{13}+\sqrt2", r"\sqrt{15}", False),
        ("-x^2", "(-x)^2", False),
        (r"\frac{\pi}{2^{98}}", r"\frac{\pi}{2^{99}}", False),
        ("x_1", "x_2", False),
        ("1/2x", "x/2", None),
        (r"\sqrt{x^2}", "x", None),
        ("f(x)", "fx", None),
        (r"7\frac12", r"\frac72", None),
        (r"\frac{1}{x-x}", "0", None),
        ("12_7", "12_8", None),
    ],
)
def test_fingerprints_tell_same_expressions_or_say_nothing(
    first: str, second: str, same: bool | None
) -> None:
    assert fingerprints.is_identical(first, second) is same


@pytest.mark.parametrize(
    ("kind", "reference", "is_usable"),
    [
        ("number", "Natalia sold 48 / 2 = 24 clips in May, so 72 in all. #### 72", False),
        ("number", "72", True),
        ("number", "seventy-two clips", True),
        ("number", "\\frac{1}{2} of the way to the end of the road", True),
        ("math", "First we see that. " * 40, False),
        ("math", "x = 1 or x = 2", True),
        ("text", "a long text that is what is asked for by this task", True),
    ],
)
def test_reference_that_is_a_whole_solution_is_of_no_use(judge, kind, reference, is_usable):
    assert (judge.reference_error(kind, reference) == "") is is_usable
