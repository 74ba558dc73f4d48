"""How each target relates to the tokens it sees: the student's relations against a frozen model's.

The relation of a token is softmax(query key^T scale) over the tokens that both models see up to it:
those of its completion and as much of the prompts' ends as is the same. One text at a time, and
again in backward, so that nothing of tokens by tokens is kept.
Legend: N tokens of all rows, W numbers of a token, H heads of W / H numbers each, K targets. Of a
text: S targets and A tokens that they see, of which the last S are where the targets are drawn.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from fastdistill_ray.errors import UserError
from fastdistill_ray.models import load_config, quiet_transformers
from fastdistill_ray.objectives.contract import Wanted
from fastdistill_ray.training.attention import SLIDING, window_of
from fastdistill_ray.training.head import wide
from fastdistill_ray.training.packing import Inputs, Segment
from fastdistill_ray.training.small_copy import SPECIAL, small_copy
from fastdistill_ray.training.student import CausalModel, decoder_blocks
from fastdistill_ray.training.taps import Vectors, kept, projections_of

Texts = list[tuple[Segment, Segment]]  # of the student and of the model beside it


class RelationKl(torch.autograd.Function):
    """[K], the mean over heads of KL(the other's relation, the student's)."""

    @staticmethod
    def forward(
        ctx: Any,
        query_NW: Tensor,
        key_NW: Tensor,
        other_query_NW: Tensor,
        other_key_NW: Tensor,
        texts: Texts,
        num_heads: int,
        scales: tuple[float, float],
    ) -> Tensor:
        ctx.save_for_backward(query_NW, key_NW, other_query_NW, other_key_NW)
        ctx.constants = (texts, num_heads, scales)
        values = []
        for own, other in texts:
            log_q_HSA = _log_relation(query_NW, key_NW, own, num_heads, scales[0])
            log_p_HSA = _log_relation(other_query_NW, other_key_NW, other, num_heads, scales[1])
            is_hidden_HSA = log_p_HSA == -torch.inf
            apart_HSA = (log_p_HSA - log_q_HSA).masked_fill_(is_hidden_HSA, 0.0)
            values.append((log_p_HSA.exp() * apart_HSA).sum(-1).mean(0))
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        (grad_K,) = grads
        query_NW, key_NW, other_query_NW, other_key_NW = ctx.saved_tensors
        texts, num_heads, scales = ctx.constants
        grad_query_NW = wide(torch.zeros_like(query_NW))
        grad_key_NW = wide(torch.zeros_like(key_NW))
        start = 0
        for own, other in texts:
            size = own.end - own.start
            q_HSA = _log_relation(query_NW, key_NW, own, num_heads, scales[0]).exp_()
            p_HSA = _log_relation(other_query_NW, other_key_NW, other, num_heads, scales[1]).exp_()
            weight_S1 = grad_K[start : start + size, None] * (scales[0] / num_heads)
            slope_HSA = q_HSA.sub_(p_HSA).mul_(weight_S1)
            key_HAD = _heads(_seen(key_NW, own), num_heads)
            query_HSD = _heads(_seen(query_NW, own)[-size:], num_heads)
            _add_seen(grad_query_NW, own, torch.bmm(slope_HSA, key_HAD))
            _add_seen(grad_key_NW, own, torch.bmm(slope_HSA.mT, query_HSD))
            start += size
        return (
            grad_query_NW.to(query_NW.dtype),
            grad_key_NW.to(key_NW.dtype),
            *[None] * 5,
        )


def related(own: Sequence[Vectors], other: Sequence[Vectors], texts: Texts) -> tuple[Tensor, ...]:
    """[K] of each of a block's relations."""
    return tuple(
        RelationKl.apply(
            *(mine.query_NW, mine.key_NW, its.query_NW, its.key_NW),
            texts,
            mine.num_heads,
            (mine.scale, its.scale),
        )
        for mine, its in zip(own, other, strict=True)
    )


def projected_widths(folder: str, block: int) -> dict[str, int]:
    """How wide the projections of a block are, by their names; of the folder only the config is
    read. UserError where the family has none by themselves."""
    config = load_config(folder)
    with torch.device("meta"), quiet_transformers():
        model = CausalModel(AutoModelForCausalLM.from_config(config), 1)
    layers = projections_of(decoder_blocks(model)[block], config.model_type)
    return {name: cast(Tensor, layer.weight).shape[0] for name, layer in layers.items()}


def check_attention(folder: str, block: int, longest: int) -> None:
    """UserError where the attention of a block is no relation of each token to all before it, of
    texts of at most so many tokens; of the folder only the config is read."""
    config = load_config(folder)
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    window = window_of(text) if not kinds or kinds[block] == SLIDING else None
    if window is not None and window < longest:
        raise UserError(
            f"block {block} attends to {window} tokens, texts have up to {longest} "
            "(training.max_seq_len); take a block that attends to all"
        )
    model = CausalModel(small_copy(config), 1)
    blocks, text = decoder_blocks(model), model.model.config.get_text_config()
    ids = torch.arange(SPECIAL, SPECIAL + 4)[None]
    with torch.no_grad(), kept(blocks, Wanted(related=min(block, len(blocks) - 1)), text):
        model.model(input_ids=ids, use_cache=False)


def common_texts(own: Inputs, other: Inputs) -> Texts:
    """Of arrays with the same completions: places of each completion in the flat rows of both, and
    of the end of its prompt that both read, which is one token at least."""
    texts = []
    for mine, its in zip(_texts_of(own), _texts_of(other), strict=True):
        size = _common_end(
            own.input_ids.ravel()[mine.prompt_start : mine.prompt_end],
            other.input_ids.ravel()[its.prompt_start : its.prompt_end],
        )
        texts.append(tuple(one._replace(prompt_start=one.prompt_end - size) for one in (mine, its)))
    return texts


def _texts_of(inputs: Inputs) -> list[Segment]:
    if inputs.is_packed:
        return [one for one in inputs.segments if one.prompt_start < one.prompt_end]
    length = inputs.input_ids.shape[1]
    rows, firsts, sizes = np.unique(inputs.sources // length, return_index=True, return_counts=True)
    found = []
    for row, first, size in zip(rows.tolist(), firsts, sizes.tolist(), strict=True):
        start = int(inputs.sources[first]) + 1
        found.append(Segment(start, start + size, row * length, start))
    return found


def _common_end(one: np.ndarray, other: np.ndarray) -> int:
    most = min(len(one), len(other))
    apart = np.flatnonzero(one[::-1][:most] != other[::-1][:most])
    return max(1, int(apart[0]) if len(apart) else most)


def _log_relation(
    query_NW: Tensor, key_NW: Tensor, text: Segment, num_heads: int, scale: float
) -> Tensor:
    """[H, S, A] in float32 or wider, -inf of what is not seen."""
    key_HAD = _heads(_seen(key_NW, text), num_heads)
    size, num_seen = text.end - text.start, key_HAD.shape[1]
    query_HSD = _heads(_seen(query_NW, text)[-size:], num_heads)
    scores_HSA = torch.bmm(query_HSD, key_HAD.mT).mul_(scale)
    hidden_SA = scores_HSA.new_full((size, num_seen), -torch.inf).triu_(num_seen - size + 1)
    return scores_HSA.add_(hidden_SA).log_softmax(-1)


def _seen(values_NW: Tensor, text: Segment) -> Tensor:
    """[A, W]: of the prompt's end, and of the completion all but its last token."""
    own = values_NW[text.start : text.end - 1]
    return wide(torch.cat([values_NW[text.prompt_start : text.prompt_end], own]))


def _heads(values_AW: Tensor, num_heads: int) -> Tensor:
    """[H, A, D]"""
    return values_AW.view(len(values_AW), num_heads, -1).transpose(0, 1)


def _add_seen(total_NW: Tensor, text: Segment, part_HSD: Tensor) -> None:
    """To the last of the tokens that are seen, as many as there are."""
    part_SW = part_HSD.transpose(0, 1).flatten(1)
    own = text.end - 1 - text.start
    rest = len(part_SW) - own
    total_NW[text.prompt_end - rest : text.prompt_end] += part_SW[:rest]
    total_NW[text.start : text.end - 1] += part_SW[rest:]
