"""Formulae of condensed sets against numbers worked out by hand and finite differences."""

import itertools
from functools import partial

import pytest
import torch
from torch import Tensor

from fastdistill_ray.condensing import heads, matching

F64 = torch.float64


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_one_unrolled_step_of_a_scalar_has_the_three_gradients_worked_out_by_hand() -> None:
    """theta0 = 1, x = 2, y = 3, (theta x - y)^2 / 2, step 0.1; real text (1, 2)."""
    point, target, rate = (torch.tensor(v, dtype=F64, requires_grad=True) for v in (2.0, 3.0, 0.1))
    start = torch.tensor(1.0, dtype=F64)
    reached = heads.unrolled(start, lambda theta: (theta * point - target) * point, [rate])
    loss = (reached * 1 - 2) ** 2 / 2
    loss.backward()
    assert (reached.item(), loss.item()) == pytest.approx((1.2, 0.32))
    slopes = [point.grad, target.grad, rate.grad]
    assert [float(one) for one in slopes if one is not None] == pytest.approx([0.08, -0.16, -1.6])


def test_ratio_of_a_trajectory_is_the_one_worked_out_by_hand() -> None:
    begun, aimed, reached = (
        torch.tensor([[numbers]], dtype=F64) for numbers in ([1, 0, 2], [2, 1, 0], [1.5, 0.5, 0.5])
    )
    assert matching.trajectory_ratio(reached, begun, aimed).item() == pytest.approx(0.125)


def test_weights_and_distance_of_generated_texts_are_those_worked_out_by_hand() -> None:
    weights = matching.likely_first(torch.tensor([2.0, 1.0, 3.0], dtype=F64), 1.0)
    assert weights.tolist() == pytest.approx([0.2447285, 0.6652410, 0.0900306], abs=1e-7)
    real, made = (torch.tensor([[g]], dtype=F64) for g in ([1.0, 2.0, 0.0], [2.0, 1.0, 1.0]))
    assert matching.gradient_distance(real, made).item() == pytest.approx(0.2697032567, abs=1e-9)


def test_distance_reaches_a_latent_by_the_chain_rule() -> None:
    """G(z) = 2 z, D = (x - 3)^2, z = 1: -4."""
    latent = torch.tensor(1.0, dtype=F64, requires_grad=True)
    ((2 * latent - 3) ** 2).backward()
    assert latent.grad is not None and latent.grad.item() == pytest.approx(-4.0)


@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_of_a_head_is_that_of_autograd(weighted: bool) -> None:
    points, targets = drawn(5, 4), heads.one_hot(torch.tensor([0, 2, 1, 1, 0]), 3, F64)
    weights = drawn(5, seed=2).softmax(0) if weighted else torch.full((5,), 0.2, dtype=F64)
    start = drawn(2, 3, 4, seed=1).requires_grad_()
    logprobs = torch.nn.functional.log_softmax(torch.einsum("nd,scd->snc", points, start), -1)
    loss = -(weights[:, None] * targets * logprobs).sum()
    (expected,) = torch.autograd.grad(loss, start)
    given = weights if weighted else None
    found = heads.head_gradient(start, points, targets, given)
    torch.testing.assert_close(found, expected)
    if not weighted:
        torch.testing.assert_close(heads.cross_entropy(start, points, targets).sum(), loss)


def test_unrolled_steps_have_the_gradient_of_finite_differences() -> None:
    start, real = drawn(2, 3, 5, seed=1), heads.with_ones(drawn(7, 4, seed=2))
    targets = heads.one_hot(torch.arange(3), 3, F64)
    goals = heads.one_hot(torch.arange(7) % 3, 3, F64)

    def loss(points: Tensor, rates: Tensor) -> Tensor:
        read = heads.with_ones(points)
        reached = heads.unrolled(
            start, lambda now: heads.head_gradient(now, read, targets), list(rates)
        )
        return heads.cross_entropy(reached, real, goals).mean()

    inputs = drawn(3, 4, seed=3).requires_grad_(), torch.full((4,), 0.3, dtype=F64).requires_grad_()
    assert torch.autograd.gradcheck(loss, inputs)


def test_trajectory_ratio_has_the_gradient_of_finite_differences() -> None:
    begun, aimed = drawn(1, 3, 5, seed=1), drawn(1, 3, 5, seed=4)
    targets = heads.one_hot(torch.arange(3), 3, F64)

    def loss(points: Tensor, rate: Tensor) -> Tensor:
        step = partial(heads.head_gradient, points_ND=heads.with_ones(points), targets_NC=targets)
        reached = heads.unrolled(begun, step, [rate] * 3)
        return matching.trajectory_ratio(reached, begun, aimed)

    rate = torch.tensor(0.2, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (drawn(3, 4, seed=3).requires_grad_(), rate))


def test_gradient_reaches_losses_of_generated_texts_through_their_weights() -> None:
    start, points = drawn(2, 3, 5, seed=1), heads.with_ones(drawn(6, 4))
    targets = heads.one_hot(torch.full((6,), 2), 3, F64)
    real = heads.head_gradient(
        start, heads.with_ones(drawn(9, 4, seed=5)), targets[:1].repeat(9, 1)
    )

    def distance(losses: Tensor) -> Tensor:
        weights = matching.likely_first(losses, 2.0)
        made = heads.head_gradient(start, points, targets, weights)
        return matching.gradient_distance(real, made)

    assert torch.autograd.gradcheck(distance, drawn(6, seed=7).requires_grad_())


def test_greedy_centres_are_within_twice_the_best_radius_and_begin_in_the_middle() -> None:
    points = drawn(12, 2, seed=8)
    chosen = matching.k_centres(points, 3)
    assert chosen[0] == int((points - points.mean(0)).norm(dim=1).argmin())

    def radius(rows: tuple[int, ...] | list[int]) -> float:
        return torch.cdist(points, points[list(rows)]).min(dim=1).values.max().item()

    best = min(map(radius, itertools.combinations(range(12), 3)))
    assert radius(chosen) <= 2 * best + 1e-12
    assert sorted(matching.k_centres(points, 99)) == list(range(12))
    assert len(set(matching.k_centres(torch.zeros(4, 2), 4))) == 4
