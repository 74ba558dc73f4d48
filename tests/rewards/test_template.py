"""Parts and whole of the format, strict and lenient."""

import pytest

from fastdistill_ray.rewards import RewardKnobs, Scorer, check_format
from fastdistill_ray.rewards.scorer import Answered
from fastdistill_ray.rewards.template import FormatKnobs, format_score

WHOLE = "<think>\n6*7\n</think>\n<answer>\\boxed{42}</answer>"


def answered(text: str, num_tokens: int = 0, verdict: str = "correct") -> Answered:
    return Answered(text, num_tokens, "stop", "6*7?", "number", "42", verdict, "42")


def scores_of(text: str, knobs: RewardKnobs) -> dict[str, float | None]:
    with Scorer(knobs) as scorer:
        return scorer.score([answered(text)])[0].values


@pytest.mark.parametrize(
    ("text", "parts", "strict", "lenient"),
    [
        (WHOLE, (True, True, True), True, True),
        (f"\n {WHOLE} \n", (True, True, True), True, True),
        ("<think> </think><answer>So \\boxed{4}.</answer>", (False, True, True), False, False),
        (f"{WHOLE} done", (True, True, True), False, True),
        (f"Hi {WHOLE}", (True, True, True), False, True),
        ("<think>a</think> \\boxed{4} <answer>4</answer>", (True, True, True), False, True),
        ("<think>\\boxed{4}</think><answer>4</answer>", (True, True, False), False, False),
        ("<think>a</think><answer>\\boxed{}</answer>", (True, True, False), False, False),
        ("<think>a</think><answer>\\boxed{4</answer>", (True, True, False), False, False),
        ("<answer>\\boxed{4}</answer><think>a</think>", (True, False, False), False, False),
        ("<think>a<answer>\\boxed{4}</answer></think>", (True, False, False), False, False),
        (f"{WHOLE}{WHOLE}", (False, False, True), False, False),
        ("<think>a</think><think>b</think><answer>\\boxed{4}</answer>", (False, True, True), 0, 0),
        ("\\boxed{4}", (False, False, True), False, False),
        ("<think>a", (False, False, False), False, False),
        ("", (False, False, False), False, False),
    ],
)
def test_format_parts_and_whole_by_mode(
    text: str, parts: tuple[bool, bool, bool], strict: bool, lenient: bool
) -> None:
    check = check_format(text, "strict")
    assert check[:3] == parts
    assert check.whole == strict
    assert check_format(text, "lenient").whole == lenient
    knobs = RewardKnobs(format=FormatKnobs(mode="parts"))
    assert scores_of(text, knobs)["format"] == pytest.approx(sum(parts) / 3)


def test_empty_think_keeps_the_format_only_where_it_may() -> None:
    text = "<think></think><answer>\\boxed{4}</answer>"
    assert format_score(text, FormatKnobs()) == 0.0
    assert format_score(text, FormatKnobs(empty_think=True)) == 1.0
