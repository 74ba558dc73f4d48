"""Scores put together: their unit, their weights, and which are not computed."""

import pytest

from fastdistill_ray.rewards import RewardKnobs, Scorer
from fastdistill_ray.rewards.scorer import Answered, weighted_reward

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
    "weights", [{}, {"cosine": float("nan")}, {"cosine": float("inf")}, {"cosine": "much"}]
)
def test_weights_must_be_finite_numbers_and_some(weights: dict) -> None:
    with pytest.raises(ValueError, match="weights"):
        RewardKnobs(weights=weights)
