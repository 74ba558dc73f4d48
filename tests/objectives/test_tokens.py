"""Objectives of a few tokens of the teacher's distribution: the numbers of their papers, and that
random draws are unbiased."""

import numpy as np
import pytest
import torch

from fastdistill_ray.groups.signals import Signal, Signals
from fastdistill_ray.objectives import Dpkd, SampledKl, TopkKl
from fastdistill_ray.objectives.contract import Outputs
from fastdistill_ray.scoring.measure import measured
from fastdistill_ray.training.frozen import FrozenHead
from fastdistill_ray.training.head import Readout
from fastdistill_ray.training.operators import of_likeliest, picks

P, Q = [0.5, 0.25, 0.15, 0.1], [0.4, 0.3, 0.2, 0.1]


def readout(logits: list[list[float]]) -> Readout:
    """Whose logits these are: the head is the identity."""
    hidden = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    return Readout(hidden, torch.eye(hidden.shape[1], dtype=torch.float64))


def outputs_of(student: Readout, signals: Signals) -> Outputs:
    picked, rest = picks(student, signals.ids)
    return Outputs(torch.zeros(1), signals=signals, picked=picked, rest=rest)


def test_top_two_and_the_rest_is_the_kl_of_three_events():
    student = readout([np.log(Q).tolist()])
    signals = Signals(
        ids=torch.tensor([[0, 1]]),
        values=torch.tensor([P[:2]], dtype=torch.float64).log(),
        rest=torch.tensor([sum(P[2:])], dtype=torch.float64).log(),
        hidden=torch.zeros(1, 0),
    )
    loss = TopkKl(k=2).compared(outputs_of(student, signals))
    assert loss.item() == pytest.approx(0.0204109973, abs=1e-10)
    loss.sum().backward()
    gradient = student.hidden_KD.grad[0]
    # q - p of the two; the rest's share of it goes by q.
    expected = [-0.1, 0.05, 0.05 * 2 / 3, 0.05 / 3]
    assert gradient.tolist() == pytest.approx(expected, abs=1e-12)


def test_top_one_that_is_all_but_certain_has_a_finite_loss_and_gradient():
    student = readout([[40.0, 0.0, 0.0, 0.0]])
    for rest in (-200.0, -np.inf):
        signals = Signals(
            ids=torch.tensor([[0]]),
            values=torch.zeros(1, 1, dtype=torch.float64),
            rest=torch.tensor([rest], dtype=torch.float64),
            hidden=torch.zeros(1, 0),
        )
        loss = TopkKl(k=1).compared(outputs_of(student, signals))
        (gradient,) = torch.autograd.grad(loss.sum(), student.hidden_KD)
        assert loss.isfinite().all() and gradient.isfinite().all()


def test_mean_gradient_of_random_draws_is_that_of_the_whole_kl():
    """4,000 draws of 50 tokens; a deviation is that of the mean, by all draws."""
    rows, vocabulary = 4_000, 30
    random = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, vocabulary, generator=random, dtype=torch.float64)
    head = FrozenHead(torch.eye(vocabulary, dtype=torch.float64), None, vocabulary, 1.0, None)
    signal = Signal("random", 50)
    said = measured(
        signal, teacher.expand(rows, -1), torch.zeros(rows, dtype=torch.int64), head, seed=1
    )
    width, sizes = int(said["sizes"].max()), said["sizes"]
    is_one = np.arange(width) < sizes[:, None]
    ids, shares = np.full((rows, width), -1), np.zeros((rows, width))
    ids[is_one], shares[is_one] = said["ids"], said["counts"] / 50
    own = readout(student.expand(rows, -1).tolist())
    nothing = torch.zeros(rows)
    signals = Signals(torch.from_numpy(ids), torch.from_numpy(shares), nothing, nothing[:, None])
    SampledKl().compared(outputs_of(own, signals)).sum().backward()
    gradients = own.hidden_KD.grad
    exact = student.softmax(0) - teacher.softmax(0)
    deviation = gradients.std(0) / rows**0.5
    assert ((gradients.mean(0) - exact).abs() <= 4.5 * deviation).all()
    assert (gradients.mean(0) - exact).norm() < 0.02 * exact.norm()


def test_preference_for_the_teachers_token_is_the_papers_number():
    teacher, student = readout([[2.0, 1.0, 0.0]] * 2), readout([[0.0, 1.0, 0.5], [3.0, 1.0, 0.5]])
    found = of_likeliest(student, teacher, 1.0)
    loss = Dpkd().compared(Outputs(torch.zeros(2), likeliest=found))
    assert loss.tolist() == pytest.approx([0.7981388694, 0.0], abs=1e-9)
    loss.sum().backward()
    gradient = student.hidden_KD.grad
    # beta times the loss's slope at a margin of -0.2: towards the teacher's token, from one's own.
    slope = 0.1 / (1 + np.exp(-0.2))
    assert gradient[0].tolist() == pytest.approx([-slope, slope, 0.0], abs=1e-9)
    assert gradient[1].abs().max() == 0
