"""Advantages and weights against hand-computed groups."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdistill_ray.rewards.advantages import AdvantageKnobs, group_advantages, softmax_weights
from fastdistill_ray.rewards.lengths import CosineKnobs, cosine_score

REWARDS = [2.9619397663, 2.5, 0.8535533906, -1.0]
ADVANTAGES = [1.0493400784, 0.7525169439, -0.3054206468, -1.4964363755]
finite = st.floats(-10, 10)


@pytest.mark.parametrize(
    ("knobs", "tau", "advantages", "weights"),
    [
        (
            AdvantageKnobs(eps=1e-8),
            0.5,
            ADVANTAGES,
            [0.6153744442, 0.3398772986, 0.0409646494, 0.0037836079],
        ),
        (AdvantageKnobs(eps=1e-8), 1.0, ADVANTAGES, [0.480862, 0.357365, 0.124067, 0.037705]),
        (
            AdvantageKnobs(),
            0.5,
            [1.0492726633],
            [0.6153613172, 0.3398830109, 0.0409709069, 0.0037847650],
        ),
        (
            AdvantageKnobs(std_ddof=1),
            0.5,
            [0.9087046041, 0.6516625312, -0.2644873227, -1.2958798127],
            [0.5861912076, 0.3505705196, 0.0561070894, 0.0071311834],
        ),
    ],
)
def test_advantages_reference_group_has_reference_values(
    knobs: AdvantageKnobs, tau: float, advantages: list[float], weights: list[float]
) -> None:
    got = group_advantages(REWARDS, knobs)
    assert got[: len(advantages)] == pytest.approx(advantages, abs=1e-9)
    assert softmax_weights(got, tau) == pytest.approx(weights, abs=1e-6)


def test_advantages_easy_group_amplifies_small_differences() -> None:
    rewards = [2 * cosine_score(length, True, CosineKnobs()) + 1 for length in range(180, 216, 5)]
    advantages = group_advantages(rewards, AdvantageKnobs(eps=1e-8))
    expected = [1.490, 1.085, 0.671, 0.245, -0.191, -0.638, -1.096, -1.564]
    assert advantages == pytest.approx(expected, abs=5e-4)
    weights = [0.5619, 0.2504, 0.1092, 0.0466, 0.0195, 0.0080, 0.0032, 0.0013]
    assert softmax_weights(advantages, 0.5) == pytest.approx(weights, abs=5e-5)
    assert not group_advantages(rewards, AdvantageKnobs(min_std=0.1)).any()


def test_weights_one_or_seven_correct_have_reference_values() -> None:
    one = softmax_weights(group_advantages([2.8] + [0.2] * 7, AdvantageKnobs()), 0.5)
    seven = softmax_weights(group_advantages([2.8] * 7 + [0.2], AdvantageKnobs()), 0.5)
    assert one[0] == pytest.approx(0.9837, abs=5e-5)
    assert seven[[0, 7]] == pytest.approx([0.1428, 0.0003], abs=5e-5)


def test_advantages_grpo_variants_have_reference_values() -> None:
    rewards = [1.0, 0.0, 0.0, 0.0]
    assert group_advantages(rewards, AdvantageKnobs(eps=0)) == pytest.approx(
        [1.7320508] + [-0.5773503] * 3, abs=1e-7
    )
    assert group_advantages(rewards, AdvantageKnobs(std_ddof=1)) == pytest.approx(
        [1.4997001] + [-0.4999000] * 3, abs=1e-7
    )
    assert group_advantages(rewards, AdvantageKnobs(scale="none")).tolist() == [0.75] + [-0.25] * 3


@pytest.mark.parametrize("rewards", [[3.0], [0.1] * 4, [2.7] * 7])
@pytest.mark.parametrize("ddof", [0, 1])
def test_advantages_no_variance_are_zero_and_weights_uniform(
    rewards: list[float], ddof: int
) -> None:
    advantages = group_advantages(rewards, AdvantageKnobs(eps=0, std_ddof=ddof))
    assert advantages.tolist() == [0.0] * len(rewards)
    assert softmax_weights(advantages, 0.5).tolist() == [1 / len(rewards)] * len(rewards)


@given(st.lists(finite, min_size=2, max_size=9), finite, st.randoms())
def test_advantages_shift_and_permutation_of_rewards_change_nothing_else(
    rewards: list[float], shift: float, rng: object
) -> None:
    advantages = group_advantages(rewards, AdvantageKnobs())
    assert np.isfinite(advantages).all()
    shifted = group_advantages([reward + shift for reward in rewards], AdvantageKnobs())
    assert shifted == pytest.approx(advantages, abs=1e-6)
    order = list(range(len(rewards)))
    rng.shuffle(order)
    permuted = group_advantages([rewards[i] for i in order], AdvantageKnobs())
    assert permuted == pytest.approx(advantages[order], abs=1e-9)


def test_weights_not_eligible_get_none_of_the_mass() -> None:
    weights = softmax_weights(ADVANTAGES, 0.5, [True, True, False, False])
    assert weights == pytest.approx([0.6442013311, 0.3557986689, 0, 0], abs=1e-9)
    assert softmax_weights(ADVANTAGES, 0.5, [False] * 4).tolist() == [0.0] * 4


def test_weights_huge_advantages_do_not_overflow() -> None:
    assert softmax_weights([1e6, -1e6], 1e-3).tolist() == [1.0, 0.0]
