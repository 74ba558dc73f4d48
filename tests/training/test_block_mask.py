"""Blocks made of segments against torch's own, which asks about every pair of tokens."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from fastdistill_ray.training.block_mask import FLEX_BLOCK, block_mask, blocks_of, packed_mask
from fastdistill_ray.training.packing import (
    Inputs,
    Segment,
    TrainCompletion,
    TrainGroup,
    packed_batch,
)
from fastdistill_ray.training.student import to_device

CPU = torch.device("cpu")


def packed(lengths: list[tuple[int, list[int]]], multiple_of: int) -> Inputs:
    groups = [
        TrainGroup(
            "g",
            np.arange(prompt),
            [TrainCompletion(np.arange(size), 1.0, 0.0) for size in completions],
        )
        for prompt, completions in lengths
    ]
    return to_device(packed_batch(groups, multiple_of).inputs, CPU)


def pairs(counts: torch.Tensor, indices: torch.Tensor) -> np.ndarray:
    """[B, B] bool of a table of key blocks."""
    found = np.zeros(indices.shape[-2:], bool)
    for row, number in enumerate(counts[0, 0].tolist()):
        found[row, indices[0, 0, row, :number].tolist()] = True
    return found


def tables(mask: BlockMask) -> tuple[np.ndarray, np.ndarray]:
    assert mask.full_kv_num_blocks is not None and mask.full_kv_indices is not None
    partial = pairs(mask.kv_num_blocks, mask.kv_indices)
    return partial, pairs(mask.full_kv_num_blocks, mask.full_kv_indices)


@settings(max_examples=40)
@given(
    lengths=st.lists(
        st.tuples(st.integers(1, 400), st.lists(st.integers(1, 400), min_size=1, max_size=4)),
        min_size=1,
        max_size=3,
    ),
    window=st.none() | st.integers(1, 500),
    multiple_of=st.sampled_from([1, FLEX_BLOCK]),
)
def test_blocks_are_those_that_every_pair_of_tokens_gives(lengths, window, multiple_of):
    inputs = packed(lengths, multiple_of)
    length = inputs.input_ids.shape[1]
    expected = create_block_mask(packed_mask(inputs, window), 1, None, length, length, CPU)
    ours = block_mask(inputs, window)
    assert ours.shape == expected.shape and ours.BLOCK_SIZE == expected.BLOCK_SIZE
    partial, whole = tables(ours)
    expected_partial, expected_whole = tables(expected)
    assert np.array_equal(partial | whole, expected_partial | expected_whole)
    assert not (partial & whole).any()
    by_keys = pairs(ours.q_num_blocks, ours.q_indices)  # what the backward pass reads
    assert np.array_equal(by_keys, partial.T)
    assert not (whole & ~expected_whole).any()
    # Whole by two ranges together, as where a completion follows its prompt, is asked pair by pair.
    seams = {edge // FLEX_BLOCK for one in inputs.segments for edge in (one.start, one.end)}
    for row, column in zip(*np.nonzero(expected_whole & ~whole), strict=True):
        assert {row, column} & seams


def test_row_of_a_hundred_thousand_tokens_takes_no_table_of_pairs():
    size = 100_000
    segments = [Segment(0, 4_000, 0, 0), Segment(4_000, size, 0, 4_000)]
    seen, whole = blocks_of(segments, size, None)
    number = -(-size // FLEX_BLOCK)
    assert seen.shape == (number, number)
    assert seen.sum() == number * (number + 1) // 2, "causal"
    assert whole.sum() > 0.99 * (seen.sum() - 2 * number)
