"""Tokens per second and model FLOP utilisation of our AdvDistill step on a random-weight student.

Operations counted are those of the model: 6 per weight of the blocks and unique token, 6 per
weight of the head and trained token, 12 per attended pair, head and dimension. What is computed
again in the backward pass does not count. The peak is that of a square matrix product here.
"""

import gc
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from benchmarks.training.padded import padded_step
from fastdistill_ray.objectives import AdvDistill
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.training.knobs import OptimizerKnobs, TrainingKnobs
from fastdistill_ray.training.learner import Learner, build_learner
from fastdistill_ray.training.reading import StudentText, prepare_group
from fastdistill_ray.training.sharding import compilation
from fastdistill_ray.training.step import train_step


class Shape(NamedTuple):
    config: dict[str, int]
    vocab_size: int
    prompt_tokens: int
    completion_tokens: int
    num_completions: int
    groups_per_step: int
    micro_batch_tokens: int
    num_steps: int  # timed, after two to warm up
    matrix: int  # rows of the square matrices whose product is the peak


LARGE = Shape(
    config={
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
    vocab_size=151_936,
    prompt_tokens=200,
    completion_tokens=512,
    num_completions=8,
    groups_per_step=8,
    micro_batch_tokens=2 * (8 * 512 + 200),
    num_steps=5,
    matrix=8192,
)


def throughput(
    shape: Shape, device: torch.device, folder: str, *, is_compiled: bool
) -> dict[str, Any]:
    """Ours on one rank; bf16 compute, fp32 weights."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    rendezvous = f"file://{tempfile.mkdtemp()}/rendezvous"
    dist.init_process_group(backend, init_method=rendezvous, rank=0, world_size=1)
    method = "advdistill_ours_compiled" if is_compiled else "advdistill_ours"
    with compilation(TrainingKnobs(compile=is_compiled)):
        learner = build(shape, device, folder, is_compiled)
        found = timed(
            method, shape, device, learner.student.model, lambda row: train_step(learner, row, 100)
        )
    dist.destroy_process_group()
    return found


def padded_throughput(shape: Shape, device: torch.device, folder: str) -> dict[str, Any]:
    """The straightforward way, a group a forward."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    text = text_of(shape)

    def step(row: dict[str, Any]) -> None:
        groups = [
            group
            for one in row["groups"]
            for group in prepare_group(
                one, text, AdvDistill(), advantage=AdvantageKnobs(), max_seq_len=10**6
            )
        ]
        padded_step(model, optimizer, groups)

    return timed("advdistill_padded", shape, device, model, step)


def timed(
    method: str,
    shape: Shape,
    device: torch.device,
    model: torch.nn.Module,
    step: Callable[[dict[str, Any]], Any],
) -> dict[str, Any]:
    random = np.random.default_rng(0)
    gc.collect()  # of the method before
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for number in range(2):
        step(row_of(shape, random, number))
    rows = [row_of(shape, random, number) for number in range(2, 2 + shape.num_steps)]
    synchronise(device)
    start = time.perf_counter()
    for row in rows:
        step(row)
    synchronise(device)
    seconds = (time.perf_counter() - start) / shape.num_steps
    peak = matrix_peak(shape.matrix, device)
    used = step_operations(shape, model) / seconds
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    trained = shape.groups_per_step * shape.num_completions * shape.completion_tokens
    unique = trained + shape.groups_per_step * shape.prompt_tokens
    lasting = 16 * sum(parameter.numel() for parameter in model.parameters())
    return {
        "method": method,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "seconds_per_step": seconds,
        "trained_tokens_per_second": trained / seconds,
        "unique_tokens_per_second": unique / seconds,
        "teraflops": used / 1e12,
        "matrix_peak_teraflops": peak / 1e12,
        "utilisation": used / peak,
        "peak_memory_gib": memory / 2**30,
        "peak_above_gib": (memory - lasting) / 2**30,  # weights, gradients, optimizer
    }


def save_model(shape: Shape, device: torch.device) -> str:
    """Random weights; -> its folder."""
    config = Qwen2Config(
        vocab_size=shape.vocab_size, tie_word_embeddings=True, use_cache=False, **shape.config
    )
    folder = tempfile.mkdtemp()
    with torch.device(device):
        Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def build(shape: Shape, device: torch.device, folder: str, is_compiled: bool) -> Learner:
    return build_learner(
        folder=folder,
        vocab_size=shape.vocab_size,
        text=text_of(shape),
        device=device,
        objective=AdvDistill(),
        advantage=AdvantageKnobs(),
        optimizer=OptimizerKnobs(learning_rate=1e-6),
        training=TrainingKnobs(micro_batch_tokens=shape.micro_batch_tokens, compile=is_compiled),
    )


def text_of(shape: Shape) -> StudentText:
    prompt = np.random.default_rng(1).integers(0, shape.vocab_size, shape.prompt_tokens).tolist()
    return StudentText(lambda row: prompt, lambda text: [], lambda teacher: True, 0, frozenset([0]))


def row_of(shape: Shape, random: np.random.Generator, step: int) -> dict[str, Any]:
    """One step of random groups, half of each correct."""
    groups = []
    for number in range(shape.groups_per_step):
        completions = [
            {
                "token_ids": random.integers(1, shape.vocab_size, shape.completion_tokens).tolist(),
                "finish_reason": "length",
                "num_tokens": shape.completion_tokens,
                "verdict": "correct" if k % 2 else "wrong",
                "reward": float(random.normal()),
                "is_selected": True,
                "advantage": 0.0,
            }
            for k in range(shape.num_completions)
        ]
        row = {"problem_id": f"{number}", "teacher": "", "round": None}
        groups.append({**row, "completions": completions})
    return {"step": step, "epoch": 0, "num_groups": len(groups), "groups": groups}


def step_operations(shape: Shape, model: torch.nn.Module) -> float:
    head = shape.vocab_size * shape.config["hidden_size"]
    blocks = sum(parameter.numel() for parameter in model.parameters()) - head
    prompt, length = shape.prompt_tokens, shape.completion_tokens
    targets = shape.num_completions * length
    pairs = prompt**2 / 2 + shape.num_completions * (length * prompt + length**2 / 2)
    attention = 12 * pairs * shape.config["hidden_size"] * shape.config["num_hidden_layers"]
    group = 6 * blocks * (prompt + targets) + 6 * head * targets + attention
    return shape.groups_per_step * group


def matrix_peak(size: int, device: torch.device) -> float:
    """Operations per second of a bf16 matrix product, the best of five."""
    first = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(5):
        synchronise(device)
        start = time.perf_counter()
        for _ in range(4):
            first @ first
        synchronise(device)
        best = min(best, (time.perf_counter() - start) / 4)
    return 2 * size**3 / best


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
