"""Scores put together: their unit, their weights, and which are not computed."""

from pathlib import Path

import pytest

from fastdistill_ray.rewards import RewardKnobs, Scorer
from fastdistill_ray.rewards.scorer import (
    Answered,
    describe_rewards,
    weight_errors,
    weighted_reward,
)

LOOPING = "so the answer is 4 " * 3  # 15 words


def answered(text: str, num_tokens: int = 0, verdict: str = "correct") -> Answered:
    return Answered(text, num_tokens, "stop", "6*7?", "number", "42", verdict, "42")


def scores_of(text: str, knobs: RewardKnobs) -> dict[str, float | None]:
    with Scorer(knobs) as scorer:
        return scorer.score([answered(text)])[0].values


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


def test_scores_compose_by_weight_and_those_without_are_not_computed() -> None:
    weights = {"cosine": 2.0, "repetition": 0.5, "length": 0.25, "format": 0.0}
    with Scorer(RewardKnobs(weights=weights)) as scorer:
        (scores,) = scorer.score([answered(LOOPING, 1024, "wrong")])
    assert scores.values == pytest.approx(
        {"cosine": -0.25, "repetition": -7 / 12, "length": -0.5, "format": 0.0}
    )
    assert scores.reward == pytest.approx(2 * -0.25 + 0.5 * -7 / 12 + 0.25 * -0.5)


@pytest.mark.parametrize(
    "weights",
    [
        {"cosine": 0, "format": 0},
        {"cosine": float("nan")},
        {"cosine": float("inf")},
        {"cosine": "much"},
        ["cosine"],
    ],
)
def test_weights_must_be_finite_numbers_and_one_must_count(weights: dict) -> None:
    with pytest.raises(ValueError, match="weights"):
        RewardKnobs(weights=weights)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"cosine": 2.0, "format": 1.0}),
        ({"mine": 0.5}, {"cosine": 2.0, "format": 1.0, "mine": 0.5}),
        ({"cosine": 0, "mine": 3}, {"cosine": 0.0, "format": 1.0, "mine": 3.0}),
    ],
)
def test_weights_given_are_put_over_the_others(given: dict, expected: dict) -> None:
    assert RewardKnobs.model_validate({"weights": given}).weights == expected
    assert RewardKnobs().weights == {"cosine": 2.0, "format": 1.0}


def test_scores_of_a_recipe_without_a_weight_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(one):\n    return 1.0\n")
    functions = {"brief": f"{tmp_path / 'mine.py'}:f"}
    judge = {"url": "http://localhost:1/v1", "model": "m"}
    knobs = RewardKnobs.model_validate({"functions": functions, "llm_judge": judge})
    brief, graded = weight_errors(knobs)
    assert brief.startswith("reward.functions.brief: it has no weight")
    assert graded.startswith("reward.llm_judge: it has no weight")
    weights = {"brief": 0, "llm_judge": 1}
    knobs = RewardKnobs.model_validate(
        {"functions": functions, "llm_judge": judge, "weights": weights}
    )
    assert weight_errors(knobs) == []
    assert describe_rewards(knobs) == (
        "2 cosine + 1 format + 1 llm_judge (m at http://localhost:1/v1); stored, not counted: brief"
    )
