"""Operations of a step against a count over every pair of tokens and every weight."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from fastdistill_ray.training.packing import TrainCompletion, TrainGroup, packed_batch, plain_batch
from fastdistill_ray.training.utilisation import num_operations, num_pairs, work_of


def group(name: str, prompt: int, completions: list[int]) -> TrainGroup:
    ids = [TrainCompletion(np.ones(length, np.int64), 1.0, 0.0) for length in completions]
    return TrainGroup(name, np.ones(prompt, np.int64), ids)


GROUPS = [group("a", 10, [4, 6]), group("b", 3, [5])]
TOKENS, TARGETS = 10 + 4 + 6 + 3 + 5, 4 + 6 + 5


def test_pairs_of_packed_and_padded_groups_are_those_a_token_sees():
    packed = packed_batch(GROUPS, 128).inputs
    expected = 10**2 / 2 + 4 * 10 + 4**2 / 2 + 6 * 10 + 6**2 / 2 + 3**2 / 2 + 5 * 3 + 5**2 / 2
    assert num_pairs(packed) == expected
    padded = plain_batch(GROUPS, mask_prompt=True).inputs
    assert num_pairs(padded) == 14**2 / 2 + 16**2 / 2 + 8**2 / 2


@pytest.mark.parametrize("is_tied", [True, False])
def test_operations_are_six_per_weight_and_token_and_twelve_per_pair(is_tied):
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=is_tied,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    block = 4 * 8 * 8 + 3 * 8 * 12 + 2 * 8
    blocks = 2 * block + 8  # the last norm
    batch = packed_batch(GROUPS, 1)
    expected = 6 * blocks * TOKENS + 6 * 50 * 8 * TARGETS + 12 * 8 * 2 * num_pairs(batch.inputs)
    assert num_operations(work_of(model), [batch]) == expected
    assert num_operations(work_of(model), [batch, batch]) == 2 * expected
    for parameter in model.parameters():
        parameter.requires_grad = False
    frozen = 4 * (blocks * TOKENS + 50 * 8 * TARGETS) + 12 * 8 * 2 * num_pairs(batch.inputs)
    assert num_operations(work_of(model), [batch]) == frozen


def test_experts_count_by_the_share_that_a_token_goes_through():
    config = MixtralConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
    )
    with torch.device("meta"):
        model = MixtralForCausalLM(config)
    batch = packed_batch(GROUPS, 1)
    attention, router, norms, experts = 4 * 8 * 8, 4 * 8, 3 * 8, 2 * 3 * 8 * 12  # two of four
    expected = 6 * (attention + router + norms + experts) * TOKENS + 6 * 20 * 8 * TARGETS
    assert num_operations(work_of(model), [batch]) == expected + 12 * 8 * num_pairs(batch.inputs)
