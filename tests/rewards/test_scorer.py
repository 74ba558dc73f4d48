"""Cosine and format scores against the numbers of the method's reference sheet."""

import pytest

from fastdistill_ray.rewards import RewardKnobs, Scorer, check_format
from fastdistill_ray.rewards.lengths import CosineKnobs, LengthKnobs, cosine_score, length_score
from fastdistill_ray.rewards.repetition import RepetitionKnobs, repetition_score
from fastdistill_ray.rewards.scorer import Answered, weighted_reward
from fastdistill_ray.rewards.template import FormatKnobs

LOOPING = "so the answer is 4 " * 3  # 15 words
WHOLE = "<think>\n6*7\n</think>\n<answer>\\boxed{42}</answer>"


def answered(text: str, num_tokens: int = 0, verdict: str = "correct") -> Answered:
    return Answered(text, num_tokens, "stop", "6*7?", "number", "42", verdict, "42")


def scores_of(text: str, knobs: RewardKnobs) -> dict[str, float | None]:
    with Scorer(knobs) as scorer:
        return scorer.score([answered(text)])[0].values


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


@pytest.mark.parametrize(
    ("preset", "correct", "wrong"),
    [
        ("open_rs", (1.0, 0.75, 0.5), (0.0, -0.25, -0.5)),
        ("open_r1_fn", (1.0, 0.75, 0.5), (-1.0, -0.75, -0.5)),
        ("yeo", (2.0, 1.5, -10.0), (-10.0, -5.0, -10.0)),
    ],
)
def test_cosine_presets_at_the_start_the_middle_and_the_cap(
    preset: str, correct: tuple[float, ...], wrong: tuple[float, ...]
) -> None:
    knobs = CosineKnobs(preset=preset)
    lengths = (0, 1024, 2048)
    assert [cosine_score(n, True, knobs) for n in lengths] == pytest.approx(correct)
    assert [cosine_score(n, False, knobs) for n in lengths] == pytest.approx(wrong)


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
    assert scores_of(text, knobs)["format"] == pytest.approx(sum(parts) / 3)


def test_scores_count_the_unit_asked() -> None:
    in_tokens = scores_of("x" * 2048, RewardKnobs())
    in_characters = scores_of("x" * 2048, RewardKnobs(length_unit="characters"))
    assert list(in_tokens) == ["cosine", "format"]
    assert (in_tokens["cosine"], in_characters["cosine"]) == (1.0, 0.5)


def test_weighted_reward_spans_its_range() -> None:
    weights = RewardKnobs().weights
    assert weighted_reward({"cosine": 1.0, "format": 1.0}, weights) == 3.0
    assert weighted_reward({"cosine": -0.5, "format": 0.0}, weights) == -1.0
    assert weighted_reward({"cosine": 1.0, "format": 1.0}, {"cosine": 2.0}) == 2.0


def test_a_preset_changed_in_a_written_recipe_brings_its_own_values() -> None:
    written = CosineKnobs(wrong_r0=-0.1).model_dump()
    assert CosineKnobs(**written) == CosineKnobs(wrong_r0=-0.1)
    changed = CosineKnobs(**written | {"preset": "yeo"})
    assert changed == CosineKnobs(preset="yeo", wrong_r0=-0.1)
    assert (changed.correct_r0, changed.exceed_value) == (2.0, -10.0)


@pytest.mark.parametrize(
    ("ngram", "text", "share"),
    [
        (4, LOOPING, 7 / 12),
        (3, LOOPING, 8 / 13),
        (4, "one two three", 0.0),
        (1, "a a a a", 0.75),
        (4, "", 0.0),
        (2, "a b c d", 0.0),
    ],
)
def test_repetition_is_the_share_of_repeated_ngrams_times_the_penalty(
    ngram: int, text: str, share: float
) -> None:
    knobs = RepetitionKnobs(ngram=ngram)
    assert repetition_score(text, False, knobs) == pytest.approx(-share)
    assert repetition_score(text, True, knobs) == pytest.approx(-share)
    halved = RepetitionKnobs(ngram=ngram, max_penalty=-0.5, only_wrong=True)
    assert repetition_score(text, False, halved) == pytest.approx(-share / 2)
    assert repetition_score(text, True, halved) == 0.0


@pytest.mark.parametrize(
    ("length", "expected"), [(0, 0), (16384, 0), (18432, -0.5), (20480, -1), (99999, -1)]
)
def test_length_falls_inside_the_margin(length: int, expected: float) -> None:
    knobs = LengthKnobs(max_length=20480, margin=4096)
    assert length_score(length, knobs) == expected
    assert length_score(1024, LengthKnobs()) == -0.5


def test_scores_compose_by_weight_and_those_without_are_not_computed() -> None:
    weights = {"cosine": 2.0, "repetition": 0.5, "length": 0.25, "format": 0.0}
    with Scorer(RewardKnobs(weights=weights)) as scorer:
        (scores,) = scorer.score([answered(LOOPING, 1024, "wrong")])
    assert scores.values == pytest.approx(
        {"cosine": -0.25, "repetition": -7 / 12, "length": -0.5, "format": 0.0}
    )
    assert scores.reward == pytest.approx(2 * -0.25 + 0.5 * -7 / 12 + 0.25 * -0.5)


@pytest.mark.parametrize(
    "weights", [{}, {"cosine": float("nan")}, {"cosine": float("inf")}, {"cosine": "much"}]
)
def test_weights_must_be_finite_numbers_and_some(weights: dict) -> None:
    with pytest.raises(ValueError, match="weights"):
        RewardKnobs(weights=weights)
