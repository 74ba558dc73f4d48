"""A text's likeliest tokens in their order, of two models with two vocabularies, and how these move
through it (MultiLevelOT, arXiv 2412.14528).

Logits are divided by their standard deviation over the vocabulary; of each text the tokens with the
largest sums of probabilities are taken, on each side its own, and the i-th of both sides belong
together. Of whole distributions a slice of the vocabulary is computed at a time; what is kept is
of the tokens taken.
Legend: K targets of the student and J of the other model, T and U those of one text, C texts, D
hidden, V vocabulary, M tokens taken, S spans.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastdistill_ray.objectives.contract import Across
from fastdistill_ray.training.alignment import Spans
from fastdistill_ray.training.head import Readout, capped, part_of, slices, wide
from fastdistill_ray.training.operators import HeadGradient

LEAST = 1e-6  # deviation of logits: those of an empty micro-batch's token may be one number


class Levels(NamedTuple):
    """Differentiable by the student's tensors."""

    absolute_S: Tensor  # sum over the tokens taken of |p - q|
    logarithmic_S: Tensor  # -sum of p log q
    transport_C: Tensor  # what it costs to move the tokens of a text to those of the other


def levels(student: Readout, other: Readout, across: Across, spans: Spans) -> Levels:
    """Spans begin at targets of both sides; texts are all of them. In float32 or wider.

    Memory: two slices of the vocabulary for all K in float32, [K, M], and for one text at a time
    [T, U], in backward twice for each iteration.
    """
    k = min(across.k, len(student.weight_VD), len(other.weight_VD))
    with torch.no_grad():
        its = _taken(other, _bounds(spans.other_lengths), k, across.temperature)
    own = _taken(student, _bounds(spans.own_lengths), k, across.temperature)
    lq_SM = nn.functional.embedding(spans.own, own)  # whose backward adds in one order always
    lp_SM = its[spans.other]
    costs = [
        Transport.apply(its[a:b].exp(), own[c:d].exp(), across.epsilon, across.iterations)
        for (a, b), (c, d) in zip(
            _bounds(spans.other_lengths), _bounds(spans.own_lengths), strict=True
        )
    ]
    return Levels(
        *token_costs(lp_SM, lq_SM),
        transport_C=torch.stack(costs) if costs else own.new_zeros(0),
    )


def token_costs(lp_SM: Tensor, lq_SM: Tensor) -> tuple[Tensor, Tensor]:
    """[S] each, absolute and logarithmic, of tokens in their order."""
    p_SM = lp_SM.exp()
    return (p_SM - lq_SM.exp()).abs().sum(-1), -(p_SM * lq_SM).sum(-1)


class Transport(torch.autograd.Function):
    """Sinkhorn's transport of T tokens, [T, M], to U, [U, M], that all weigh alike: the sum of its
    plan times the L1 distances. In the logarithm, so that no epsilon underflows; the iterations are
    computed again for the gradient of the second."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        p_TM, q_UM, ctx.epsilon, ctx.iterations = arguments
        ctx.save_for_backward(p_TM, q_UM)
        return sinkhorn(torch.cdist(p_TM, q_UM, p=1.0), ctx.epsilon, ctx.iterations)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        p_TM, q_UM = ctx.saved_tensors
        with torch.enable_grad():
            q_UM = q_UM.detach().requires_grad_()
            cost_TU = torch.cdist(p_TM.detach(), q_UM, p=1.0)
            cost = sinkhorn(cost_TU, ctx.epsilon, ctx.iterations)
        (grad_UM,) = torch.autograd.grad(cost, q_UM, grads[0])
        return None, grad_UM, None, None


def sinkhorn(cost_TU: Tensor, epsilon: float, iterations: int) -> Tensor:
    """The sum of plan times cost; the plan's columns sum to 1 / U, its rows nearly to 1 / T."""
    num_rows, num_columns = cost_TU.shape
    plan_TU = -cost_TU / epsilon
    for _ in range(iterations):
        plan_TU = plan_TU - (plan_TU.logsumexp(1, keepdim=True) + math.log(num_rows))
        plan_TU = plan_TU - (plan_TU.logsumexp(0, keepdim=True) + math.log(num_columns))
    return (plan_TU.exp() * cost_TU).sum()


def _bounds(lengths_C: Tensor) -> list[tuple[int, int]]:
    """Where texts begin and end among the targets."""
    ends = list(itertools.accumulate(lengths_C.tolist()))
    return list(zip([0, *ends], ends, strict=False))


def _taken(side: Readout, texts: Sequence[tuple[int, int]], k: int, temperature: float) -> Tensor:
    """[K, M], log-probabilities of the tokens taken of each target's text; of none where K has no
    text."""
    spread_K, normaliser_K = _Spread.apply(*side, temperature)
    if not texts:
        zeros_K1 = (0.0 * spread_K)[:, None]
        return zeros_K1.expand(-1, k)
    scale_K = 1 / (temperature * spread_K)
    ids_CM = _likeliest(side, texts, k, scale_K.detach(), normaliser_K.detach())
    rows_CMD = nn.functional.embedding(ids_CM, side.weight_VD)
    found = []
    for place, (start, end) in enumerate(texts):
        bias_M = None if side.bias_V is None else side.bias_V[ids_CM[place]]
        raw_TM = nn.functional.linear(side.hidden_KD[start:end], rows_CMD[place], bias_M)
        found.append(capped(wide(raw_TM), side.softcap))
    return torch.cat(found) * scale_K[:, None] - normaliser_K[:, None]


@torch.no_grad()
def _likeliest(
    side: Readout,
    texts: Sequence[tuple[int, int]],
    k: int,
    scale_K: Tensor,
    normaliser_K: Tensor,
) -> Tensor:
    """[C, M], ids in descending order of the sum of their probabilities over a text."""
    best_CM = wide(side.hidden_KD.new_empty(len(texts), 0))
    ids_CM = best_CM.long()
    for part in slices(side.hidden_KD, side.weight_VD):
        q_KC = _logits(side, part).mul_(scale_K[:, None]).sub_(normaliser_K[:, None]).exp_()
        sums_CC = torch.stack([q_KC[start:end].sum(0) for start, end in texts])
        here_CM, columns_CM = sums_CC.topk(min(k, sums_CC.shape[1]), -1)
        best_CM = torch.cat([best_CM, here_CM], 1)
        ids_CM = torch.cat([ids_CM, columns_CM + part.start], 1)
        best_CM, places_CM = best_CM.topk(min(k, best_CM.shape[1]), -1)
        ids_CM = ids_CM.gather(1, places_CM)
    return ids_CM


class _Spread(torch.autograd.Function):
    """[K] each: the standard deviation s of the logits z over the vocabulary, and the log-sum of
    e^(z / (T s)). Two passes over the slices, one more for the gradient."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        hidden_KD, weight_VD, bias_V, softcap, temperature = arguments
        side = Readout(hidden_KD, weight_VD, bias_V, softcap)
        mean_K = wide(hidden_KD.new_zeros(len(hidden_KD)))
        squares_K, seen = mean_K.clone(), 0  # of differences from the mean
        parts = slices(hidden_KD, weight_VD, kept=2)
        for part in parts:
            logits_KC = _logits(side, part)
            size, here_K = logits_KC.shape[1], logits_KC.mean(-1)
            apart_K = here_K - mean_K
            squares_K += logits_KC.sub_(here_K[:, None]).square_().sum(-1)
            squares_K += apart_K.square() * (seen * size / (seen + size))
            seen += size
            mean_K += apart_K * (size / seen)
        spread_K = (squares_K / (seen - 1)).sqrt().clamp(min=LEAST)
        scale_K = 1 / (temperature * spread_K)
        normaliser_K, expected_K = torch.full_like(mean_K, -torch.inf), torch.zeros_like(mean_K)
        for part in parts:
            logits_KC = _logits(side, part).mul_(scale_K[:, None])
            before_K = normaliser_K
            normaliser_K = torch.logaddexp(before_K, logits_KC.logsumexp(-1))
            q_KC = (logits_KC - normaliser_K[:, None]).exp_()
            expected_K = expected_K * (before_K - normaliser_K).exp()
            expected_K += q_KC.mul_(logits_KC).sum(-1)
        ctx.softcap, ctx.temperature = softcap, temperature
        ctx.save_for_backward(
            *(hidden_KD, weight_VD, bias_V, mean_K, spread_K, normaliser_K, expected_K)
        )
        return spread_K, normaliser_K

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        hidden_KD, weight_VD, bias_V, *of_rows = ctx.saved_tensors
        mean_K, spread_K, normaliser_K, expected_K = of_rows
        side = Readout(hidden_KD, weight_VD, bias_V, ctx.softcap)
        scale_K = 1 / (ctx.temperature * spread_K)
        by_spread_K = grads[0] - grads[1] * expected_K / spread_K
        by_spread_K = by_spread_K / ((len(weight_VD) - 1) * spread_K)
        gradient = HeadGradient(side, ctx.needs_input_grad)
        for part in slices(hidden_KD, weight_VD, kept=2):
            logits_KC = _logits(side, part)
            slopes_KC = (logits_KC * scale_K[:, None]).sub_(normaliser_K[:, None]).exp_()
            slopes_KC *= (grads[1] * scale_K)[:, None]
            slopes_KC += (logits_KC - mean_K[:, None]) * by_spread_K[:, None]
            if ctx.softcap:
                slopes_KC *= 1 - (logits_KC / ctx.softcap).square()
            gradient.add(part, slopes_KC.to(weight_VD.dtype))
        return *gradient.found(), None, None


def _logits(side: Readout, part: slice) -> Tensor:
    raw_KC = nn.functional.linear(side.hidden_KD, side.weight_VD[part], part_of(side.bias_V, part))
    return capped(wide(raw_KC), side.softcap)
