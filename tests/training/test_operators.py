"""Operators over the vocabulary against full logits in float64, and the numbers of the papers."""

import math
from typing import Any

import pytest
import torch
from support.learner import chunks_of
from support.reference import by_definition
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastdistill_ray.objectives.contract import Divergence, Measure
from fastdistill_ray.training import head
from fastdistill_ray.training.head import Readout
from fastdistill_ray.training.operators import divergence, of_top, picks, top_ids

KINDS: tuple[Divergence, ...] = (
    "forward_kl",
    "reverse_kl",
    "skew_kl",
    "skew_reverse_kl",
    "jsd",
    "tvd",
)
K, D, E, V = 5, 7, 4, 53


@pytest.fixture
def narrow_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """11 columns, or 5 where two slices are kept: V is no multiple of either."""
    monkeypatch.setitem(head.CHUNK_BYTES, "cpu", 4 * 11 * 5)
    monkeypatch.setattr(head, "MIN_ROWS", 1)


def sides(dtype: torch.dtype = torch.float64, scale: float = 1.0) -> list[Tensor]:
    """hidden, weight, bias of the student, then of the teacher, all to be differentiated by."""
    torch.manual_seed(0)
    shapes = ((K, D), (V, D), (V,), (K, E), (V, E), (V,))
    return [(torch.randn(shape, dtype=torch.float64) * scale).to(dtype) for shape in shapes]


def full_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, cap: float | None) -> Tensor:
    logits = hidden.double() @ weight.double().T
    if bias is not None:
        logits = logits + bias.double()
    return cap * torch.tanh(logits / cap) if cap else logits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("alpha", "temperature", "caps"),
    [(0.1, 1.0, (None, None)), (0.7, 2.5, (1.5, 4.0)), (0.5, 0.5, (None, 2.0))],
)
@pytest.mark.usefixtures("narrow_slices")
def test_divergence_and_gradient_equal_full_logits(kind, alpha, temperature, caps):
    tensors = sides()
    student = [one.requires_grad_() for one in tensors[:3]]
    weights = torch.rand(K, dtype=torch.float64)
    found = divergence(
        Readout(*student, caps[0]),
        Readout(*tensors[3:], caps[1]),
        Measure(kind, alpha, temperature),
    )
    gradients = torch.autograd.grad(found @ weights, student)
    q = (full_logits(*student, caps[0]) / temperature).softmax(-1)
    p = (full_logits(*tensors[3:], caps[1]) / temperature).softmax(-1)
    expected = by_definition(p, q, kind, alpha)
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)
    for one, other in zip(gradients, torch.autograd.grad(expected @ weights, student), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("narrow_slices")
def test_divergence_gradient_equals_finite_differences(kind):
    hidden, weight, bias, *teacher = sides()

    def value(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return divergence(Readout(hidden, weight, bias, 3.0), Readout(*teacher), Measure(kind, 0.3))

    student = tuple(one.requires_grad_() for one in (hidden, weight, bias))
    assert torch.autograd.gradcheck(value, student)


@pytest.mark.parametrize(
    ("kind", "alpha", "value"),
    [
        ("forward_kl", 0.5, 0.1837868974),
        ("reverse_kl", 0.5, 0.1920419932),
        ("jsd", 0.1, 0.0165179831),
        ("jsd", 0.5, 0.0462008292),
        ("jsd", 0.9, 0.0170995972),
        ("tvd", 0.5, 0.3),
        ("skew_kl", 0.1, 0.1485504226),
        ("skew_reverse_kl", 0.1, 0.1523769343),
    ],
)
def test_divergence_has_the_values_worked_out_by_hand(kind, alpha, value):
    p, q = ([0.7, 0.2, 0.1], [0.4, 0.4, 0.2])
    found = divergence(of_probabilities(q), of_probabilities(p), Measure(kind, alpha))
    assert found.item() == pytest.approx(value, abs=1e-9)


def of_probabilities(values: list[float]) -> Readout:
    """A head whose logits are these logarithms."""
    weight = torch.tensor(values, dtype=torch.float64).log()[:, None]
    return Readout(torch.ones(1, 1, dtype=torch.float64), weight)


def of_logits(values: list[float]) -> Readout:
    weight = torch.tensor(values, dtype=torch.float64)[:, None].requires_grad_()
    return Readout(torch.ones(1, 1, dtype=torch.float64), weight)


def test_tempered_gradient_is_that_of_hinton():
    """arXiv 1503.02531: teacher logits 2, 1, 0, student 1, 0, 1, temperature 2."""
    student = of_logits([1.0, 0.0, 1.0])
    found = 4 * divergence(student, of_logits([2.0, 1.0, 0.0]), Measure("forward_kl", 0.5, 2.0))
    assert found.item() == pytest.approx(0.3657067763, abs=1e-9)
    (gradient,) = torch.autograd.grad(found.sum(), student.weight_VD)
    assert gradient[:, 0].tolist() == pytest.approx([-0.2456573, -0.1489987, 0.3946560], abs=1e-7)


def test_reverse_gradient_is_q_times_log_ratio_less_the_divergence():
    student = of_logits([0.3, -0.2, 0.5])
    found = divergence(student, of_probabilities([0.5, 0.3, 0.2]), Measure("reverse_kl"))
    assert found.item() == pytest.approx(0.1380560360, abs=1e-9)
    (gradient,) = torch.autograd.grad(found.sum(), student.weight_VD)
    expected = [-0.1713106314, -0.1015832877, 0.2728939191]
    assert gradient[:, 0].tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.usefixtures("narrow_slices")
def test_a_teacher_that_equals_its_student_gives_nothing_to_learn(kind, temperature):
    student = [one.requires_grad_() for one in sides(torch.float32)[:3]]
    teacher = Readout(*(one.detach() for one in student))
    found = divergence(Readout(*student), teacher, Measure(kind, 0.1, temperature))
    assert found.abs().max() < 1e-6
    for gradient in torch.autograd.grad(found.sum(), student):
        assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [0.01, 1.0, 12.0])
@pytest.mark.usefixtures("narrow_slices")
def test_extreme_logits_stay_finite_and_near_float64(kind, scale):
    """At scale 12 logits reach some 1,500: nearly all mass of a side is on one token."""
    tensors = sides(torch.float32, scale)
    student = [one.requires_grad_() for one in tensors[:3]]
    found = divergence(Readout(*student), Readout(*tensors[3:]), Measure(kind, 0.1))
    gradients = torch.autograd.grad(found.sum(), student)
    q = full_logits(*student, None).log_softmax(-1)
    p = full_logits(*tensors[3:], None).log_softmax(-1)
    terms: dict[str, Any] = {"forward_kl": p.exp() * (p - q), "reverse_kl": q.exp() * (q - p)}
    expected = terms[kind].sum(-1) if kind in terms else by_definition(p.exp(), q.exp(), kind, 0.1)
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=2e-6)
    for gradient in gradients:
        assert gradient.isfinite().all()


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, Tensor):
                self.elements = max(self.elements, one.numel())
        return made


@pytest.mark.parametrize("kind", [*KINDS, "picks"])
@pytest.mark.usefixtures("narrow_slices")
def test_no_tensor_has_a_row_of_the_vocabulary_for_each_position(kind):
    tensors = sides(torch.float32)
    student = Readout(*(one.requires_grad_() for one in tensors[:3]))
    with Largest() as largest:
        if kind == "picks":
            found, _ = picks(student, torch.arange(3 * K).reshape(K, 3))
        else:
            found = divergence(student, Readout(*tensors[3:]), Measure(kind))
        found.sum().backward()
    assert largest.elements <= V * D < K * V * D


def test_largest_sees_full_logits():
    hidden, weight, *_ = sides(torch.float32)
    with Largest() as largest:
        full_logits(hidden.repeat(20, 1), weight, None, None).softmax(-1)
    assert largest.elements == 20 * K * V


@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.usefixtures("narrow_slices")
def test_picks_and_gradient_equal_full_logits(temperature, cap):
    student = [one.requires_grad_() for one in sides()[:3]]
    ids = torch.stack([torch.randperm(V)[:6] for _ in range(K)])
    ids[0, 4:] = -1
    ids[3] = -1
    coefficients, of_tail = torch.rand(K, 6, dtype=torch.float64), torch.rand(K).double()
    picked, tail = picks(Readout(*student, cap), ids, temperature)
    is_there = ids >= 0
    found = torch.where(is_there, picked, 0.0)
    logq = (full_logits(*student, cap) / temperature).log_softmax(-1)
    expected = torch.where(is_there, logq.gather(1, ids.clamp(min=0)), 0.0)
    others = logq.clone()
    for row in range(K):
        others[row, ids[row][ids[row] >= 0]] = -torch.inf
    expected_tail = others.logsumexp(-1)
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)
    assert torch.allclose(tail, expected_tail, rtol=0, atol=1e-10)
    assert (picked[~is_there] == -torch.inf).all()
    loss = (coefficients * found).sum() + of_tail @ tail
    wanted = (coefficients * expected).sum() + of_tail @ expected_tail
    for one, other in zip(
        torch.autograd.grad(loss, student), torch.autograd.grad(wanted, student), strict=True
    ):
        assert torch.allclose(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("gap", [12.0, 32.0, 200.0])
def test_log_mass_of_the_rest_is_exact_where_little_is_left(gap):
    """1 - sum of the picked would be 0 or rounding; the gradient of the rest is its softmax."""
    weight = torch.full((V, 1), -gap)
    weight[:4] = 0.0
    weight.requires_grad_()
    _, tail = picks(Readout(torch.ones(1, 1), weight), torch.arange(4)[None])
    exact = math.log((V - 4) / 4) - gap
    assert tail.item() == pytest.approx(exact, abs=1e-4 + 1e-6 * gap)
    (gradient,) = torch.autograd.grad(tail.sum(), weight)
    assert torch.allclose(gradient[4:], torch.full((V - 4, 1), 1 / (V - 4)), atol=1e-5)
    assert torch.allclose(gradient[:4], torch.full((4, 1), -(1 - math.exp(exact)) / 4), atol=1e-5)


def test_half_precision_is_summed_in_single():
    """bf16 inputs, values and gradients near those of the same inputs in float64."""
    tensors = sides(torch.bfloat16, 0.5)
    student = [one.requires_grad_() for one in tensors[:3]]
    found = divergence(Readout(*student), Readout(*tensors[3:]), Measure("jsd", 0.4))
    assert found.dtype == torch.float32
    q = full_logits(*student, None).softmax(-1)
    p = full_logits(*tensors[3:], None).softmax(-1)
    assert torch.allclose(found.double(), by_definition(p, q, "jsd", 0.4), atol=0.02)
    (gradient,) = torch.autograd.grad(found.sum(), student[:1])
    assert gradient.dtype == torch.bfloat16 and gradient.isfinite().all()


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_likeliest_tokens_are_those_of_the_full_logits_whatever_the_slices(monkeypatch, softcap):
    torch.manual_seed(5)
    hidden, weight = torch.randn(9, 8), torch.randn(301, 8)
    chunks_of(monkeypatch, "cpu", rows=9, width=7)
    student = Readout(hidden, weight, torch.randn(301), softcap)
    logits = hidden @ weight.T + student.bias_V
    assert torch.equal(top_ids(student, 12), logits.topk(12).indices)
    teacher = Readout(torch.randn(9, 4), torch.randn(301, 4))
    labels = logits.topk(2).indices[:, 1]
    own, other, is_in = of_top(student, teacher, 2, labels)
    own_logits = softcap * torch.tanh(logits / softcap) if softcap else logits
    assert torch.allclose(own.exp(), own_logits.softmax(-1).topk(2).values, atol=1e-5)
    ids = logits.topk(2).indices
    expected = (teacher.hidden_KD @ teacher.weight_VD.T).log_softmax(-1).gather(1, ids)
    assert torch.allclose(other, expected, atol=1e-5)
    assert is_in.tolist() == [1.0] * 9
    assert of_top(student, teacher, 1, labels)[2].tolist() == [0.0] * 9
