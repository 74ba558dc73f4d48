"""What a step needs to know of whole distributions, without one [K, V] in memory.

`divergence` sums a function of both log-probabilities over the vocabulary; `picks` gives the
log-probabilities of some ids and the exact log-mass of all others. Logits exist one slice of the
vocabulary at a time, for all rows, and are computed again for the gradient.
Legend: K positions, D hidden, E the teacher's, V vocabulary, C of its columns in a slice, M ids.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fastdistill_ray.training.head import capped, fused, part_of, slices, wide

# Of p, the teacher's, and q, the student's: KL(p, q); KL(q, p); KL(p, a p + (1 - a) q);
# KL(q, a q + (1 - a) p); a KL(p, m) + (1 - a) KL(q, m) with m = a p + (1 - a) q; half the L1.
Kind = Literal["forward_kl", "reverse_kl", "skew_kl", "skew_reverse_kl", "jsd", "tvd"]
Caps = tuple[float | None, float | None]  # of the student's and the teacher's logits
ONE_PASS = ("forward_kl", "reverse_kl")  # linear in the logits under one of the normalisers


class Readout(NamedTuple):
    """What makes logits: softcap(hidden @ weight.T + bias)."""

    hidden_KD: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None = None
    softcap: float | None = None


class Measure(NamedTuple):
    kind: Kind
    alpha: float = 0.5  # of the mixtures, between 0 and 1; other kinds have none
    temperature: float = 1.0  # of both sides


def divergence(student: Readout, teacher: Readout, measure: Measure) -> Tensor:
    """[K] in float32 or wider, in nats; differentiable by the student's tensors.

    Both heads must have as many rows: those of the tokenizer, whatever they are padded to.
    """
    assert len(student.weight_VD) == len(teacher.weight_VD)
    assert len(student.hidden_KD) == len(teacher.hidden_KD)
    caps = student.softcap, teacher.softcap
    return _Divergence.apply(*student[:3], *teacher[:3], caps, measure)


def picks(student: Readout, ids_KM: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """log q of the ids, [K, M], and the log-mass of all others, [K], in float32 or wider.

    The ids of a row differ; -1 stands for none, whose log-probability is -inf. The mass of the
    others is summed itself: 1 minus that of the ids would be rounding where they hold all but
    little of it.
    """
    return _Picks.apply(*student[:3], ids_KM, student.softcap, temperature)


def terms_of(measure: Measure) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(log p, log q) -> f, whose sum is the divergence, and q df/dq up to a multiple of q, which
    the softmax takes out. Both are finite where p or q underflow."""
    kind, alpha = measure.kind, measure.alpha

    def forward_kl(lp: Tensor, lq: Tensor) -> tuple[Tensor, Tensor]:
        p = lp.exp()
        return p * (lp - lq), -p

    def reverse_kl(lp: Tensor, lq: Tensor) -> tuple[Tensor, Tensor]:
        f = lq.exp() * (lq - lp)
        return f, f

    def skew_kl(lp: Tensor, lq: Tensor) -> tuple[Tensor, Tensor]:
        ratio = lp - _mixed(lp, lq, alpha)
        return lp.exp() * ratio, (alpha - 1) * lq.exp() * ratio.expm1()

    def skew_reverse_kl(lp: Tensor, lq: Tensor) -> tuple[Tensor, Tensor]:
        ratio = lq - _mixed(lq, lp, alpha)
        q = lq.exp()
        return q * ratio, q * (ratio - alpha * ratio.expm1())

    def jsd(lp: Tensor, lq: Tensor) -> tuple[Tensor, Tensor]:
        mixed = _mixed(lp, lq, alpha)
        of_q = (1 - alpha) * lq.exp() * (lq - mixed)
        return alpha * lp.exp() * (lp - mixed) + of_q, of_q

    def tvd(lp: Tensor, lq: Tensor) -> tuple[Tensor, Tensor]:
        q = lq.exp()
        difference = q - lp.exp()
        return 0.5 * difference.abs(), 0.5 * q * difference.sign()

    return {
        "forward_kl": forward_kl,
        "reverse_kl": reverse_kl,
        "skew_kl": skew_kl,
        "skew_reverse_kl": skew_reverse_kl,
        "jsd": jsd,
        "tvd": tvd,
    }[kind]


def _mixed(first: Tensor, second: Tensor, share: float) -> Tensor:
    """log(share e^first + (1 - share) e^second); of equals exactly these."""
    difference = second - first
    of_smaller = (1 - share) + (2 * share - 1) * (difference > 0).to(difference.dtype)
    larger = torch.maximum(first, second)
    return larger + (of_smaller * (-difference.abs()).expm1()).log1p()


class _Divergence(torch.autograd.Function):
    """One pass over the slices for the Kullback-Leibler divergences, else one for the normalisers
    and one for the sums; one for the gradient."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, caps, measure = arguments
        student, teacher = _readouts(tensors, caps)
        ctx.caps, ctx.measure = caps, measure
        value_K = wide(student.hidden_KD.new_zeros(len(student.hidden_KD)))
        slope_K = torch.zeros_like(value_K)
        student_K = torch.full_like(value_K, -torch.inf)
        teacher_K = student_K.clone()
        is_one_pass = measure.kind in ONE_PASS
        grow = _on(student, _grow_sum if is_one_pass else _grow)
        parts = slices(student.hidden_KD, student.weight_VD, kept=2)
        for part in parts:
            raw = _raw(student, part), _raw(teacher, part)
            student_K, teacher_K, value_K = grow(*raw, student_K, teacher_K, value_K, caps, measure)
        if not is_one_pass:
            add = _on(student, _sums)
            for part in parts:
                raw = _raw(student, part), _raw(teacher, part)
                f_K, w_K = add(*raw, student_K, teacher_K, caps, measure)
                value_K += f_K
                slope_K += w_K
        elif measure.kind == "forward_kl":
            value_K = value_K - teacher_K + student_K
            slope_K -= 1
        else:
            value_K = value_K - student_K + teacher_K
            slope_K = value_K
        ctx.save_for_backward(*tensors, student_K, teacher_K, slope_K)
        return value_K

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        *tensors, student_K, teacher_K, slope_K = ctx.saved_tensors
        student, teacher = _readouts(tensors, ctx.caps)
        slopes_of = _on(student, _divergence_slopes)
        gradient = _Gradient(student, ctx.needs_input_grad)
        for part in slices(student.hidden_KD, student.weight_VD, kept=2):
            raw = _raw(student, part), _raw(teacher, part)
            gradient.add(
                part,
                slopes_of(*raw, student_K, teacher_K, slope_K, grads[0], ctx.caps, ctx.measure),
            )
        return *gradient.found(), None, None, None, None, None


class _Picks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        hidden_KD, weight_VD, bias_V, ids_KM, softcap, temperature = arguments
        student = Readout(hidden_KD, weight_VD, bias_V, softcap)
        ctx.softcap, ctx.temperature = softcap, temperature
        picked_KM = wide(student.hidden_KD.new_full(ids_KM.shape, -torch.inf))
        rest_K = torch.full_like(picked_KM[:, 0], -torch.inf)
        for part in slices(student.hidden_KD, student.weight_VD):
            logits_KC = capped(wide(_raw(student, part)), softcap)
            if temperature != 1:
                logits_KC = logits_KC / temperature
            at, columns = _inside(ids_KM, part)
            picked_KM[at] = logits_KC[at[0], columns]
            logits_KC[at[0], columns] = -torch.inf
            rest_K = torch.logaddexp(rest_K, logits_KC.logsumexp(-1))
        normaliser_K = torch.logaddexp(rest_K, picked_KM.logsumexp(-1))
        ctx.save_for_backward(*student[:3], ids_KM, picked_KM, rest_K, normaliser_K)
        return picked_KM - normaliser_K[:, None], rest_K - normaliser_K

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        hidden_KD, weight_VD, bias_V, ids_KM, picked_KM, rest_K, normaliser_K = ctx.saved_tensors
        student = Readout(hidden_KD, weight_VD, bias_V, ctx.softcap)
        grad_KM = torch.where(ids_KM >= 0, grads[0], 0.0)
        grad_K = grads[1]
        all_K = grad_KM.sum(-1) + grad_K
        at_picked_KM = grad_KM - all_K[:, None] * (picked_KM - normaliser_K[:, None]).exp()
        # Of the others e^(logit - rest) is at most 1, however little their mass is.
        others_K = grad_K - all_K * (rest_K - normaliser_K).exp()
        gradient = _Gradient(student, ctx.needs_input_grad)
        for part in slices(student.hidden_KD, student.weight_VD):
            raw_KC = _raw(student, part)
            logits_KC = capped(wide(raw_KC), ctx.softcap)
            slopes_KC = (logits_KC / ctx.temperature - rest_K[:, None]).exp_()
            slopes_KC *= others_K[:, None]
            at, columns = _inside(ids_KM, part)
            slopes_KC[at[0], columns] = at_picked_KM[at]
            slopes_KC = _of_raw(slopes_KC, logits_KC, ctx.softcap, ctx.temperature)
            gradient.add(part, slopes_KC.to(raw_KC.dtype))
        return *gradient.found(), None, None, None


class _Gradient:
    """Of the student's tensors, summed over slices of the logits."""

    def __init__(self, student: Readout, needed: tuple[bool, ...]) -> None:
        self.student = student
        self.hidden_KD = wide(torch.zeros_like(student.hidden_KD))
        self.weight_VD = torch.empty_like(student.weight_VD) if needed[1] else None
        bias_V = student.bias_V if needed[2] else None
        self.bias_V = None if bias_V is None else torch.empty_like(bias_V)

    def add(self, part: slice, slopes_KC: Tensor) -> None:
        self.hidden_KD += slopes_KC @ self.student.weight_VD[part]
        if self.weight_VD is not None:
            torch.mm(slopes_KC.T, self.student.hidden_KD, out=self.weight_VD[part])
        if self.bias_V is not None:
            self.bias_V[part] = slopes_KC.sum(0)

    def found(self) -> tuple[Tensor | None, ...]:
        return self.hidden_KD.to(self.student.hidden_KD.dtype), self.weight_VD, self.bias_V


def _readouts(tensors: Sequence[Tensor], caps: Caps) -> tuple[Readout, Readout]:
    return (
        Readout(tensors[0], tensors[1], tensors[2], caps[0]),
        Readout(tensors[3], tensors[4], tensors[5], caps[1]),
    )


def _grow(
    student_KC: Tensor,
    teacher_KC: Tensor,
    student_K: Tensor,
    teacher_K: Tensor,
    value_K: Tensor,
    caps: Caps,
    measure: Measure,
) -> tuple[Tensor, Tensor, Tensor]:
    """The normalisers of the slices read so far, this one included."""
    student_KC, teacher_KC = _logits(student_KC, teacher_KC, caps, measure)
    return (
        torch.logaddexp(student_K, student_KC.logsumexp(-1)),
        torch.logaddexp(teacher_K, teacher_KC.logsumexp(-1)),
        value_K,
    )


def _grow_sum(
    student_KC: Tensor,
    teacher_KC: Tensor,
    student_K: Tensor,
    teacher_K: Tensor,
    value_K: Tensor,
    caps: Caps,
    measure: Measure,
) -> tuple[Tensor, Tensor, Tensor]:
    """Also the mean difference of the logits under one of both, scaled as its normaliser grows."""
    student_KC, teacher_KC = _logits(student_KC, teacher_KC, caps, measure)
    student_new_K = torch.logaddexp(student_K, student_KC.logsumexp(-1))
    teacher_new_K = torch.logaddexp(teacher_K, teacher_KC.logsumexp(-1))
    if measure.kind == "forward_kl":
        own_KC, other_KC, before_K, after_K = teacher_KC, student_KC, teacher_K, teacher_new_K
    else:
        own_KC, other_KC, before_K, after_K = student_KC, teacher_KC, student_K, student_new_K
    here_K = ((own_KC - after_K[:, None]).exp() * (own_KC - other_KC)).sum(-1)
    return student_new_K, teacher_new_K, value_K * (before_K - after_K).exp() + here_K


def _sums(
    student_KC: Tensor,
    teacher_KC: Tensor,
    student_K: Tensor,
    teacher_K: Tensor,
    caps: Caps,
    measure: Measure,
) -> tuple[Tensor, Tensor]:
    student_KC, teacher_KC = _logits(student_KC, teacher_KC, caps, measure)
    f_KC, w_KC = terms_of(measure)(teacher_KC - teacher_K[:, None], student_KC - student_K[:, None])
    return f_KC.sum(-1), w_KC.sum(-1)


def _divergence_slopes(
    student_KC: Tensor,
    teacher_KC: Tensor,
    student_K: Tensor,
    teacher_K: Tensor,
    slope_K: Tensor,
    grad_K: Tensor,
    caps: Caps,
    measure: Measure,
) -> Tensor:
    """Gradient of a slice of the head's output, in its precision: [K, C]."""
    dtype = student_KC.dtype
    student_KC, teacher_KC = _logits(student_KC, teacher_KC, caps, measure)
    lq_KC = student_KC - student_K[:, None]
    _, w_KC = terms_of(measure)(teacher_KC - teacher_K[:, None], lq_KC)
    slopes_KC = (w_KC - lq_KC.exp() * slope_K[:, None]) * grad_K[:, None]
    logits_KC = student_KC * measure.temperature
    return _of_raw(slopes_KC, logits_KC, caps[0], measure.temperature).to(dtype)


def _logits(
    student_KC: Tensor, teacher_KC: Tensor, caps: Caps, measure: Measure
) -> tuple[Tensor, Tensor]:
    student_KC = capped(wide(student_KC), caps[0])
    teacher_KC = capped(wide(teacher_KC), caps[1])
    if measure.temperature == 1:
        return student_KC, teacher_KC
    return student_KC / measure.temperature, teacher_KC / measure.temperature


def _of_raw(
    slopes_KC: Tensor, logits_KC: Tensor, softcap: float | None, temperature: float
) -> Tensor:
    """From the gradient of logits / temperature that of what the head gives."""
    if temperature != 1:
        slopes_KC = slopes_KC / temperature
    return slopes_KC * (1 - (logits_KC / softcap).square()) if softcap else slopes_KC


def _raw(side: Readout, part: slice) -> Tensor:
    return nn.functional.linear(side.hidden_KD, side.weight_VD[part], part_of(side.bias_V, part))


def _inside(ids_KM: Tensor, part: slice) -> tuple[tuple[Tensor, ...], Tensor]:
    """Where the ids of a slice stand in ids_KM, and their columns in the slice."""
    at = ((ids_KM >= part.start) & (ids_KM < part.stop)).nonzero(as_tuple=True)
    return at, ids_KM[at] - part.start


def _on(student: Readout, function: Callable[..., Any]) -> Callable[..., Any]:
    return fused(function) if student.hidden_KD.is_cuda else function
