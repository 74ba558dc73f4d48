"""MultiLevelOT's costs against its definition in float64, and its numbers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.across import levels_by_definition
from support.learner import chunks_of
from torch import Tensor

from fastdistill_ray.objectives import MultiLevelOt
from fastdistill_ray.objectives.contract import Across
from fastdistill_ray.training.alignment import Reading, spans_of
from fastdistill_ray.training.head import Readout
from fastdistill_ray.training.levels import Transport, levels, sinkhorn, token_costs
from fastdistill_ray.training.student import to_device

D, E, V, W = 6, 4, 23, 31
TEXTS = [([0, 2], [0, 1], 4, 2), ([0, 1, 2], [0, 3, 4], 3, 5)]  # starts and lengths of both sides
KNOBS = MultiLevelOt(k=5, epsilon=0.2, iterations=4, temperature=0.7)
READINGS = [Reading(np.zeros(m), np.array([a, b]).T) for a, b, _, m in TEXTS]


def spans() -> object:
    found, _ = spans_of(READINGS, [n for _, _, n, _ in TEXTS])
    return to_device(found, torch.device("cpu"))


def sides() -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = [(7, D), (V, D), (V,), (7, E), (W, E), (W,)]
    return [torch.randn(one, dtype=torch.float64, generator=random) for one in shapes]


def full(side: list[Tensor], cap: float | None) -> Tensor:
    logits = side[0] @ side[1].T + side[2]
    return cap * (logits / cap).tanh() if cap else logits


@pytest.mark.parametrize("width", [1000, 4])
@pytest.mark.parametrize("caps", [(None, None), (3.0, None), (2.0, 4.0)])
def test_costs_and_gradients_are_those_of_whole_distributions(
    monkeypatch: pytest.MonkeyPatch, caps: tuple, width: int
) -> None:
    chunks_of(monkeypatch, "cpu", rows=7, width=2 * width)
    tensors = sides()
    student = [one.requires_grad_() for one in tensors[:3]]
    found = levels(
        Readout(*student, caps[0]), Readout(*tensors[3:], caps[1]), KNOBS.across, spans()
    )
    logits, other = full(student, caps[0]), full(tensors[3:], caps[1])
    rows = [(slice(0, 4), slice(0, 2)), (slice(4, 7), slice(2, 7))]
    expected = [
        levels_by_definition(KNOBS, logits[own], other[its], SimpleNamespace(reading=reading))
        for (own, its), reading in zip(rows, READINGS, strict=True)
    ]
    for place, wanted in enumerate(zip(*expected, strict=True)):
        wanted = torch.cat([one.reshape(-1) for one in wanted])
        assert torch.allclose(found[place], wanted, rtol=0, atol=1e-12)
        weights = torch.linspace(-1, 2, len(wanted), dtype=torch.float64)
        actual, by_definition = (
            torch.autograd.grad(one @ weights, student, retain_graph=True)
            for one in (found[place], wanted)
        )
        for one, two in zip(actual, by_definition, strict=True):
            assert torch.allclose(one, two, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("cost", "expected"),
    [([[0.1, 0.9], [0.8, 0.3]], 0.4044084156), ([[0.2, 0.3], [0.3, 0.2]], 0.4537882843)],
)
def test_plan_costs_the_papers_number(cost: list, expected: float) -> None:
    """Of tokens that weigh 1 each, where here they weigh 1 together."""
    found = sinkhorn(torch.tensor(cost, dtype=torch.float64), 0.1, 10)
    assert 2 * found.item() == pytest.approx(expected, abs=1e-10)


def test_plan_of_an_epsilon_that_underflows_is_the_cheapest_one() -> None:
    cost = torch.tensor([[1.9, 0.1, 1.7], [0.2, 1.8, 1.6]])
    assert sinkhorn(cost, 1e-3, 400).item() == pytest.approx((0.1 + 0.2) / 3 + 1.65 / 3, abs=1e-3)


def test_costs_of_tokens_in_their_order_are_the_papers_numbers() -> None:
    """By sums over the text, both sides' tokens are in the order 1, 0, 2."""
    teacher = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1]], dtype=torch.float64)
    student = torch.tensor([[0.5, 0.3, 0.2], [0.3, 0.6, 0.1]], dtype=torch.float64)
    found = token_costs(*(side.log()[:, [1, 0, 2]] for side in (teacher, student)))
    assert [one.mean().item() for one in found] == pytest.approx([0.2, 0.8833274738], abs=1e-10)


def test_gradient_of_a_plan_is_that_of_finite_differences() -> None:
    random = torch.Generator().manual_seed(1)
    p, q = (torch.rand(n, 4, dtype=torch.float64, generator=random) for n in (3, 5))
    assert torch.autograd.gradcheck(lambda x: Transport.apply(p, x, 0.3, 5), q.requires_grad_())


def test_no_text_costs_nothing() -> None:
    """The first row's logits are one number, as those of padding may be."""
    tensors = sides()
    tensors[0][0] = 0.0
    tensors[2].zero_()
    student = Readout(*(one.requires_grad_() for one in tensors[:3]))
    none, _ = spans_of(READINGS[:1], [4])
    none = to_device(none._replace(own=none.own[:0], other=none.other[:0]), torch.device("cpu"))
    nothing = none._replace(own_lengths=none.own_lengths[:0], other_lengths=none.other_lengths[:0])
    found = levels(student, Readout(*tensors[3:]), Across("levels", 1.0, 3, 0.1, 2), nothing)
    assert [len(one) for one in found] == [0, 0, 0]
    total = sum(one.sum() for one in found)
    assert not any(one.any() for one in torch.autograd.grad(total, tensors[:3]))
