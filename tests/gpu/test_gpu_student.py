"""The student on CUDA: FlexAttention, the fused head, sharded steps and their memory.

Tolerance: float32 kernels of different order, 1e-3 of the largest gradient.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from support.learner import (
    FAMILIES,
    MEASURE,
    TOLERANCE,
    chunks_of,
    loss_and_gradients,
    losses,
    make_learner,
    make_row,
    make_student,
)
from support.models import make_tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

from fastdistill_ray.training.block_mask import FLEX_BLOCK
from fastdistill_ray.training.head import ChunkedLogprob
from fastdistill_ray.training.held_out import hold_out, validate
from fastdistill_ray.training.job import allocator
from fastdistill_ray.training.knobs import LoraKnobs, OptimizerKnobs, TrainingKnobs
from fastdistill_ray.training.learner import Learner
from fastdistill_ray.training.memory import estimate_memory
from fastdistill_ray.training.packing import packed_batch, plain_batch
from fastdistill_ray.training.packing_check import check_packed_attention, probe_group
from fastdistill_ray.training.sharding import compilation
from fastdistill_ray.training.step import train_step
from fastdistill_ray.training.student import Student, load_student

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def compiled_as_in_training() -> Iterator[None]:
    with compilation(TrainingKnobs(compile=True, activation_checkpointing=True)):
        yield


@pytest.fixture
def student(tmp_path: Path) -> Student:
    folder = make_tiny_model(str(tmp_path / "model"))
    return load_student(
        folder,
        vocab_size=10**6,
        device=CUDA,
        shared_prompt=True,
        trains_router=True,
        lora=LoraKnobs(),
    )


def test_packed_flex_attention_equals_padded_rows_in_loss_and_gradient(student: Student) -> None:
    assert student.model.config._attn_implementation == "flex_attention"
    groups = [probe_group(300), probe_group(200)]
    loss, packed = loss_and_gradients(student, [packed_batch(groups, FLEX_BLOCK)], device=CUDA)
    student.model.set_attn_implementation("sdpa")
    expected_loss, plain = loss_and_gradients(
        student, [plain_batch(groups, mask_prompt=True)], device=CUDA
    )
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    for name, gradient in plain.items():
        assert (packed[name] - gradient).abs().max() <= 1e-3 * gradient.abs().max(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_models_give_packed_groups_their_own_eager_numbers(family: str) -> None:
    student = make_student(family, "flex_attention", head_dim=16).to(CUDA)
    assert check_packed_attention(student, probe_group(300), CUDA) < 1e-4


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_fused_head_equals_float64_of_the_same_bf16_inputs(
    monkeypatch: pytest.MonkeyPatch, softcap: float | None
) -> None:
    """The logits' rounding is all that is lost; the last chunk is a short one."""
    vocabulary = 5000
    chunks_of(monkeypatch, "cuda", rows=64, width=1500)
    torch.manual_seed(0)
    hidden = torch.randn(64, 32, device=CUDA).bfloat16().requires_grad_()
    weight = (torch.randn(vocabulary, 32, device=CUDA) / 8).bfloat16().requires_grad_()
    bias = torch.randn(vocabulary, device=CUDA).bfloat16().requires_grad_()
    labels, slope = torch.randint(0, vocabulary, (64,), device=CUDA), torch.randn(64, device=CUDA)
    logprob = ChunkedLogprob.apply(hidden, weight, bias, labels, softcap)
    (logprob * slope).sum().backward()
    exact = [one.detach().double().requires_grad_() for one in (hidden, weight, bias)]
    logits = torch.nn.functional.linear(*exact)
    logits = softcap * (logits / softcap).tanh() if softcap else logits
    expected = logits.log_softmax(-1).gather(1, labels[:, None])[:, 0]
    (expected * slope).sum().backward()
    assert logprob.dtype == torch.float32
    assert (logprob - expected).abs().max() <= 2**-8 * expected.abs().max()
    for actual, one in zip((hidden, weight, bias), exact, strict=True):
        assert (actual.grad - one.grad).norm() <= 2**-7 * one.grad.norm()


@contextlib.contextmanager
def world_of_one(backend: str, rendezvous: Path) -> Iterator[None]:
    dist.init_process_group(backend, init_method=f"file://{rendezvous}", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"micro_batch_tokens": 1},
        {"shared_prompt": False},
        {"activation_checkpointing": True},
        {"activation_checkpointing": True, "activation_offload": True},
        {"cpu_offload": True},
        {"compile": True},
        {"compile": True, "activation_checkpointing": True},
        {"lora": LoraKnobs(rank=4)},
        {"precision": "bf16"},
        {"precision": "bf16", "compile": True},
    ],
    ids=str,
)
def test_steps_on_cuda_are_those_of_the_cpu(tmp_path: Path, training: dict[str, object]) -> None:
    folder = make_tiny_model(str(tmp_path / "model"))
    with world_of_one("gloo", tmp_path / "cpu"):
        there = make_learner(folder, **{"lora": training.get("lora", LoraKnobs())})
        expected = losses(there, folder, range(4))
    backend = "cpu:gloo,cuda:nccl" if "cpu_offload" in training else "nccl"
    with world_of_one(backend, tmp_path / "cuda"):
        learner = make_learner(folder, CUDA, **training)
        actual = losses(learner, folder, range(4))
    tolerance = 0.05 if training.get("precision") == "bf16" else 2e-3
    np.testing.assert_allclose(actual, expected, rtol=tolerance)


@pytest.mark.parametrize(
    "training",
    [{}, {"compile": True}, {"compile": True, "activation_checkpointing": True}],
    ids=str,
)
def test_steps_and_validations_of_changing_lengths_are_those_of_the_cpu(
    tmp_path: Path, training: dict[str, object]
) -> None:
    folder = make_tiny_model(str(tmp_path / "model"))

    def losses_of(learner: Learner) -> list[float]:
        rows = make_row(folder, 99, num_groups=5)["groups"]
        held_out = [hold_out(learner, rows[:1]), hold_out(learner, rows)]
        found = []
        for step in range(5):
            row = make_row(folder, step, num_groups=1 + 3 * step)
            found.append(train_step(learner, row, 10)["train/loss"])
            found += [validate(learner, groups)["held_out/loss"] for groups in held_out]
        return found

    with world_of_one("gloo", tmp_path / "cpu"):
        expected = losses_of(make_learner(folder))
    with world_of_one("nccl", tmp_path / "cuda"):
        actual = losses_of(make_learner(folder, CUDA, **training))
    np.testing.assert_allclose(actual, expected, rtol=2e-3)


@pytest.mark.parametrize(
    "knobs",
    [
        {"micro_batch_tokens": 8192},
        {"micro_batch_tokens": 4096, "shared_prompt": False},
        {"micro_batch_tokens": 16384, "activation_checkpointing": True},
    ],
    ids=["packed", "padded", "checkpointed"],
)
def test_plan_is_near_the_measured_peak_of_a_fresh_process(tmp_path: Path, knobs: dict) -> None:
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=12,
        num_attention_heads=16,
        num_key_value_heads=4,
        max_position_embeddings=32768,
    )
    folder = str(tmp_path / "model")
    with CUDA:
        LlamaForCausalLM(config).save_pretrained(folder)
    done = subprocess.run(
        [sys.executable, MEASURE, folder, json.dumps({**knobs, "max_seq_len": 32768}), "cuda"],
        env={**os.environ, **allocator(use_gpu=True), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    measured = json.loads(done.stdout.splitlines()[-1])["peak"]  # allocated, gaps not counted
    plan = estimate_memory(
        folder, TrainingKnobs(**knobs), OptimizerKnobs(), workers=1, device="cuda"
    )
    print(measured / 2**30, plan.describe())
    counted = plan.total - plan.runtime - plan.slack
    assert counted == pytest.approx(measured, rel=TOLERANCE), plan
