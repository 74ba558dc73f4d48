"""The mean log-probability of all tokens of the vocabulary but one, without a [K, V] in memory.

Legend: K positions, D hidden, V vocabulary, C of its columns in a slice.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fastdistill_ray.training.head import Readout, capped, part_of, slices, wide
from fastdistill_ray.training.operators import HeadGradient


def mean_of_others(student: Readout, ids_K: Tensor, temperature: float) -> Tensor:
    """[K] in float32 or wider, of all tokens but that of `ids_K`; differentiable by the student's
    tensors."""
    return _MeanOfOthers.apply(*student, ids_K, temperature)


class _MeanOfOthers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        hidden_KD, weight_VD, bias_V, softcap, ids_K, temperature = arguments
        student = Readout(hidden_KD, weight_VD, bias_V, softcap)
        total_K = torch.zeros(len(hidden_KD), dtype=torch.float64, device=hidden_KD.device)
        normaliser_K = wide(torch.full_like(hidden_KD[:, 0], -torch.inf))
        for part in slices(hidden_KD, weight_VD):
            logits_KC, is_one_KC = _of(student, part, ids_K, temperature)
            total_K += logits_KC.masked_fill(is_one_KC, 0.0).sum(-1)
            normaliser_K = torch.logaddexp(normaliser_K, logits_KC.logsumexp(-1))
        ctx.softcap, ctx.temperature = softcap, temperature
        ctx.save_for_backward(hidden_KD, weight_VD, bias_V, ids_K, normaliser_K)
        return (total_K / (len(weight_VD) - 1)).to(normaliser_K.dtype) - normaliser_K

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        hidden_KD, weight_VD, bias_V, ids_K, normaliser_K = ctx.saved_tensors
        student = Readout(hidden_KD, weight_VD, bias_V, ctx.softcap)
        gradient = HeadGradient(student, ctx.needs_input_grad)
        share = 1 / (len(weight_VD) - 1)
        for part in slices(hidden_KD, weight_VD):
            logits_KC, is_one_KC = _of(student, part, ids_K, ctx.temperature)
            own_KC = (~is_one_KC).to(logits_KC.dtype) * share
            slopes_KC = own_KC - (logits_KC - normaliser_K[:, None]).exp()
            slopes_KC *= (grads[0] / ctx.temperature)[:, None]
            if ctx.softcap:
                slopes_KC *= 1 - (logits_KC * (ctx.temperature / ctx.softcap)).square()
            gradient.add(part, slopes_KC.to(hidden_KD.dtype))
        return *gradient.found(), None, None, None


def _of(student: Readout, part: slice, ids_K: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """[K, C]: logits at the temperature, and whether a column is that of the row's id."""
    raw = nn.functional.linear(
        student.hidden_KD, student.weight_VD[part], part_of(student.bias_V, part)
    )
    logits_KC = capped(wide(raw), student.softcap) / temperature
    columns_C = torch.arange(part.start, part.stop, device=ids_K.device)
    return logits_KC, columns_C == ids_K[:, None]
