"""What a step needs to know of whole distributions, without one [K, V] in memory.

`divergence` sums a function of both log-probabilities over the vocabulary; `picks` gives the
log-probabilities of some ids and the exact log-mass of all others. Logits exist one slice of the
vocabulary at a time, for all rows, and are computed again for the gradient.
Legend: K positions, D hidden, E the teacher's, V vocabulary, C of its columns in a slice, M ids.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastdistill_ray.objectives.contract import Divergence, Measure
from fastdistill_ray.training.head import Readout, capped, fused, part_of, slices, wide

Caps = tuple[float | None, float | None]  # of the student's and the teacher's logits
ONE_PASS = ("forward_kl", "reverse_kl")  # linear in the logits under one of the normalisers


def divergence(student: Readout, teacher: Readout, measure: Measure) -> Tensor:
    """[K] in float32 or wider, in nats; differentiable by the student's tensors.

    Both heads must have as many rows: those of the tokenizer, whatever they are padded to.
    """
    assert len(student.weight_VD) == len(teacher.weight_VD)
    assert len(student.hidden_KD) == len(teacher.hidden_KD)
    caps = student.softcap, teacher.softcap
    return _Divergence.apply(*student[:3], *teacher[:3], caps, measure)


def divergence_of_parts(
    student: Readout, teacher: Readout, measures: Sequence[Measure], parts: Sequence[Tensor]
) -> Tensor:
    """As `divergence`, by each measure at the positions in its part, int64; the parts are disjoint
    and together all positions."""
    value_K = wide(student.hidden_KD.new_zeros(len(student.hidden_KD)))
    for measure, places in zip(measures, parts, strict=True):
        if len(places):
            own, other = (
                side._replace(hidden_KD=side.hidden_KD.index_select(0, places))
                for side in (student, teacher)
            )
            value_K = value_K.index_copy(0, places, divergence(own, other, measure))
    return value_K


def picks(student: Readout, ids_KM: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """log q of the ids, [K, M], and the log-mass of all others, [K], in float32 or wider.

    The ids of a row differ; -1 stands for none, whose log-probability is -inf. The mass of the
    others is summed itself: 1 minus that of the ids would be rounding where they hold all but
    little of it.
    """
    return _Picks.apply(*student[:3], ids_KM, student.softcap, temperature)


@torch.no_grad()
def likeliest(readout: Readout) -> Tensor:
    """The id of the likeliest token, [K]; of equals the first."""
    best_K = wide(torch.full_like(readout.hidden_KD[:, 0], -torch.inf))
    ids_K = torch.zeros_like(best_K, dtype=torch.int64)
    for part in slices(readout.hidden_KD, readout.weight_VD):
        here_K, columns_K = capped(wide(_raw(readout, part)), readout.softcap).max(-1)
        is_better_K = here_K > best_K
        ids_K = torch.where(is_better_K, columns_K + part.start, ids_K)
        best_K = torch.where(is_better_K, here_K, best_K)
    return ids_K


@torch.no_grad()
def top_ids(readout: Readout, k: int) -> Tensor:
    """The ids of the k likeliest tokens, [K, k], the likeliest first."""
    best_KM = wide(readout.hidden_KD.new_empty(len(readout.hidden_KD), 0))
    ids_KM = best_KM.long()
    for part in slices(readout.hidden_KD, readout.weight_VD):
        logits_KC = capped(wide(_raw(readout, part)), readout.softcap)
        here_KM, columns_KM = logits_KC.topk(min(k, logits_KC.shape[1]), -1)
        best_KM = torch.cat([best_KM, here_KM], 1)
        ids_KM = torch.cat([ids_KM, columns_KM + part.start], 1)
        best_KM, places_KM = best_KM.topk(min(k, best_KM.shape[1]), -1)
        ids_KM = ids_KM.gather(1, places_KM)
    return ids_KM


def of_top(
    student: Readout, teacher: Readout | None, k: int, labels_K: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """[K, k] log-probabilities of the student's k likeliest tokens by the student, which are
    differentiable, and by the teacher, if there is one; [K], 1 where the label is among them, else
    0."""
    ids_KM = top_ids(student, k)
    other_KM = None
    if teacher:
        with torch.no_grad():
            other_KM, _ = picks(teacher, ids_KM)
    own_KM, _ = picks(student, ids_KM)
    return own_KM, other_KM, (ids_KM == labels_K[:, None]).any(1).to(own_KM.dtype)


def of_likeliest(student: Readout, teacher: Readout, temperature: float) -> tuple[Tensor, Tensor]:
    """[K, 2] log-probabilities by the student, which are differentiable, and by the teacher: of the
    teacher's likeliest token, and of the student's, which are -inf where that is the same."""
    first_K, second_K = likeliest(teacher), likeliest(student)
    second_K = torch.where(first_K == second_K, -1, second_K)
    ids_K2 = torch.stack([first_K, second_K], 1)
    with torch.no_grad():
        other_K2, _ = picks(teacher, ids_K2, temperature)
    return picks(student, ids_K2, temperature)[0], other_K2


class Terms(NamedTuple):
    """Of a slice; w is q df/dq up to a multiple of q, which the softmax takes out."""

    f_KC: Tensor | None  # whose sum over the vocabulary is the divergence
    w_KC: Tensor
    q_KC: Tensor


def terms_of(kind: Divergence, alpha: float, lp: Tensor, lq: Tensor, *, needs_f: bool) -> Terms:
    """From log p and log q, [K, C]; finite where p or q underflow."""
    q = lq.exp()
    match kind:
        case "forward_kl":
            p = lp.exp()
            f = p * (lp - lq) if needs_f else None
            return Terms(f, p.neg_(), q)
        case "reverse_kl":
            w = (lq - lp).mul_(q)
            return Terms(w, w, q)
        case "skew_kl":
            ratio = lp - _mixed(lp, lq, alpha)
            f = lp.exp().mul_(ratio) if needs_f else None
            return Terms(f, ratio.expm1_().mul_(q).mul_(alpha - 1), q)
        case "skew_reverse_kl":
            ratio = lq - _mixed(lq, lp, alpha)
            f = q * ratio if needs_f else None
            return Terms(f, (ratio - ratio.expm1().mul_(alpha)).mul_(q), q)
        case "jsd":
            mixed = _mixed(lp, lq, alpha)
            w = (lq - mixed).mul_(q).mul_(1 - alpha)
            f = lp.exp().mul_(lp - mixed).mul_(alpha).add_(w) if needs_f else None
            return Terms(f, w, q)
        case "tvd":
            difference = q - lp.exp()
            f = difference.abs().mul_(0.5) if needs_f else None
            return Terms(f, difference.sign_().mul_(q).mul_(0.5), q)


def _mixed(first: Tensor, second: Tensor, share: float) -> Tensor:
    """log(share e^first + (1 - share) e^second); of equals exactly these."""
    difference = second - first
    of_smaller = (difference > 0).to(difference.dtype).mul_(2 * share - 1).add_(1 - share)
    of_smaller *= difference.abs_().neg_().expm1_()
    return of_smaller.log1p_().add_(torch.maximum(first, second))


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
        gradient = HeadGradient(student, ctx.needs_input_grad)
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
        gradient = HeadGradient(student, ctx.needs_input_grad)
        for part in slices(student.hidden_KD, student.weight_VD):
            raw_KC = _raw(student, part)
            logits_KC = capped(wide(raw_KC), ctx.softcap)
            if ctx.temperature != 1:
                logits_KC = logits_KC / ctx.temperature
            cap_slope_KC = _cap_slope(logits_KC, ctx.softcap, ctx.temperature)
            slopes_KC = logits_KC.sub_(rest_K[:, None]).exp_().mul_(others_K[:, None])
            at, columns = _inside(ids_KM, part)
            slopes_KC[at[0], columns] = at_picked_KM[at]
            slopes_KC /= ctx.temperature
            if cap_slope_KC is not None:
                slopes_KC *= cap_slope_KC
            gradient.add(part, slopes_KC.to(raw_KC.dtype))
        return *gradient.found(), None, None, None


class HeadGradient:
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
    is_forward = measure.kind == "forward_kl"
    own_KC, other_KC = (teacher_KC, student_KC) if is_forward else (student_KC, teacher_KC)
    before_K, other_K = (teacher_K, student_K) if is_forward else (student_K, teacher_K)
    other_K = torch.logaddexp(other_K, other_KC.logsumexp(-1))
    difference_KC = own_KC - other_KC
    most_K = own_KC.amax(-1)
    own_KC.sub_(most_K[:, None]).exp_()
    own_K = torch.logaddexp(before_K, most_K + own_KC.sum(-1).log())
    here_K = difference_KC.mul_(own_KC).sum(-1) * (most_K - own_K).exp()
    value_K = value_K * (before_K - own_K).exp() + here_K
    return (other_K, own_K, value_K) if is_forward else (own_K, other_K, value_K)


def _sums(
    student_KC: Tensor,
    teacher_KC: Tensor,
    student_K: Tensor,
    teacher_K: Tensor,
    caps: Caps,
    measure: Measure,
) -> tuple[Tensor, Tensor]:
    student_KC, teacher_KC = _logits(student_KC, teacher_KC, caps, measure)
    lp_KC, lq_KC = teacher_KC.sub_(teacher_K[:, None]), student_KC.sub_(student_K[:, None])
    found = terms_of(measure.kind, measure.alpha, lp_KC, lq_KC, needs_f=True)
    assert found.f_KC is not None
    return found.f_KC.sum(-1), found.w_KC.sum(-1)


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
    cap_slope_KC = _cap_slope(student_KC, caps[0], measure.temperature)
    lp_KC, lq_KC = teacher_KC.sub_(teacher_K[:, None]), student_KC.sub_(student_K[:, None])
    _, w_KC, q_KC = terms_of(measure.kind, measure.alpha, lp_KC, lq_KC, needs_f=False)
    slopes_KC = w_KC.addcmul_(q_KC, slope_K[:, None], value=-1)
    slopes_KC *= (grad_K / measure.temperature)[:, None]
    return (slopes_KC if cap_slope_KC is None else slopes_KC * cap_slope_KC).to(dtype)


def _logits(
    student_KC: Tensor, teacher_KC: Tensor, caps: Caps, measure: Measure
) -> tuple[Tensor, Tensor]:
    student_KC = capped(wide(student_KC), caps[0])
    teacher_KC = capped(wide(teacher_KC), caps[1])
    if measure.temperature == 1:
        return student_KC, teacher_KC
    return student_KC / measure.temperature, teacher_KC / measure.temperature


def _cap_slope(logits_KC: Tensor, softcap: float | None, temperature: float) -> Tensor | None:
    """Of logits / temperature under a cap, their slope by what the head gives, times temperature;
    None: 1."""
    return 1 - (logits_KC * (temperature / softcap)).square() if softcap else None


def _raw(side: Readout, part: slice) -> Tensor:
    return nn.functional.linear(side.hidden_KD, side.weight_VD[part], part_of(side.bias_V, part))


def _inside(ids_KM: Tensor, part: slice) -> tuple[tuple[Tensor, ...], Tensor]:
    """Where the ids of a slice stand in ids_KM, and their columns in the slice."""
    at = ((ids_KM >= part.start) & (ids_KM < part.stop)).nonzero(as_tuple=True)
    return at, ids_KM[at] - part.start


def _on(student: Readout, function: Callable[..., Any]) -> Callable[..., Any]:
    return fused(function) if student.hidden_KD.is_cuda else function
