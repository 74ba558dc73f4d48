"""Distributions of two models with two tokenizers, compared where both begin a span of the text.

None of them is kept whole: what sorts them takes a block of rows at a time, what sums them a slice
of the vocabulary, and both compute the logits again for the gradient.
Legend: K targets of the student, S spans, D hidden, V vocabulary of the student, W of the other
model, B events beside which nothing can come next, C columns of a slice, R rows of a block.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastdistill_ray.objectives.contract import Across
from fastdistill_ray.training.alignment import NUM_EVENTS, Spans
from fastdistill_ray.training.head import (
    CHUNK_BYTES,
    ChunkedLogprob,
    Readout,
    capped,
    part_of,
    slices,
    wide,
)
from fastdistill_ray.training.levels import levels
from fastdistill_ray.training.operators import HeadGradient

COPIES = 4  # of a row of logits in float32 that sorting holds at once, of each side


class Aligned(NamedTuple):
    """What is known of a micro-batch's texts by both tokenizers."""

    spans: Spans  # of tensors
    events: tuple[Tensor, Tensor] | None  # [V], [W], with what a token begins


def compared(
    student: Readout,
    other: Readout,
    across: Across,
    aligned: Aligned,
    labels_J: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """[K] each in float32 or wider, 0 where no span begins; differentiable by the student's
    tensors. `labels_J`: the other model's targets. Of chunks: the log-probability of a span's
    tokens by the other model, and 1."""
    spans, temperature = aligned.spans, across.temperature
    if across.kind == "chunks":
        assert labels_J is not None
        found_S = chunk_logprob(other, labels_J, spans)
        return tuple(_placed(one, spans.own, student) for one in (found_S, found_S * 0 + 1))
    if across.kind == "levels":
        found = levels(student, other, across, spans)
        firsts_C = spans.own_lengths.cumsum(0) - spans.own_lengths
        places = spans.own, spans.own, firsts_C
        return tuple(_placed(*pair, student) for pair in zip(found, places, strict=True))
    own, its = at(student, spans.own), at(other, spans.other)
    if across.kind == "sorted":
        values_S = sorted_distance(own, its, temperature)
    else:
        assert aligned.events
        values_S = event_kl(own, its, aligned.events, temperature)
    return (_placed(values_S, spans.own, student),)


@torch.no_grad()
def chunk_logprob(side: Readout, labels_J: Tensor, spans: Spans) -> Tensor:
    """[S], the sums of the other model's log-probabilities of its targets from each start to the
    next, or to the end of the text. Those before a text's first start are of no span."""
    logprob_J = ChunkedLogprob.apply(*side[:3], labels_J, side.softcap)
    firsts_C = spans.other_lengths.cumsum(0) - spans.other_lengths
    begins_J = torch.zeros_like(labels_J).index_fill(0, spans.other, 1)
    begins_J = begins_J.index_fill(0, firsts_C[spans.other_lengths > 0], 1)
    part_J = (begins_J.cumsum(0) - 1).clamp(min=0)
    doubles_J = logprob_J.double()
    sums_J = torch.zeros_like(doubles_J).index_add(0, part_J, doubles_J)
    return sums_J[part_J[spans.other]].to(logprob_J.dtype)


def _placed(values: Tensor, places: Tensor, student: Readout) -> Tensor:
    """[K], 0 at all other places."""
    return values.new_zeros(len(student.hidden_KD)).index_add(0, places, values)


def at(side: Readout, places: Tensor) -> Readout:
    """Of some of its rows; unlike that of indexing, its backward adds in the same order always."""
    return side._replace(hidden_KD=nn.functional.embedding(places, side.hidden_KD))


def sorted_distance(student: Readout, other: Readout, temperature: float) -> Tensor:
    """[S], the sum over places of |p - q|, each side's probabilities in descending order, the
    shorter vocabulary filled up with 0 (arXiv 2402.12030, eq. 4).

    Of a block of rows both sides are whole: at most `head.CHUNK_BYTES`, or one row's 4 (V + W)
    bytes COPIES times over; nothing grows with S. Where there are several blocks the gradient of
    the head's weight is summed in float32, 4 V D bytes.
    """
    return _SortedDistance.apply(*student, *other, temperature)


def event_kl(
    student: Readout, other: Readout, events: tuple[Tensor, Tensor], temperature: float
) -> Tensor:
    """[S], KL(p, q) of what comes next by both models: `events` says of each token what it is."""
    with torch.no_grad():
        lp_SB = event_logmass(other, events[1], temperature)
    lq_SB = event_logmass(student, events[0], temperature)
    is_none_SB = lp_SB == -torch.inf
    apart_SB = lp_SB.masked_fill(is_none_SB, 0.0) - lq_SB.masked_fill(is_none_SB, 0.0)
    return (lp_SB.exp() * apart_SB).sum(-1)


def event_logmass(side: Readout, event_V: Tensor, temperature: float) -> Tensor:
    """[S, B] in float32 or wider: of each event the log of the probability of all its tokens, -inf
    where it has none. A slice of the vocabulary for all rows at a time."""
    return _EventLogmass.apply(*side, event_V, temperature)


class _SortedDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        hidden_KD, weight_VD, bias_V, softcap, *its, temperature = arguments
        student = Readout(hidden_KD, weight_VD, bias_V, softcap)
        other = Readout(its[0], its[1], its[2], its[3])
        ctx.caps, ctx.temperature = (student.softcap, other.softcap), temperature
        ctx.save_for_backward(*student[:3], *other[:3])
        values = []
        for rows in _blocks(student, other):
            q_RV, _, p_RW = _in_order(student, other, rows, temperature)
            values.append(_apart(q_RV, p_RW).abs().sum(-1))
        return torch.cat(values) if values else wide(student.hidden_KD.new_zeros(0))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        student = Readout(tensors[0], tensors[1], tensors[2], ctx.caps[0])
        other = Readout(tensors[3], tensors[4], tensors[5], ctx.caps[1])
        blocks = _blocks(student, other)
        gradient = _RowGradient(student, ctx.needs_input_grad, len(blocks))
        for rows in blocks:
            q_RV, places_RV, p_RW = _in_order(student, other, rows, ctx.temperature)
            w_RV = _apart(q_RV, p_RW)[:, : q_RV.shape[1]].sign_().mul_(q_RV)
            slopes_RV = w_RV.addcmul_(q_RV, w_RV.sum(-1, keepdim=True), value=-1)
            slopes_RV *= (grads[0][rows] / ctx.temperature)[:, None]
            slopes_RV = torch.empty_like(slopes_RV).scatter_(1, places_RV, slopes_RV)
            if student.softcap:
                slopes_RV *= 1 - (_logits(student, rows, 1.0) / student.softcap).square()
            gradient.add(rows, slopes_RV)
        return *gradient.found(), *[None] * 6


class _EventLogmass(torch.autograd.Function):
    """Each event has a normaliser of its own, so that none underflows however unlikely it is."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        hidden_KD, weight_VD, bias_V, softcap, event_V, temperature = arguments
        side = Readout(hidden_KD, weight_VD, bias_V, softcap)
        ctx.softcap, ctx.temperature = side.softcap, temperature
        mass_SB = wide(side.hidden_KD.new_full((len(side.hidden_KD), NUM_EVENTS), -torch.inf))
        for part in slices(side.hidden_KD, side.weight_VD, kept=3):
            logits_SC, events_C = _columns(side, part, temperature), event_V[part]
            index_SC = events_C.expand_as(logits_SC)
            most_SB = torch.full_like(mass_SB, -torch.inf)
            most_SB.scatter_reduce_(1, index_SC, logits_SC, "amax")
            logits_SC.sub_(most_SB.gather(1, index_SC)).exp_()
            sums_SB = logits_SC @ nn.functional.one_hot(events_C, NUM_EVENTS).to(logits_SC.dtype)
            mass_SB = torch.logaddexp(mass_SB, most_SB + sums_SB.log())
        normaliser_S1 = mass_SB.logsumexp(-1, keepdim=True)
        ctx.save_for_backward(*side[:3], event_V, mass_SB, normaliser_S1)
        return mass_SB - normaliser_S1

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        hidden_KD, weight_VD, bias_V, event_V, mass_SB, normaliser_S1 = ctx.saved_tensors
        side = Readout(hidden_KD, weight_VD, bias_V, ctx.softcap)
        # d log P_b / d z_v = [v of b] e^(z_v - log of b's sum) - q_v
        grad_SB = torch.where(mass_SB == -torch.inf, 0.0, grads[0])
        all_S1 = grad_SB.sum(-1, keepdim=True)
        share_SB = (grad_SB - (mass_SB - normaliser_S1).exp() * all_S1) / ctx.temperature
        gradient = HeadGradient(side, ctx.needs_input_grad)
        for part in slices(side.hidden_KD, side.weight_VD, kept=3):
            logits_SC, events_C = _columns(side, part, ctx.temperature), event_V[part]
            slopes_SC = (logits_SC - mass_SB[:, events_C]).exp_().mul_(share_SB[:, events_C])
            if side.softcap:
                scale = ctx.temperature / side.softcap
                slopes_SC *= 1 - (logits_SC * scale).square()
            gradient.add(part, slopes_SC.to(weight_VD.dtype))
        return *gradient.found(), None, None, None


class _RowGradient:
    """Of a side's tensors, summed over blocks of rows."""

    def __init__(self, side: Readout, needed: tuple[bool, ...], num_blocks: int) -> None:
        self.side = side
        self.hidden_KD = torch.zeros_like(side.hidden_KD)
        zeros_VD = torch.zeros_like(side.weight_VD) if needed[1] else None
        self.weight_VD = wide(zeros_VD) if zeros_VD is not None and num_blocks > 1 else zeros_VD
        bias_V = side.bias_V if needed[2] else None
        self.bias_V = None if bias_V is None else wide(torch.zeros_like(bias_V))

    def add(self, rows: slice, slopes_RV: Tensor) -> None:
        side = self.side
        if self.bias_V is not None:
            self.bias_V += slopes_RV.sum(0)
        slopes_RV = slopes_RV.to(side.weight_VD.dtype)
        self.hidden_KD[rows] = slopes_RV @ side.weight_VD
        if self.weight_VD is not None:
            self.weight_VD += slopes_RV.T @ side.hidden_KD[rows]

    def found(self) -> tuple[Tensor | None, ...]:
        side = self.side
        weight_VD = None if self.weight_VD is None else self.weight_VD.to(side.weight_VD.dtype)
        bias_V = None if self.bias_V is None else self.bias_V.to(side.weight_VD.dtype)
        return self.hidden_KD, weight_VD, bias_V


def _blocks(student: Readout, other: Readout) -> list[slice]:
    """Of rows, in equal parts."""
    num_rows = len(student.hidden_KD)
    width = len(student.weight_VD) + len(other.weight_VD)
    most = max(1, CHUNK_BYTES[student.weight_VD.device.type] // (4 * width * COPIES))
    return [slice(start, start + most) for start in range(0, num_rows, most)]


def _in_order(
    student: Readout, other: Readout, rows: slice, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Descending probabilities of the student, their ids, and those of the other model."""
    q_RV, places_RV = _logits(student, rows, temperature).softmax(-1).sort(-1, descending=True)
    p_RW = _logits(other, rows, temperature).softmax(-1).sort(-1, descending=True).values
    return q_RV, places_RV, p_RW


def _apart(q_RV: Tensor, p_RW: Tensor) -> Tensor:
    """q - p, as wide as the wider one."""
    apart_R = q_RV.new_zeros(len(q_RV), max(q_RV.shape[1], p_RW.shape[1]))
    apart_R[:, : q_RV.shape[1]] = q_RV
    apart_R[:, : p_RW.shape[1]] -= p_RW
    return apart_R


def _logits(side: Readout, rows: slice, temperature: float) -> Tensor:
    raw = nn.functional.linear(side.hidden_KD[rows], side.weight_VD, side.bias_V)
    return capped(wide(raw), side.softcap) / temperature


def _columns(side: Readout, part: slice, temperature: float) -> Tensor:
    raw = nn.functional.linear(side.hidden_KD, side.weight_VD[part], part_of(side.bias_V, part))
    return capped(wide(raw), side.softcap) / temperature
