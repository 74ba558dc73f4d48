"""What the training benchmark compares computes the same thing, and runs at a tiny size."""

import pytest
import torch
from support.learner import load, loss_and_gradients
from support.models import make_tiny_model
from support.processes.ranks import make_groups
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from benchmarks.training.padded import group_loss
from benchmarks.training.throughput import (
    Shape,
    padded_throughput,
    save_model,
    step_operations,
    throughput,
)
from fastdistill_ray.training.packing import packed_batch

TINY = Shape(
    config={
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
    vocab_size=300,
    prompt_tokens=9,
    completion_tokens=12,
    num_completions=3,
    groups_per_step=2,
    micro_batch_tokens=64,
    num_steps=2,
    matrix=64,
)


def test_padded_advdistill_has_the_loss_and_gradient_of_ours(tmp_path) -> None:
    folder = make_tiny_model(str(tmp_path / "model"))
    groups = make_groups()
    loss, gradients = loss_and_gradients(load(folder), [packed_batch(groups, 1)])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    padded = sum(group_loss(model, group) for group in groups) / len(groups)
    padded.backward()
    assert padded.item() == pytest.approx(loss, rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6)


def test_throughput_of_a_tiny_student_counts_its_tokens_and_operations() -> None:
    cpu = torch.device("cpu")
    folder = save_model(TINY, cpu)
    found = throughput(TINY, cpu, folder, is_compiled=False)
    assert padded_throughput(TINY, cpu, folder)["seconds_per_step"] > 0
    tokens = 2 * 3 * 12
    assert found["trained_tokens_per_second"] == pytest.approx(tokens / found["seconds_per_step"])
    assert 0 < found["utilisation"] < 1
    config = Qwen2Config(vocab_size=300, tie_word_embeddings=True, **TINY.config)
    head, model = 300 * 32, Qwen2ForCausalLM(config)
    blocks = sum(parameter.numel() for parameter in model.parameters()) - head
    # By hand: 9 + 36 unique and 36 trained tokens a group; pairs 9 * 9 / 2 and 3 * (12 * 9 + 72).
    pairs = 40.5 + 3 * 180
    by_hand = 2 * (6 * blocks * 45 + 6 * head * 36 + 12 * pairs * 32 * 2)
    assert step_operations(TINY, model) == pytest.approx(by_hand)
