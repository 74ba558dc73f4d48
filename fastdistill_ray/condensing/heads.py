"""A linear classifier over embeddings, a *head*: many learners at once, gradients in closed form.

Pure torch, any float type. Legend: S learners, N texts, C classes, D width of an embedding and one
more: its last column is 1, so that a head [C, D] has its bias in its last column.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def with_ones(points: Tensor) -> Tensor:
    """[N, D - 1] -> [N, D]."""
    return torch.cat([points, points.new_ones(len(points), 1)], dim=1)


def one_hot(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    return torch.nn.functional.one_hot(labels, num_classes).to(dtype)


def random_heads(shape: tuple[int, int, int], seed: torch.Generator, dtype: torch.dtype) -> Tensor:
    """[S, C, D], as torch begins a linear layer: uniform within 1 / sqrt(D - 1)."""
    drawn = torch.rand(shape, generator=seed, dtype=dtype)
    return (2 * drawn - 1) * (shape[2] - 1) ** -0.5


def residuals(heads_SCD: Tensor, points_ND: Tensor, targets_NC: Tensor) -> Tensor:
    """[S, N, C]: what each class is given too much; the slope of each text's cross-entropy."""
    return (points_ND @ heads_SCD.mT).softmax(dim=-1) - targets_NC


def head_gradient(
    heads_SCD: Tensor, points_ND: Tensor, targets_NC: Tensor, weights_N: Tensor | None = None
) -> Tensor:
    """[S, C, D]: of the cross-entropy's mean over the texts, or of its sum with these weights.

    It is sum_n w_n (p_n - y_n) x_n^T, so that it has itself a gradient in points and weights.
    """
    slopes_SNC = residuals(heads_SCD, points_ND, targets_NC)
    if weights_N is None:
        return slopes_SNC.mT @ points_ND / len(points_ND)
    return slopes_SNC.mT @ (weights_N[:, None] * points_ND)


def cross_entropy(heads_SCD: Tensor, points_ND: Tensor, targets_NC: Tensor) -> Tensor:
    """[S]: the mean over the texts."""
    logprobs_SNC = (points_ND @ heads_SCD.mT).log_softmax(dim=-1)
    return -(targets_NC * logprobs_SNC).sum(dim=-1).mean(dim=-1)


def predicted(heads_SCD: Tensor, points_ND: Tensor) -> Tensor:
    """[S, N]: number of the likeliest class."""
    return (points_ND @ heads_SCD.mT).argmax(dim=-1)


def unrolled(
    start: Tensor, gradient: Callable[[Tensor], Tensor], rates: Iterable[Tensor | float]
) -> Tensor:
    """Where steps of gradient descent end, theta - rate * gradient(theta) for each rate; they keep
    their graph, so that what `gradient` and the rates depend on has a gradient through all."""
    reached = start
    for rate in rates:
        reached = reached - rate * gradient(reached)
    return reached
