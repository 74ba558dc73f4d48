"""Cosine and format scores against the numbers of the method's reference sheet."""

import pytest

from fastdistill_ray.rewards import (
    CosineKnobs,
    FormatKnobs,
    RewardKnobs,
    check_format,
    cosine_score,
    score_completion,
    weighted_reward,
)

WHOLE = "<think>\n6*7\n</think>\n<answer>\\boxed{42}</answer>"


@pytest.mark.parametrize(
    ("length", "correct", "wrong"),
    [
        (0, 1.0, 0.0),
        (256, 0.9809698831, -0.0190301169),
        (512, 0.9267766953, -0.0732233047),
        (1024, 0.75, -0.25),
        (1536, 0.5732233047, -0.4267766953),
        (2048, 0.5, -0.5),
        (3000, 0.5, -0.5),
    ],
)
def test_cosine_open_rs_has_reference_values(length: int, correct: float, wrong: float) -> None:
    assert cosine_score(length, True, CosineKnobs()) == pytest.approx(correct, abs=1e-9)
    assert cosine_score(length, False, CosineKnobs()) == pytest.approx(wrong, abs=1e-9)


def test_cosine_yeo_has_reference_values_and_exceed_value() -> None:
    knobs = CosineKnobs(preset="yeo")
    assert cosine_score(512, True, knobs) == pytest.approx(1.8535533906, abs=1e-9)
    assert cosine_score(512, False, knobs) == pytest.approx(-8.5355339059, abs=1e-9)
    assert cosine_score(1024, True, knobs) == pytest.approx(1.5)
    assert cosine_score(1024, False, knobs) == pytest.approx(-5.0)
    assert cosine_score(2048, True, knobs) == cosine_score(9999, False, knobs) == -10.0


def test_cosine_linear_is_halfway_at_half_length() -> None:
    knobs = CosineKnobs(shape="linear", preset="open_r1_fn")
    assert cosine_score(512, True, knobs) == 0.875
    assert cosine_score(512, False, knobs) == -0.875


@pytest.mark.parametrize(
    ("text", "parts", "strict", "lenient"),
    [
        (WHOLE, (True, True, True), True, True),
        (f"\n {WHOLE} \n", (True, True, True), True, True),
        ("<think></think><answer>So \\boxed{4}.</answer>", (True, True, True), True, True),
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
    assert score_completion(text, 1, False, knobs)["format"] == pytest.approx(sum(parts) / 3)


def test_score_completion_counts_the_unit_asked() -> None:
    in_tokens = score_completion("x" * 2048, 0, True, RewardKnobs())
    in_characters = score_completion("x" * 2048, 0, True, RewardKnobs(length_unit="characters"))
    assert list(in_tokens) == ["cosine", "format"]
    assert (in_tokens["cosine"], in_characters["cosine"]) == (1.0, 0.5)


def test_weighted_reward_spans_its_range() -> None:
    weights = RewardKnobs().weights
    assert weighted_reward({"cosine": 1.0, "format": 1.0}, weights) == 3.0
    assert weighted_reward({"cosine": -0.5, "format": 0.0}, weights) == -1.0
    assert weighted_reward({"cosine": 1.0, "format": 1.0}, {"cosine": 2.0}) == 2.0
