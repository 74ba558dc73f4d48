"""Comparisons of two vocabularies against what they are by definition, in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.across import wasserstein
from support.learner import chunks_of
from torch import Tensor

from fastdistill_ray.objectives.contract import Across
from fastdistill_ray.training.across import (
    Aligned,
    chunk_logprob,
    compared,
    event_kl,
    event_logmass,
    sorted_distance,
)
from fastdistill_ray.training.alignment import NO_SPANS, Spans
from fastdistill_ray.training.head import Readout
from fastdistill_ray.training.student import to_device

S, D, E, V, W = 5, 6, 4, 23, 31
CAPS = [(None, None), (3.0, None), (None, 2.0), (2.0, 4.0)]


def double(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def sides(seed: int = 0) -> list[Tensor]:
    """Hidden states, weights and biases of student and teacher."""
    random = torch.Generator().manual_seed(seed)
    shapes = [(S, D), (V, D), (V,), (S, E), (W, E), (W,)]
    return [torch.randn(one, dtype=torch.float64, generator=random) for one in shapes]


def full(side: list[Tensor], cap: float | None, temperature: float) -> Tensor:
    logits = side[0] @ side[1].T + side[2]
    return ((cap * (logits / cap).tanh() if cap else logits) / temperature).softmax(-1)


EVENTS = torch.arange(V) % 7, torch.arange(W) % 7
EVENTS[0][3] = EVENTS[1][5] = 256


def sorted_by_definition(q: Tensor, p: Tensor) -> Tensor:
    return torch.stack([wasserstein(*pair) for pair in zip(p, q, strict=True)])


def events_by_definition(q: Tensor, p: Tensor) -> Tensor:
    total = 0.0
    for event in EVENTS[0].unique():
        own, its = (x[:, of == event].sum(1) for x, of in zip((q, p), EVENTS, strict=True))
        total = total + its * (its / own).log()
    return total


KINDS = {
    "sorted": (sorted_distance, sorted_by_definition),
    "bytes": (lambda own, its, t: event_kl(own, its, EVENTS, t), events_by_definition),
}


@pytest.mark.parametrize("width", [1000, 4])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("caps", CAPS)
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradients_are_those_of_whole_distributions(
    monkeypatch: pytest.MonkeyPatch, kind: str, caps: tuple, temperature: float, width: int
) -> None:
    chunks_of(monkeypatch, "cpu", rows=S, width=width)
    monkeypatch.setattr("fastdistill_ray.training.across.CHUNK_BYTES", {"cpu": 900 * width})
    compute, by_definition = KINDS[kind]
    tensors = sides()
    student = [one.requires_grad_() for one in tensors[:3]]
    found = compute(Readout(*student, caps[0]), Readout(*tensors[3:], caps[1]), temperature)
    q, p = full(student, caps[0], temperature), full(tensors[3:], caps[1], temperature)
    expected = by_definition(q, p)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    weights = torch.linspace(-1, 2, S, dtype=torch.float64)
    actual, wanted = (torch.autograd.grad(one @ weights, student) for one in (found, expected))
    for one, other in zip(actual, wanted, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


def of_probabilities(values: list) -> Readout:
    """Hidden states that the head makes these distributions of."""
    return Readout(double(values).log(), torch.eye(len(values[0]), dtype=torch.float64))


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        ([[0.6, 0.3, 0.1]], [[0.1, 0.5, 0.2, 0.2]], [0.4]),
        ([[0.1, 0.6, 0.3], [0.8, 0.1, 0.1]], [[0.1, 0.5, 0.2, 0.2], [0.25] * 4], [0.4, 1.1]),
        ([[0.25] * 4], [[0.2, 0.7, 0.1]], [0.9]),
    ],
)
def test_sorted_distance_is_the_papers_number(
    teacher: list, student: list, expected: list[float]
) -> None:
    found = sorted_distance(of_probabilities(student), of_probabilities(teacher), 1.0)
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_events_however_unlikely_keep_their_logmass_and_slope() -> None:
    """In float32, where their sum of e^z is 0 beside the likeliest."""
    hidden = torch.tensor([[400.0, 0.0, -1.0]], requires_grad=True)
    events = torch.tensor([0, 1, 1])
    mass_SB = event_logmass(Readout(hidden, torch.eye(3)), events, 1.0)
    rest = float(np.log(1 + np.exp(-1.0))) - 400
    assert mass_SB[0, :2].tolist() == pytest.approx([0.0, rest]) and mass_SB[0, 2] == -torch.inf
    (slope,) = torch.autograd.grad(mass_SB[0, 1], hidden)
    share = 1 / (1 + np.exp(-1.0))
    assert slope[0].tolist() == pytest.approx([-1.0, share, 1 - share], abs=1e-6)


def test_models_that_are_one_are_not_apart() -> None:
    tensors = sides()
    own = Readout(*(one.requires_grad_() for one in tensors[:3]))
    for found in (sorted_distance(own, own, 2.0), event_kl(own, own, (EVENTS[0],) * 2, 2.0)):
        assert found.abs().max() < 1e-14
        gradients = torch.autograd.grad(found.sum(), tensors[:3])
        assert max(one.abs().max() for one in gradients) < 1e-14


@pytest.mark.parametrize("kind", KINDS)
def test_values_stand_where_spans_begin_and_nothing_is_compared_of_none(kind: str) -> None:
    tensors = sides()
    student, other = Readout(*tensors[:3]), Readout(*tensors[3:])
    places = [[0, 3, 4], [1, 2, 4]]
    spans = Spans(*map(torch.tensor, [*places, [5], [5]]))
    (found_K,) = compared(student, other, Across(kind), Aligned(spans, EVENTS))
    compute: Callable[..., Tensor] = KINDS[kind][0]
    own, its = (
        one._replace(hidden_KD=one.hidden_KD[at])
        for one, at in zip((student, other), places, strict=True)
    )
    expected_K = torch.zeros(S, dtype=torch.float64)
    expected_K[places[0]] = compute(own, its, 1.0)
    assert torch.allclose(found_K, expected_K, rtol=0, atol=1e-14)
    hidden = tensors[0].requires_grad_()
    nothing = Aligned(to_device(NO_SPANS, torch.device("cpu")), EVENTS)
    (none_K,) = compared(student, other, Across(kind), nothing)
    assert none_K.tolist() == [0.0] * S
    (gradient,) = torch.autograd.grad(none_K.sum(), hidden)
    assert not gradient.any()


def test_chunks_end_with_their_text_and_begin_with_a_span() -> None:
    """Of texts of two and of three tokens, the second's first stands before its first span."""
    hidden, weight = sides()[3:5]
    labels, places, lengths = (torch.tensor(one) for one in ([1, 0, 2, 9, 1], [0, 3, 4], [2, 3]))
    logprob = (hidden @ weight.T).log_softmax(-1).gather(1, labels[:, None])[:, 0]
    found = chunk_logprob(Readout(hidden, weight), labels, Spans(places, places, lengths, lengths))
    expected = [logprob[0:2].sum(), logprob[3], logprob[4]]
    assert found.tolist() == pytest.approx([one.item() for one in expected], abs=1e-12)
