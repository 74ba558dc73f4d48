"""FlexAttention's mask of a packed row, from its segments.

What blocks hold is known from where prompts and completions begin and end, so that nothing of
length L x L is made, as `create_block_mask` does, which asks about every pair of tokens.
Legend: L tokens of the packed row, B blocks of it.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from fastdistill_ray.training.packing import PROMPT, Inputs, Segment

FLEX_BLOCK = 128  # tokens; packed rows on CUDA are padded to it, so that few shapes are compiled


class Blocks(NamedTuple):
    """Pairs of a block of queries and one of keys."""

    seen: np.ndarray  # [B, B] bool: some query sees some key
    whole: np.ndarray  # [B, B] bool: every query sees every key


def block_mask(inputs: Inputs, window: int | None) -> BlockMask:
    """Of a packed row, on its device."""
    length, device = inputs.input_ids.shape[1], inputs.input_ids.device
    seen, whole = blocks_of(inputs.segments, length, window)
    tables = [*_table(seen & ~whole), *_table(whole)]
    return BlockMask.from_kv_blocks(
        *(torch.from_numpy(table)[None, None].to(device) for table in tables),
        BLOCK_SIZE=FLEX_BLOCK,
        mask_mod=packed_mask(inputs, window),
        seq_lengths=(length, length),
    )


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


def blocks_of(segments: list[Segment], length: int, window: int | None) -> Blocks:
    """Of a row of that many tokens; what follows its last segment is padding, which sees itself."""
    number = -(-length // FLEX_BLOCK)
    found = Blocks(*(np.zeros((number, number), bool) for _ in range(2)))
    for start, end, prompt_start, prompt_end in segments:
        own, prompt = (start, end), (prompt_start, prompt_end)
        _add(found, own, own, 0, window)
        # A completion's positions go on where its prompt's end.
        _add(found, own, prompt, prompt_end - start, window)
    end = segments[-1].end if segments else 0
    _add(found, (end, length), (end, length), 0, None)
    return found


def _add(
    found: Blocks,
    queries: tuple[int, int],
    keys: tuple[int, int],
    offset: int,
    window: int | None,
) -> None:
    """The pairs of a query and a key at or before it, whose positions are as far apart as their
    places in the row, plus `offset`."""
    if queries[0] == queries[1] or keys[0] == keys[1]:
        return
    first, last = _ends(queries)
    first_key, last_key = _ends(keys)
    at, key_at = first // FLEX_BLOCK, first_key // FLEX_BLOCK
    seen = first_key[None, :] <= last[:, None]
    nearest = np.maximum(first[:, None] - last_key[None, :], 0)
    whole = last_key[None, :] <= first[:, None]
    whole &= _is_full(first, last)[:, None] & _is_full(first_key, last_key)[None, :]
    if window is not None:
        seen &= nearest + offset < window
        whole &= last[:, None] - first_key[None, :] + offset < window
    place = np.ix_(at, key_at)
    found.seen[place] |= seen
    found.whole[place] |= whole


def _ends(tokens: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """First and last of the tokens in each block that has any."""
    starts = np.arange(tokens[0] // FLEX_BLOCK, -(-tokens[1] // FLEX_BLOCK)) * FLEX_BLOCK
    return np.maximum(starts, tokens[0]), np.minimum(starts + FLEX_BLOCK, tokens[1]) - 1


def _is_full(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    return last - first == FLEX_BLOCK - 1


def _table(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many keys' blocks each block of queries has, [B], and which, [B, B], others after."""
    order = np.argsort(~pairs, axis=1, kind="stable")
    return pairs.sum(1, dtype=np.int32), order.astype(np.int32)
