"""Attention inside packed groups: a token sees its prompt and its own completion, causally.

On CUDA a FlexAttention block mask; elsewhere `grouped`, which computes only the pairs that are
seen, one prompt or completion at a time, in float32. Legend: L tokens of the packed row, H heads,
N key heads, R = H / N, D of a head; a segment of S tokens after a prompt of P.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from fastdistill_ray.training.packing import PADDING, PROMPT, Inputs, Segment

SLIDING = "sliding_attention"  # transformers' name of such layers
GROUPED = "grouped"  # its name among transformers' attention implementations
FLEX_BLOCK = 128  # tokens; packed rows on CUDA are padded to it, so that few shapes are compiled


def register_grouped() -> None:
    """Makes GROUPED known to transformers in this process, before a model is loaded with it."""
    AttentionInterface.register(GROUPED, grouped_attention)


def row_multiple(device: torch.device) -> int:
    """Tokens that the length of a packed row on that device is a multiple of."""
    return FLEX_BLOCK if device.type == "cuda" else 1


def attention_arguments(inputs: Inputs, config: PreTrainedConfig) -> dict[str, Any]:
    """What the model's decoder is given so that each layer sees what `inputs` says.

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
    holders = [
        one for one in (model.config, *model.modules()) if getattr(one, "sliding_window", None)
    ]
    windows = [one.sliding_window for one in holders]
    for one in holders:
        one.sliding_window = num_tokens
    try:
        yield
    finally:
        for one, window in zip(holders, windows, strict=True):
            one.sliding_window = window


def window_of(config: PreTrainedConfig) -> int | None:
    """Tokens a sliding layer sees; None where there is no such layer."""
    if not getattr(config, "use_sliding_window", True):
        return None
    kinds = getattr(config, "layer_types", None)
    is_used = kinds is None or SLIDING in kinds
    return getattr(config, "sliding_window", None) if is_used else None


def block_mask(inputs: Inputs, window: int | None) -> BlockMask:
    rows, length = inputs.input_ids.shape
    visible = packed_mask(inputs, window)
    return create_block_mask(visible, rows, None, length, length, device=inputs.input_ids.device)


def packed_mask(inputs: Inputs, window: int | None) -> Any:
    """FlexAttention's mask_mod."""
    group, completion, position = inputs.group, inputs.completion, inputs.position_ids

    def visible(row: Tensor, _head: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
        is_same = completion[row, query] == completion[row, key]
        is_prompt = completion[row, key] == PROMPT
        seen = (group[row, query] == group[row, key]) & (is_prompt | is_same) & (key <= query)
        if window is None:
            return seen
        return seen & (position[row, query] - position[row, key] < window)

    return visible


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: None,
    *,
    segments: list[Segment],
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer: [1, H, L, D] -> [1, L, H, D]."""
    out = GroupedAttention.apply(
        query[0], key[0], value[0], segments, scaling, sliding_window, softcap
    )
    return out.transpose(0, 1)[None], None


class GroupedAttention(torch.autograd.Function):
    """softmax(softcap(q k^T scale)) v over the seen pairs; probabilities are computed again."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        segments: list[Segment],
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        ctx.constants = (segments, scale, window, softcap)
        # As the model lays it out: [L, H, D] in memory.
        out = query.new_zeros(query.shape[1], query.shape[0], value.shape[2]).transpose(0, 1)
        keys, values = key.float(), value.float()
        for segment in segments:
            probability, _ = _probability(query, keys, segment, scale, window, softcap)
            found = torch.bmm(probability, _seen(values, segment))
            out[:, segment.start : segment.end] = found.view(len(query), -1, value.shape[2])
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out = ctx.saved_tensors
        segments, scale, window, softcap = ctx.constants
        grad_query = torch.zeros_like(query)
        keys, values = key.float(), value.float()
        grad_keys, grad_values = torch.zeros_like(keys), torch.zeros_like(values)
        # d softmax: p (dp - sum p dp), and that sum is grad * out.
        inner_sum = (grad.float() * out).sum(-1, keepdim=True)
        for segment in segments:
            probability, slope = _probability(query, keys, segment, scale, window, softcap)
            rows = _rows(grad, len(key), segment)
            _add_seen(grad_values, segment, torch.bmm(probability.mT, rows))
            inner = torch.bmm(rows, _seen(values, segment).mT)
            inner.sub_(_rows(inner_sum, len(key), segment)).mul_(probability).mul_(scale)
            if slope is not None:
                inner.mul_(slope)
            found = torch.bmm(inner, _seen(keys, segment)).view(len(query), -1, query.shape[2])
            grad_query[:, segment.start : segment.end] = found
            _add_seen(grad_keys, segment, torch.bmm(inner.mT, _rows(query, len(key), segment)))
        return grad_query, grad_keys.to(key.dtype), grad_values.to(value.dtype), *[None] * 4


def _probability(
    query: Tensor,
    keys: Tensor,
    segment: Segment,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor | None]:
    """[N, R * S, P + S] in float32, and the slope of the soft cap."""
    scores = torch.bmm(_rows(query, len(keys), segment), _seen(keys, segment).mT).mul_(scale)
    slope = None
    if softcap is not None:
        scores = scores.div_(softcap).tanh_()
        slope = 1 - scores.square()
        scores.mul_(softcap)
    prompt, length = segment.prompt_end - segment.prompt_start, segment.end - segment.start
    hidden = torch.full((length, prompt + length), -torch.inf).triu_(prompt + 1)
    if window is not None:
        hidden += torch.full_like(hidden, -torch.inf).tril_(prompt - window)
    scores.view(len(keys), -1, length, prompt + length).add_(hidden)
    return scores.softmax(-1), slope


def _rows(query: Tensor, num_key_heads: int, segment: Segment) -> Tensor:
    """A segment's [N, R * S, D], query heads of one key head together."""
    part = query[:, segment.start : segment.end].float()
    return part.reshape(num_key_heads, -1, query.shape[2])


def _seen(keys: Tensor, segment: Segment) -> Tensor:
    """[N, P + S, D]: the prompt's and the segment's own."""
    own = keys[:, segment.start : segment.end]
    return torch.cat([keys[:, segment.prompt_start : segment.prompt_end], own], dim=1)


def _add_seen(total: Tensor, segment: Segment, part: Tensor) -> None:
    prompt = segment.prompt_end - segment.prompt_start
    total[:, segment.prompt_start : segment.prompt_end] += part[:, :prompt]
    total[:, segment.start : segment.end] += part[:, prompt:]
