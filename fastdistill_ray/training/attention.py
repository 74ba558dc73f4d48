"""Attention inside packed groups: a token sees its prompt and its own completion, causally.

On CUDA a FlexAttention block mask; elsewhere `grouped`, which computes only the pairs that are
seen, one prompt or completion at a time, in float32.
Legend: L tokens of the packed row, H query heads, N key heads, D of a head. Of a segment: S tokens,
A = P + S tokens it sees after a prompt of P, Q = S * H / N queries of the heads of one key head.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from fastdistill_ray.training.block_mask import FLEX_BLOCK, block_mask
from fastdistill_ray.training.head import wide
from fastdistill_ray.training.packing import PADDING, Inputs, Segment

SLIDING = "sliding_attention"  # transformers' name of such layers
GROUPED = "grouped"  # its name among transformers' attention implementations


def register_grouped() -> None:
    """Makes GROUPED known to transformers in this process, before a model is loaded with it."""
    AttentionInterface.register(GROUPED, grouped_attention)


def packed_attention(device: torch.device) -> str:
    """What packed groups are given on that device, by its name in transformers."""
    return "flex_attention" if device.type == "cuda" else GROUPED


def row_multiple(device: torch.device) -> int:
    """Tokens that the length of a packed row on that device is a multiple of."""
    return FLEX_BLOCK if device.type == "cuda" else 1


def attention_arguments(inputs: Inputs, config: PreTrainedConfig) -> dict[str, Any]:
    """What the model's decoder is given so that each layer sees what `inputs` says; `config` is
    that of its text.

    Never no mask at all: transformers would guess packed sequences from jumps in the positions.
    """
    if not inputs.is_packed:
        return {"attention_mask": (inputs.group != PADDING).long()}
    if config._attn_implementation == GROUPED:
        return {"attention_mask": None, "segments": inputs.segments}
    window = window_of(config)
    if not window:
        return {"attention_mask": block_mask(inputs, None)}
    if not getattr(config, "layer_types", None):
        return {"attention_mask": block_mask(inputs, window)}
    kinds = set(config.layer_types)
    masks = {kind: block_mask(inputs, window if kind == SLIDING else None) for kind in kinds}
    return {"attention_mask": masks}


@contextlib.contextmanager
def short_window(model: PreTrainedModel, num_tokens: int) -> Iterator[None]:
    """Its sliding layers see that few tokens: then a short text shows whether they do."""
    holders: list[Any] = [
        part
        for part in (model.config.get_text_config(), *model.modules())
        if getattr(part, "sliding_window", None)
    ]
    windows = [holder.sliding_window for holder in holders]
    for holder in holders:
        holder.sliding_window = num_tokens
    try:
        yield
    finally:
        for holder, window in zip(holders, windows, strict=True):
            holder.sliding_window = window


def window_of(config: PreTrainedConfig) -> int | None:
    """Tokens a sliding layer sees; None where there is no such layer."""
    if not getattr(config, "use_sliding_window", True):
        return None
    kinds = getattr(config, "layer_types", None)
    is_used = kinds is None or SLIDING in kinds
    return getattr(config, "sliding_window", None) if is_used else None


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    segments: list[Segment],
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer, names and all: [1, H, L, D] -> [1, L, H, D]."""
    out_HLD = GroupedAttention.apply(
        query[0], key[0], value[0], segments, scaling, sliding_window, softcap
    )
    return out_HLD.transpose(0, 1)[None], None


class GroupedAttention(torch.autograd.Function):
    """softmax(softcap(q k^T scale)) v over the seen pairs; probabilities are computed again."""

    @staticmethod
    def forward(
        ctx: Any,
        query_HLD: Tensor,
        key_NLD: Tensor,
        value_NLD: Tensor,
        segments: list[Segment],
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        ctx.constants = (segments, scale, window, softcap)
        num_heads, num_tokens, _ = query_HLD.shape
        # As the model lays it out: [L, H, D] in memory.
        out_LHD = query_HLD.new_zeros(num_tokens, num_heads, value_NLD.shape[2])
        out_HLD = out_LHD.transpose(0, 1)
        keys_NLD, values_NLD = wide(key_NLD), wide(value_NLD)
        for segment in segments:
            probability_NQA, _ = _probability(query_HLD, keys_NLD, segment, scale, window, softcap)
            mixed_NQD = torch.bmm(probability_NQA, _seen(values_NLD, segment))
            out_HLD[:, segment.start : segment.end] = mixed_NQD.view(
                num_heads, -1, value_NLD.shape[2]
            )
        ctx.save_for_backward(query_HLD, key_NLD, value_NLD, out_HLD)
        return out_HLD

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        (grad_HLD,) = grads
        query_HLD, key_NLD, value_NLD, out_HLD = ctx.saved_tensors
        segments, scale, window, softcap = ctx.constants
        num_key_heads = len(key_NLD)
        grad_query_HLD = torch.zeros_like(query_HLD)
        keys_NLD, values_NLD = wide(key_NLD), wide(value_NLD)
        grad_keys_NLD, grad_values_NLD = torch.zeros_like(keys_NLD), torch.zeros_like(values_NLD)
        # d softmax: p (dp - sum p dp), and that sum is grad * out.
        inner_sum_HL1 = (wide(grad_HLD) * out_HLD).sum(-1, keepdim=True)
        for segment in segments:
            probability_NQA, cap_slope_NQA = _probability(
                query_HLD, keys_NLD, segment, scale, window, softcap
            )
            grad_NQD = _rows(grad_HLD, num_key_heads, segment)
            _add_seen(grad_values_NLD, segment, torch.bmm(probability_NQA.mT, grad_NQD))
            inner_NQA = torch.bmm(grad_NQD, _seen(values_NLD, segment).mT)
            inner_sum_NQ1 = _rows(inner_sum_HL1, num_key_heads, segment)
            inner_NQA.sub_(inner_sum_NQ1).mul_(probability_NQA).mul_(scale)
            if cap_slope_NQA is not None:
                inner_NQA.mul_(cap_slope_NQA)
            grad_query_NQD = torch.bmm(inner_NQA, _seen(keys_NLD, segment))
            grad_query_HLD[:, segment.start : segment.end] = grad_query_NQD.view(
                len(query_HLD), -1, query_HLD.shape[2]
            )
            query_NQD = _rows(query_HLD, num_key_heads, segment)
            _add_seen(grad_keys_NLD, segment, torch.bmm(inner_NQA.mT, query_NQD))
        return (
            grad_query_HLD,
            grad_keys_NLD.to(key_NLD.dtype),
            grad_values_NLD.to(value_NLD.dtype),
            *[None] * 4,
        )


def _probability(
    query_HLD: Tensor,
    keys_NLD: Tensor,
    segment: Segment,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor | None]:
    """[N, Q, A] in float32, and the slope of the soft cap."""
    query_NQD = _rows(query_HLD, len(keys_NLD), segment)
    scores_NQA = torch.bmm(query_NQD, _seen(keys_NLD, segment).mT).mul_(scale)
    cap_slope_NQA = None
    if softcap is not None:
        scores_NQA = scores_NQA.div_(softcap).tanh_()
        cap_slope_NQA = 1 - scores_NQA.square()
        scores_NQA.mul_(softcap)
    prompt, length = segment.prompt_end - segment.prompt_start, segment.end - segment.start
    hidden_SA = torch.full((length, prompt + length), -torch.inf).triu_(prompt + 1)
    if window is not None:
        hidden_SA += torch.full_like(hidden_SA, -torch.inf).tril_(prompt - window)
    scores_NQA.view(len(keys_NLD), -1, length, prompt + length).add_(hidden_SA)
    return scores_NQA.softmax(-1), cap_slope_NQA


def _rows(query_HLD: Tensor, num_key_heads: int, segment: Segment) -> Tensor:
    """A segment's [N, Q, D]: query heads of one key head together."""
    part_HSD = wide(query_HLD[:, segment.start : segment.end])
    return part_HSD.reshape(num_key_heads, -1, query_HLD.shape[2])


def _seen(keys_NLD: Tensor, segment: Segment) -> Tensor:
    """[N, A, D]: the prompt's and the segment's own."""
    own_NSD = keys_NLD[:, segment.start : segment.end]
    return torch.cat([keys_NLD[:, segment.prompt_start : segment.prompt_end], own_NSD], dim=1)


def _add_seen(total_NLD: Tensor, segment: Segment, part_NAD: Tensor) -> None:
    prompt = segment.prompt_end - segment.prompt_start
    total_NLD[:, segment.prompt_start : segment.prompt_end] += part_NAD[:, :prompt]
    total_NLD[:, segment.start : segment.end] += part_NAD[:, prompt:]
