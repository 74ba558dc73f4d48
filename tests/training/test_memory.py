"""The estimate of memory against the peak of fresh processes that train, and sums by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.experts import make_experts
from support.learner import CPU, MEASURE, TOLERANCE, load
from transformers import LlamaConfig, LlamaForCausalLM

from fastdistill_ray.training.job import allocator
from fastdistill_ray.training.knobs import OptimizerKnobs, TrainingKnobs
from fastdistill_ray.training.memory import MemoryEstimate, advice, estimate_memory
from fastdistill_ray.training.packing import TrainCompletion, TrainGroup, packed_batch, plain_batch
from fastdistill_ray.training.student import to_device

SHAPE = {
    "vocab_size": 8000,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
PARAMETERS = 8000 * 384 * 2 + 8 * (384 * (384 * 2 + 128 * 2 + 3 * 1024) + 2 * 384) + 384


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("model"))
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(path)
    return path


@pytest.mark.long
@pytest.mark.parametrize(
    "knobs",
    [
        {"precision": "fp32", "micro_batch_tokens": 1152},
        pytest.param({"precision": "bf16", "micro_batch_tokens": 1152}, marks=pytest.mark.slow),
        pytest.param(
            {"precision": "fp32", "micro_batch_tokens": 1152, "shared_prompt": False},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"precision": "bf16", "micro_batch_tokens": 2304, "activation_checkpointing": True},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"precision": "bf16", "micro_batch_tokens": 1152, "lora": {"rank": 4}},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["packed in fp32", "packed", "padded in fp32", "checkpointed", "adapter"],
)
@pytest.mark.timeout(1200)  # bfloat16 on a CPU without arithmetic for it
def test_estimate_is_near_the_measured_peak_of_a_fresh_process(folder: str, knobs: dict) -> None:
    done = subprocess.run(
        [sys.executable, MEASURE, folder, json.dumps(knobs), "cpu"],
        env={**os.environ, **allocator(use_gpu=False), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr.count("jemalloc"), done.stderr  # it is found, and knows its settings
    measured = json.loads(done.stdout.splitlines()[-1])
    estimate = estimate_memory(
        folder, TrainingKnobs(**knobs), OptimizerKnobs(), workers=1, device="cpu"
    )
    taken = measured["peak"] - measured["before"]
    assert estimate.total - estimate.runtime == pytest.approx(taken, rel=TOLERANCE), estimate


@pytest.mark.parametrize("shared_prompt", [True, False])
def test_activations_of_experts_in_fp32_are_near_what_autograd_keeps(
    tmp_path: Path, shared_prompt: bool
) -> None:
    """On real tensors; torch knows the experts' products without data in bf16 alone."""
    knobs = TrainingKnobs(
        precision="fp32", micro_batch_tokens=900, shared_prompt=shared_prompt, router_loss=False
    )
    source = make_experts(str(tmp_path))
    estimate = estimate_memory(source, knobs, OptimizerKnobs(), workers=1, device="cpu")
    student = load(source, shared_prompt=shared_prompt)
    student.router_coefficient = 0.0
    weights = {one.untyped_storage().data_ptr() for one in student.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    length = 900 // (9 if shared_prompt else 16)
    ids = np.full(length, 7)
    group = TrainGroup("", ids, [TrainCompletion(ids, 1.0, 0.0)] * 8)
    batch = packed_batch([group], 1) if shared_prompt else plain_batch([group], True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = student(to_device(batch.inputs, CPU))
    assert outputs.logprob.requires_grad
    assert estimate.activations == pytest.approx(sum(kept.values()), rel=TOLERANCE)


def test_estimate_counts_weights_and_optimizer_and_shares_them_among_ranks(folder: str) -> None:
    one, four = (
        estimate_memory(folder, TrainingKnobs(), OptimizerKnobs(), workers=workers, device="cuda")
        for workers in (1, 4)
    )
    assert (one.weights, one.gradients, one.optimizer) == tuple(
        bytes_each * PARAMETERS for bytes_each in (4, 4, 8)
    )
    assert four.weights * 4 == one.weights
    assert four.activations == one.activations
    copies = TrainingKnobs(replicas=2)
    pairs = estimate_memory(folder, copies, OptimizerKnobs(), workers=4, device="cuda")
    assert (pairs.weights, pairs.optimizer) == (one.weights // 2, one.optimizer // 2)
    lora = estimate_memory(
        folder, TrainingKnobs(lora={"rank": 4}), OptimizerKnobs(), workers=1, device="cuda"
    )
    assert lora.optimizer < one.optimizer / 20
    assert lora.gathered < 2 * PARAMETERS / 2, "and gathered block by block"
    adapter = 8 * 4 * (2 * (384 + 384) + 2 * (384 + 128) + 3 * (384 + 1024))
    assert lora.weights == 2 * PARAMETERS + 4 * adapter, "a frozen base is held in bf16"
    small = OptimizerKnobs(kind="adamw8bit")
    offloaded = TrainingKnobs(cpu_offload=True)
    assert estimate_memory(folder, TrainingKnobs(), small, workers=1, device="cuda").optimizer == (
        2 * PARAMETERS
    )
    there = estimate_memory(folder, offloaded, small, workers=1, device="cuda")
    assert (there.weights, there.gradients, there.optimizer) == (0, 0, 0)


def test_advice_names_the_knob_that_is_left() -> None:
    gib = 2**30
    estimate = MemoryEstimate(4 * gib, 4 * gib, 8 * gib, gib, 8 * gib, 2 * gib, 0, gib, gib, 8192)
    assert estimate.total == 29 * gib
    assert "training.micro_batch_tokens to 4096" in advice(estimate, 24 * gib, "cuda")
    assert "pools.student.workers" in advice(estimate, 16 * gib, "cuda")
    assert "training.lora.rank" in advice(estimate, 16 * gib, "cpu")
