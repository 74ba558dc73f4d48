"""Students on one process, their losses and gradients, and what they are compared with."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.groups import make_completion, make_group
from transformers import AutoConfig, AutoModelForCausalLM

from fastdistill_ray.models import load_tokenizer
from fastdistill_ray.objectives import AdvDistill, AnyObjective
from fastdistill_ray.prompts import Prompted, PromptKnobs
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.training.attention import register_grouped
from fastdistill_ray.training.knobs import LoraKnobs, OptimizerKnobs, TrainingKnobs
from fastdistill_ray.training.learner import Learner, build_learner
from fastdistill_ray.training.packing import MicroBatch
from fastdistill_ray.training.step import train_step
from fastdistill_ray.training.student import Student, load_student, to_device
from fastdistill_ray.training.texts import read_by_both, student_text

CPU = torch.device("cpu")
ADVDISTILL = AdvDistill()
KNOBS = OptimizerKnobs(learning_rate=1e-2, warmup_ratio=0.0, schedule="constant")
# What measures the memory of a training, and the tolerance of what the plan says beyond the
# libraries.
MEASURE = str(Path(__file__).parent / "processes" / "memory.py")
TOLERANCE = 0.25
SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": 4096},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 1},
    "qwen3": {},
    "phi3": {"sliding_window": 2048},
    "gemma2": {
        "sliding_window": 4096,
        "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 2.0,
        "query_pre_attn_scalar": 8,
    },
    "gemma3_text": {"sliding_window": 1024, "query_pre_attn_scalar": 8},
    "olmo2": {},
    "granite": {"attention_multiplier": 0.3, "logits_scaling": 1.0},
}


def load(folder: str, vocab_size: int = 10**6, shared_prompt: bool = True) -> Student:
    return load_student(
        folder,
        vocab_size=vocab_size,
        device=CPU,
        shared_prompt=shared_prompt,
        trains_router=True,
        lora=LoraKnobs(),
    )


def chunks_of(monkeypatch: pytest.MonkeyPatch, device: str, *, rows: int, width: int) -> None:
    """The head takes `width` entries of the vocabulary at a time for that many rows."""
    monkeypatch.setattr("fastdistill_ray.training.head.MIN_ROWS", 1)
    monkeypatch.setattr("fastdistill_ray.training.head.CHUNK_BYTES", {device: 4 * rows * width})


def loss_and_gradients(
    student: Student,
    batches: list[MicroBatch],
    objective: AnyObjective = ADVDISTILL,
    device: torch.device = CPU,
) -> tuple[float, dict[str, torch.Tensor]]:
    """As the training loop does: micro-batches accumulate, counts are those of all of them."""
    student.zero_grad()
    total = 0.0
    counts = {name: sum(batch.counts[name] for batch in batches) for name in batches[0].counts}
    for batch in batches:
        terms = objective(student(to_device(batch.inputs, device)), to_device(batch.loss, device))
        loss = sum(term.coefficient * term.total / counts[term.denominator] for term in terms)
        loss.backward()
        total += loss.item()
    return total, {name: one.grad.clone() for name, one in student.model.named_parameters()}


def assert_same(actual: tuple[float, dict], expected: tuple[float, dict], tolerance: float) -> None:
    assert actual[0] == pytest.approx(expected[0], rel=tolerance)
    assert actual[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        difference = (actual[1][name] - gradient).abs().max()
        assert difference <= tolerance * gradient.abs().max(), name


def make_learner(
    folder: str,
    device: torch.device = CPU,
    *,
    objective: AnyObjective = ADVDISTILL,
    frozen: Prompted | None = None,
    **training: object,
) -> Learner:
    tokenizer, prompt = load_tokenizer(folder), PromptKnobs(system="")
    text = student_text(folder, tokenizer, prompt, {}, frozen)
    if frozen and objective.needs.across:
        text = read_by_both(text, tokenizer, frozen, prompt, {})
    return build_learner(
        folder=folder,
        vocab_size=len(tokenizer),
        text=text,
        device=device,
        objective=objective,
        advantage=AdvantageKnobs(),
        optimizer=KNOBS,
        training=TrainingKnobs(**{"precision": "fp32", "max_seq_len": 512, **training}),
        frozen=frozen.model if frozen else "",
    )


def gradients_of(student: Student) -> dict[str, torch.Tensor]:
    """Whole, by the names of the model alone; its bridge is there too."""
    return {
        name.removeprefix("model."): one.grad.full_tensor()
        for name, one in student.named_parameters()
    }


def make_row(folder: str, step: int, num_groups: int = 2) -> dict:
    random = np.random.default_rng(step)
    completions = [
        make_completion(
            token_ids=random.integers(3, 250, 4 + k).tolist(),
            verdict="correct" if k % 2 else "wrong",
            reward=float(random.normal()),
        )
        for k in range(3)
    ]
    groups = [
        make_group(f"{step}/{k}", completions, teacher=folder, question="2 + 2?")
        for k in range(num_groups)
    ]
    return {"step": step, "epoch": 0, "num_groups": num_groups, "groups": groups}


def losses(learner: Learner, folder: str, steps: range) -> list[tuple[float, float]]:
    metrics = [train_step(learner, make_row(folder, step), 10) for step in steps]
    return [(one["train/loss"], one["train/grad_norm"]) for one in metrics]


def make_student(family: str, attention: str, head_dim: int = 8) -> Student:
    """Sharp attention and large logits, so that what is seen matters."""
    register_grouped()
    shape = {**SHAPE, "head_dim": head_dim, "hidden_size": SHAPE["num_attention_heads"] * head_dim}
    config = AutoConfig.for_model(family, **shape, **FAMILIES[family])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "proj" in name or "embed" in name:
                one.mul_(20)
    return Student(model, 300).train()
