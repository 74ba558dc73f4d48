"""What condensed sets are fitted by: distances between what they and real texts make of a learner,
and the choice of a few texts among many. Pure torch; legend in heads.py, M generated texts.
"""

import torch
from torch import Tensor


def trajectory_ratio(reached: Tensor, begun: Tensor, aimed: Tensor) -> Tensor:
    """[S] of [S, C, D]: |reached - aimed|^2 / |begun - aimed|^2 (arXiv 2203.11932, eq. 2)."""
    return _square(reached - aimed) / _square(begun - aimed)


def gradient_distance(real: Tensor, made: Tensor) -> Tensor:
    """[S] of [S, C, D]: 1 - cosine of both gradients, each as one vector (arXiv 2404.00264, eq. 4;
    arXiv 2006.05929 has the mean over the rows of each layer)."""
    product = (real * made).sum(dim=(-2, -1))
    return 1 - product / (_square(real) * _square(made)).sqrt().clamp_min(1e-30)


def likely_first(losses_M: Tensor, temperature: float) -> Tensor:
    """[M], adding up to 1: softmax(-loss / temperature), how much of a batch each generated text is
    (arXiv 2404.00264, eq. 5). Through them alone a gradient reaches the generator."""
    return (-losses_M / temperature).softmax(dim=0)


def k_centres(points_ND: Tensor, count: int) -> list[int]:
    """Rows of `count` points, at most N: the one nearest to the mean, then again and again the one
    that is furthest from all chosen ones (greedy k-centre, Gonzalez 1985, as arXiv 1708.00489).
    Of equals the first."""
    distances_N = torch.linalg.vector_norm(points_ND - points_ND.mean(dim=0), dim=1)
    chosen = [int(distances_N.argmin())]
    nearest_N = torch.full_like(distances_N, torch.inf)
    while len(chosen) < min(count, len(points_ND)):
        to_last_N = torch.linalg.vector_norm(points_ND - points_ND[chosen[-1]], dim=1)
        nearest_N = torch.minimum(nearest_N, to_last_N)
        nearest_N[chosen] = -1.0
        chosen.append(int(nearest_N.argmax()))
    return chosen


def nearest_rows(points_PD: Tensor, among_ND: Tensor) -> list[int]:
    """For each point the row nearest to it."""
    return torch.cdist(points_PD, among_ND).argmin(dim=1).tolist()


def _square(vectors: Tensor) -> Tensor:
    return vectors.square().sum(dim=(-2, -1))
