"""Sets of points that are learned themselves: Dataset Distillation and trajectory matching.

Legend in heads.py, P points of a set, K steps, E experts.
"""

import math

import torch
from torch import Tensor

from fastdistill_ray.condensing.condensed import (
    Condensed,
    batch_of,
    ends,
    finite,
    labels_of_sets,
    random_rows,
)
from fastdistill_ray.condensing.encoder import Embedded
from fastdistill_ray.condensing.heads import (
    cross_entropy,
    head_gradient,
    one_hot,
    random_heads,
    unrolled,
    with_ones,
)
from fastdistill_ray.condensing.knobs import DatasetDistillation, Mtt
from fastdistill_ray.condensing.matching import trajectory_ratio

BETAS = (0.5, 0.999)


def distil_dataset(knobs: DatasetDistillation, data: Embedded, seed: torch.Generator) -> Condensed:
    """Points and step sizes with which K steps from a random head give the least cross-entropy on
    real texts: min E_theta0 [l(real, theta_K)] (arXiv 1811.10959, eq. 5), by Adam.

    Departures: a head over embeddings in place of a network over images; each step reads the whole
    set, where the paper has points of its own for each step; one epoch.
    """
    dtype, num_classes = data.points.dtype, int(data.labels.max()) + 1
    labels = labels_of_sets(num_classes, knobs.per_class)
    targets = one_hot(labels, num_classes, dtype)
    width = data.points.shape[1]
    points = torch.randn(len(labels), width, generator=seed, dtype=dtype).requires_grad_()
    first = math.log(math.expm1(knobs.step_size))  # softplus of it is the step size
    raw = torch.full((knobs.steps,), first, dtype=dtype).requires_grad_()
    adam = torch.optim.Adam([points, raw], lr=knobs.learning_rate, betas=BETAS)
    schedule = torch.optim.lr_scheduler.StepLR(adam, knobs.decay_every, knobs.decay)
    losses = []
    for iteration in range(knobs.iterations):
        real = batch_of(data, knobs.batch, seed)
        heads = random_heads((knobs.learners, num_classes, width + 1), seed, dtype)
        rates = torch.nn.functional.softplus(raw)
        reached = on_points(heads, points, targets, list(rates))
        goals = one_hot(real.labels, num_classes, dtype)
        loss = cross_entropy(reached, with_ones(real.points), goals).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        losses.append(finite(loss.item(), iteration))
    learned = torch.nn.functional.softplus(raw).tolist()
    return Condensed(points.detach(), labels, learned, [], *ends(losses))


def match_trajectories(knobs: Mtt, data: Embedded, seed: torch.Generator) -> Condensed:
    """Points and a step size with which N steps end where an expert was M epochs later (arXiv
    2203.11932, eq. 2), by SGD with momentum, from real texts.

    Departures: heads over embeddings in place of networks over images, without augmentation.
    """
    dtype, num_classes = data.points.dtype, int(data.labels.max()) + 1
    experts_TECD = train_experts(knobs, data, seed)
    rows = random_rows(data, knobs.per_class, seed)
    points, labels = data.points[rows].clone().requires_grad_(), data.labels[rows]
    targets = one_hot(labels, num_classes, dtype)
    rate = torch.tensor(knobs.step_size, dtype=dtype, requires_grad=True)
    groups = [
        {"params": [points], "lr": knobs.learning_rate},
        {"params": [rate], "lr": knobs.step_size_rate},
    ]
    sgd = torch.optim.SGD(groups, momentum=knobs.momentum)
    losses = []
    for iteration in range(knobs.iterations):
        expert = int(torch.randint(knobs.experts, (1,), generator=seed))
        start = int(torch.randint(knobs.max_start + 1, (1,), generator=seed))
        begun = experts_TECD[start, expert][None]
        aimed = experts_TECD[start + knobs.expert_epochs, expert][None]
        reached = on_points(begun, points, targets, [rate] * knobs.steps)
        loss = trajectory_ratio(reached, begun, aimed).mean()
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(finite(loss.item(), iteration))
    return Condensed(points.detach(), labels, [rate.item()], [], *ends(losses))


def train_experts(knobs: Mtt, data: Embedded, seed: torch.Generator) -> Tensor:
    """[epochs + 1, E, C, D]: heads after each epoch of SGD on real texts, from random starts. All
    experts see the batches in the same order."""
    dtype, num_classes = data.points.dtype, int(data.labels.max()) + 1
    points, targets = with_ones(data.points), one_hot(data.labels, num_classes, dtype)
    heads = random_heads((knobs.experts, num_classes, points.shape[1]), seed, dtype)
    kept = [heads]
    for _ in range(knobs.max_start + knobs.expert_epochs):
        for rows in torch.randperm(len(points), generator=seed).split(knobs.expert_batch):
            heads = heads - knobs.expert_rate * head_gradient(heads, points[rows], targets[rows])
        kept.append(heads)
    return torch.stack(kept)


def on_points(
    heads: Tensor, points: Tensor, targets: Tensor, rates: list[Tensor] | list[float]
) -> Tensor:
    """Heads after a step on all points for each rate."""
    read = with_ones(points)
    return unrolled(heads, lambda now: head_gradient(now, read, targets), rates)
