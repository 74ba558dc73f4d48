"""Hidden states -> log-probabilities of targets; logits exist one slice of vocabulary at a time.

Legend: K target tokens, D hidden, V vocabulary of the tokenizer, C of its columns in a chunk.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Logits of one chunk in float32. torch's linear_cross_entropy took 13 s where the chunks took 0.3,
# and returns bf16.
CHUNK_BYTES = {"cpu": 64 * 2**20, "cuda": 512 * 2**20}
# Rows assumed when a chunk's width is computed, so that a short batch does not get one huge chunk:
# the CPU's matmul copies the weight slice it reads.
MIN_ROWS = 1024


class Readout(NamedTuple):
    """What makes logits: softcap(hidden @ weight.T + bias)."""

    hidden_KD: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None = None
    softcap: float | None = None


class ChunkedLogprob(torch.autograd.Function):
    """log_softmax(softcap(hidden @ weight.T + bias))[label] in float32 or wider, [K].

    A chunk is a slice of the vocabulary for all rows: each weight is read, and its gradient
    written, once a pass. Backward computes the logits again; their log-normaliser is saved.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_KD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_K: Tensor,
        softcap: float | None,
    ) -> Tensor:
        ctx.softcap = softcap
        chosen_K = wide(hidden_KD.new_zeros(len(hidden_KD)))
        normaliser_K = torch.full_like(chosen_K, -torch.inf)
        measure = fused(_chosen_and_normaliser) if hidden_KD.is_cuda else _chosen_and_normaliser
        for part in slices(hidden_KD, weight_VD):
            logits_KC = nn.functional.linear(hidden_KD, weight_VD[part], part_of(bias_V, part))
            chosen_here_K, normaliser_here_K = measure(logits_KC, labels_K - part.start, softcap)
            del logits_KC
            chosen_K += chosen_here_K
            normaliser_K = torch.logaddexp(normaliser_K, normaliser_here_K)
        ctx.save_for_backward(hidden_KD, weight_VD, bias_V, labels_K, chosen_K, normaliser_K)
        return chosen_K - normaliser_K

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        (grad_K,) = grads
        hidden_KD, weight_VD, bias_V, labels_K, chosen_K, normaliser_K = ctx.saved_tensors
        grad_KD = wide(torch.zeros_like(hidden_KD))
        grad_VD = torch.empty_like(weight_VD) if ctx.needs_input_grad[1] else None
        grad_V = torch.empty_like(bias_V) if ctx.needs_input_grad[2] else None
        slopes_of = fused(_slopes) if hidden_KD.is_cuda else _slopes
        # d logprob / d logits = onehot - softmax
        at_label_K = grad_K * (1 - (chosen_K - normaliser_K).exp())
        if ctx.softcap:
            at_label_K *= 1 - (chosen_K / ctx.softcap).square()
        for part in slices(hidden_KD, weight_VD):
            logits_KC = nn.functional.linear(hidden_KD, weight_VD[part], part_of(bias_V, part))
            slopes_KC = slopes_of(
                logits_KC, labels_K - part.start, normaliser_K, grad_K, at_label_K, ctx.softcap
            )
            del logits_KC
            grad_KD += slopes_KC @ weight_VD[part]
            if grad_VD is not None:
                torch.mm(slopes_KC.T, hidden_KD, out=grad_VD[part])
            if grad_V is not None:
                grad_V[part] = slopes_KC.sum(0)
        return grad_KD.to(hidden_KD.dtype), grad_VD, grad_V, None, None


def wide(tensor: Tensor) -> Tensor:
    """In float32; float64 stays, in which a student is tried."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def slices(hidden_KD: Tensor, weight_VD: Tensor, kept: int = 1) -> list[slice]:
    """Of the vocabulary; `kept`: how many of [K, C] in float32 are held at once."""
    rows = max(len(hidden_KD), MIN_ROWS)
    size = max(1, CHUNK_BYTES[weight_VD.device.type] // (4 * rows * kept))
    vocabulary = len(weight_VD)
    return [slice(start, min(start + size, vocabulary)) for start in range(0, vocabulary, size)]


def part_of(bias_V: Tensor | None, part: slice) -> Tensor | None:
    return None if bias_V is None else bias_V[part]


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    return softcap * torch.tanh(logits / softcap) if softcap else logits


def _chosen_and_normaliser(
    logits_KC: Tensor, labels_K: Tensor, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """The label's logit in a chunk, 0 where it is outside; the chunk's log-normaliser: [K], [K]."""
    is_inside_K, columns_K = _columns(logits_KC, labels_K)
    logits_KC = capped(wide(logits_KC), softcap)
    chosen_K = torch.where(is_inside_K, logits_KC.gather(1, columns_K[:, None])[:, 0], 0.0)
    return chosen_K, logits_KC.logsumexp(-1)


def _slopes(
    logits_KC: Tensor,
    labels_K: Tensor,
    normaliser_K: Tensor,
    grad_K: Tensor,
    at_label_K: Tensor,
    softcap: float | None,
) -> Tensor:
    """Gradient of a chunk's logits, in their precision: [K, C]."""
    dtype = logits_KC.dtype
    is_inside_K, columns_K = _columns(logits_KC, labels_K)
    logits_KC = capped(wide(logits_KC), softcap)
    cap_slope_KC = 1 - (logits_KC / softcap).square() if softcap else None
    logits_KC.sub_(normaliser_K[:, None]).exp_().mul_(-grad_K[:, None])
    if cap_slope_KC is not None:
        logits_KC.mul_(cap_slope_KC)
    kept_K = logits_KC.gather(1, columns_K[:, None])[:, 0]
    slope_K = torch.where(is_inside_K, at_label_K, kept_K)
    logits_KC.scatter_(1, columns_K[:, None], slope_K[:, None])
    return logits_KC.to(dtype)


def _columns(logits_KC: Tensor, labels_K: Tensor) -> tuple[Tensor, Tensor]:
    """Whether a label is one of the chunk's columns, and its column, which is any if not."""
    width = logits_KC.shape[1]
    return (labels_K >= 0) & (labels_K < width), labels_K.clamp(0, width - 1)


@cache
def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """One pass over the logits instead of one per operation."""
    return torch.compile(function, dynamic=True)
