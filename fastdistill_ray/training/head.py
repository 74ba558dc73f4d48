"""Hidden states -> log-probabilities of targets; logits exist one slice of vocabulary at a time.

Legend: K target tokens, D hidden, V vocabulary of the tokenizer.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

# Logits of one chunk in float32. torch's linear_cross_entropy took 13 s where the chunks took 0.3,
# and returns bf16.
CHUNK_BYTES = {"cpu": 64 * 2**20, "cuda": 512 * 2**20}
# Rows assumed when a chunk's width is computed, so that a short batch does not get one huge chunk:
# the CPU's matmul copies the weight slice it reads.
MIN_ROWS = 1024


class ChunkedLogprob(torch.autograd.Function):
    """log_softmax(softcap(hidden @ weight.T + bias))[label] in float32, [K].

    A chunk is a slice of the vocabulary for all rows: each weight is read, and its gradient
    written, once a pass. Backward computes the logits again; their log-normaliser is saved.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        softcap: float | None,
    ) -> Tensor:
        ctx.softcap = softcap
        chosen = hidden.new_zeros(len(hidden), dtype=torch.float32)
        normaliser = torch.full_like(chosen, -torch.inf)
        measure = _fused(_chosen_and_normaliser) if hidden.is_cuda else _chosen_and_normaliser
        for part in _chunks(hidden, weight):
            logits = nn.functional.linear(hidden, weight[part], _part(bias, part))
            found, of_part = measure(logits, labels - part.start, softcap)
            del logits
            chosen += found
            normaliser = torch.logaddexp(normaliser, of_part)
        ctx.save_for_backward(hidden, weight, bias, labels, chosen, normaliser)
        return chosen - normaliser

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels, chosen, normaliser = ctx.saved_tensors
        grad_hidden = torch.zeros_like(hidden, dtype=torch.float32)
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.empty_like(bias) if ctx.needs_input_grad[2] else None
        slopes_of = _fused(_slopes) if hidden.is_cuda else _slopes
        # d logprob / d logits = onehot - softmax
        at_label = grad * (1 - (chosen - normaliser).exp())
        if ctx.softcap:
            at_label *= 1 - (chosen / ctx.softcap).square()
        for part in _chunks(hidden, weight):
            logits = nn.functional.linear(hidden, weight[part], _part(bias, part))
            slopes = slopes_of(logits, labels - part.start, normaliser, grad, at_label, ctx.softcap)
            del logits
            grad_hidden += slopes @ weight[part]
            if grad_weight is not None:
                torch.mm(slopes.T, hidden, out=grad_weight[part])
            if grad_bias is not None:
                grad_bias[part] = slopes.sum(0)
        return grad_hidden.to(hidden.dtype), grad_weight, grad_bias, None, None


def _chunks(hidden: Tensor, weight: Tensor) -> list[slice]:
    rows = max(len(hidden), MIN_ROWS)
    size = max(1, CHUNK_BYTES[weight.device.type] // (4 * rows))
    return [slice(start, min(start + size, len(weight))) for start in range(0, len(weight), size)]


def _part(bias: Tensor | None, part: slice) -> Tensor | None:
    return None if bias is None else bias[part]


def _capped(logits: Tensor, softcap: float | None) -> Tensor:
    return softcap * torch.tanh(logits / softcap) if softcap else logits


def _chosen_and_normaliser(
    logits: Tensor, labels: Tensor, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """The label's logit in a chunk, 0 if it is outside, and the chunk's log-normaliser."""
    is_inside, columns = _columns(logits, labels)
    logits = _capped(logits.float(), softcap)
    chosen = torch.where(is_inside, logits.gather(1, columns[:, None])[:, 0], 0.0)
    return chosen, logits.logsumexp(-1)


def _slopes(
    logits: Tensor,
    labels: Tensor,
    normaliser: Tensor,
    grad: Tensor,
    at_label: Tensor,
    softcap: float | None,
) -> Tensor:
    """Gradient of a chunk's logits, in their precision."""
    dtype = logits.dtype
    is_inside, columns = _columns(logits, labels)
    logits = _capped(logits.float(), softcap)
    slope = 1 - (logits / softcap).square() if softcap else None
    logits.sub_(normaliser[:, None]).exp_().mul_(-grad[:, None])
    if slope is not None:
        logits.mul_(slope)
    kept = logits.gather(1, columns[:, None])[:, 0]
    logits.scatter_(1, columns[:, None], torch.where(is_inside, at_label, kept)[:, None])
    return logits.to(dtype)


def _columns(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether a label is one of the chunk's columns, and its column, which is any if not."""
    width = logits.shape[1]
    return (labels >= 0) & (labels < width), labels.clamp(0, width - 1)


@cache
def _fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """One pass over the logits instead of one per operation."""
    return torch.compile(function, dynamic=True)
