"""Numbers of the paper's reconstruction (float64, computed by hand) and closed-form gradients."""

import numpy as np
import pytest
import torch

from fastdistill_ray.objectives import AdvDistill, Sft
from fastdistill_ray.objectives.contract import LossBatch, Outputs, Scored
from fastdistill_ray.rewards.advantages import AdvantageKnobs, group_advantages

REWARDS = [2.9619397663, 2.5, 0.8535533906, -1.0]
IS_CORRECT = [True, True, False, False]
PROBABILITIES = [[0.5, 0.8], [0.9, 0.6, 0.7], [0.2, 0.4], [0.99, 0.97, 0.98]]
MEAN_INCORRECT = {"reduction": "mean_incorrect"}
ONE_GROUP = torch.zeros(1, dtype=torch.int64)


def scored_group(rewards: list[float], is_correct: list[bool]) -> list[Scored]:
    advantages = group_advantages(np.array(rewards), AdvantageKnobs(eps=1e-8))
    return [
        Scored(correct, reward, float(advantage), 10)
        for correct, reward, advantage in zip(is_correct, rewards, advantages, strict=True)
    ]


def loss_of(objective: AdvDistill | Sft, scored: list[Scored], logprobs: list[list]) -> object:
    """The loss of one group in float64; logprobs[i][t] are tensors."""
    targets = objective.targets(scored)
    chosen = [logprobs[target.index] for target in targets]
    lengths = [len(one) for one in chosen]
    batch = LossBatch(
        completion=torch.arange(len(chosen)).repeat_interleave(torch.tensor(lengths)),
        lengths=torch.tensor(lengths, dtype=torch.float64),
        weight=torch.tensor([target.weight for target in targets], dtype=torch.float64),
        penalty=torch.tensor([target.penalty for target in targets], dtype=torch.float64),
        group=torch.zeros(len(chosen), dtype=torch.int64),
    )
    counts = {"tokens": sum(lengths), "completions": len(chosen), "groups": 1, "step": 1}
    terms = objective(Outputs(torch.cat([torch.stack(one) for one in chosen])), batch)
    return sum(term.coefficient * term.total / counts[term.denominator] for term in terms)


def logs(probabilities: list[list[float]]) -> list[list]:
    return [[torch.tensor(p, dtype=torch.float64).log() for p in one] for one in probabilities]


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({}, 0.9775453572),
        ({"p_max": 0.99}, 0.9775453572),
        ({"contrastive": MEAN_INCORRECT}, 1.5111326008),
        ({"contrastive": {"reduction": "sum"}}, 2.5783070882),
        ({"contrastive": {"reduction": "sum", "weighted": True}}, 0.4586644261),
        ({"contrastive": MEAN_INCORRECT, "ce": {"reduction": "sum"}}, 2.0653850837),
        ({"contrastive": MEAN_INCORRECT, "ce": {"on": "correct"}}, 1.4776932347),
        # The same completions have a positive advantage in this group.
        ({"contrastive": MEAN_INCORRECT, "ce": {"on": "positive_advantage"}}, 1.4776932347),
        ({"contrastive": {**MEAN_INCORRECT, "average": "geometric"}, "p_max": 0.99}, 1.5046540645),
        ({"contrastive": {**MEAN_INCORRECT, "average": "token"}, "p_max": 0.99}, 1.5376835178),
        ({"contrastive": {"incorrect_if": "negative_advantage"}}, 0.9775453572),
        ({"contrastive": {"incorrect_if": "low_reward", "reward_threshold": 0.9}}, 0.9775453572),
        ({"lambda": 0.0}, 0.4439581135),
    ],
)
def test_advdistill_worked_group_gives_the_computed_loss(knobs: dict, expected: float) -> None:
    loss = loss_of(AdvDistill(**knobs), scored_group(REWARDS, IS_CORRECT), logs(PROBABILITIES))
    assert float(loss) == pytest.approx(expected, abs=2e-9)


def test_advdistill_constant_divisor_divides_token_sums_by_it() -> None:
    by_sum = AdvDistill(ce={"reduction": "sum"}, lambda_=0.0)
    by_constant = AdvDistill(ce={"reduction": "const", "const_length": 64}, lambda_=0.0)
    group = scored_group(REWARDS, IS_CORRECT)
    whole, divided = (
        float(loss_of(one, group, logs(PROBABILITIES))) for one in (by_sum, by_constant)
    )
    assert divided == pytest.approx(whole / 64, rel=1e-12)


def test_advdistill_equal_rewards_give_uniform_weights() -> None:
    targets = AdvDistill().targets(scored_group([1.5] * 4, [True] * 4))
    assert [target.weight for target in targets] == [0.25] * 4


@pytest.mark.parametrize(("weight", "p", "expected"), [(0.02, 0.3, 0.136), (0.125, 0.6, 0.25)])
def test_advdistill_one_token_gradient_is_the_closed_form(
    weight: float, p: float, expected: float
) -> None:
    """d/dz of -w log p - lambda log(1 - p) with p = sigmoid(z) is -w (1 - p) + lambda p."""
    z = torch.tensor(np.log(p / (1 - p)), requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    batch = LossBatch(torch.zeros(1, dtype=torch.int64), one, weight * one, one, ONE_GROUP)
    terms = AdvDistill()(Outputs(torch.nn.functional.logsigmoid(z)[None]), batch)
    sum(term.coefficient * term.total for term in terms).backward()
    assert z.grad.item() == pytest.approx(expected, abs=1e-12)


def test_advdistill_penalty_gradient_is_largest_on_confident_and_short_completions() -> None:
    """d C_i / d log q_t = q_t / (T_i (1 - mean q))."""
    probabilities = torch.tensor([0.9, 0.5, 0.3, 0.7, 0.2], dtype=torch.float64)
    logprob = probabilities.log().requires_grad_()
    lengths = torch.tensor([2.0, 3.0], dtype=torch.float64)
    batch = LossBatch(
        torch.tensor([0, 0, 1, 1, 1]), lengths, 0 * lengths, lengths**0, torch.arange(2)
    )
    AdvDistill()(Outputs(logprob), batch)[1].total.backward()
    means = torch.tensor([0.7, 0.7, 0.4, 0.4, 0.4], dtype=torch.float64)
    expected = probabilities / (lengths[batch.completion] * (1 - means))
    torch.testing.assert_close(logprob.grad, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("average", ["arithmetic", "geometric", "token"])
def test_advdistill_penalty_is_of_the_completion_whatever_is_trained_of_its_prompt(average) -> None:
    """Two targets of a prompt, then those of the completion."""
    own = torch.tensor([0.9, 0.5, 0.3], dtype=torch.float64)
    both = torch.tensor([0.1, 0.2, 0.9, 0.5, 0.3], dtype=torch.float64)
    objective, one = AdvDistill(contrastive={"average": average}), torch.ones(1).double()
    penalties = []
    for values, is_own in ((own, None), (both, torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0]))):
        batch = LossBatch(
            torch.zeros(len(values), dtype=torch.int64),
            len(values) * one,
            one,
            one,
            ONE_GROUP,
            is_own,
        )
        cross_entropy, penalty = objective(Outputs(values.log()), batch)
        assert float(cross_entropy.total) == pytest.approx(float(-values.log().mean()), rel=1e-12)
        penalties.append(float(penalty.total))
    assert penalties[0] == pytest.approx(penalties[1], rel=1e-12)


@pytest.mark.parametrize(("p_max", "expected"), [(0.99, 0.0), (0.999, 200.0)])
def test_advdistill_clamp_below_the_probability_stops_the_gradient(
    p_max: float, expected: float
) -> None:
    probability = torch.tensor([0.995], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    batch = LossBatch(torch.zeros(1, dtype=torch.int64), one, one, one, ONE_GROUP)
    AdvDistill(p_max=p_max)(Outputs(probability.log()), batch)[1].total.backward()
    assert probability.grad.item() == pytest.approx(expected, rel=1e-9)


def test_advdistill_on_correct_without_a_correct_one_keeps_only_penalties() -> None:
    objective = AdvDistill(ce={"on": "correct"})
    targets = objective.targets(scored_group([1.0, 0.0], [False, False]))
    assert [target.weight for target in targets] == [0.0, 0.0]
    assert [target.penalty for target in targets] == [0.5, 0.5]


def test_advdistill_on_correct_leaves_out_completions_without_any_coefficient() -> None:
    objective = AdvDistill(ce={"on": "correct"}, contrastive={"incorrect_if": "low_reward"})
    targets = objective.targets(scored_group([2.0, 1.0, -1.0], [True, False, False]))
    assert [target.index for target in targets] == [0, 2]
