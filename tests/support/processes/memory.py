"""Trains three steps of random groups; prints bytes in use after imports, and at most.

python memory.py FOLDER TRAINING.json cpu|cuda
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from support.groups import make_completion, make_group

from fastdistill_ray.objectives import AdvDistill
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.training.knobs import OptimizerKnobs, TrainingKnobs
from fastdistill_ray.training.learner import build_learner
from fastdistill_ray.training.reading import StudentText
from fastdistill_ray.training.step import peak_memory, train_step


def make_row(step: int, length: int) -> dict[str, Any]:
    """Two groups of eight completions, each as long as the prompt."""
    random = np.random.default_rng(step)
    completions = [
        make_completion(
            token_ids=random.integers(1, 250, length).tolist(),
            finish_reason="length",
            verdict="correct" if k % 2 else "wrong",
            reward=float(random.normal()),
        )
        for k in range(8)
    ]
    groups = [make_group(f"{k}", completions) for k in range(2)]
    return {"step": step, "epoch": 0, "num_groups": 2, "groups": groups}


def main(folder: str, training: TrainingKnobs, device: torch.device) -> None:
    before = resident() if device.type == "cpu" else 0
    rendezvous = f"file://{tempfile.mkdtemp()}/rendezvous"
    backend = "gloo" if device.type == "cpu" else "nccl"
    dist.init_process_group(backend, init_method=rendezvous, rank=0, world_size=1)
    length = training.micro_batch_tokens // (9 if training.shared_prompt else 16)
    text = StudentText(
        lambda row: [1] * length, lambda text: [], lambda teacher: True, 0, frozenset([0])
    )
    learner = build_learner(
        folder=folder,
        vocab_size=10**6,
        text=text,
        device=device,
        objective=AdvDistill(),
        advantage=AdvantageKnobs(),
        optimizer=OptimizerKnobs(),
        training=training,
    )
    for step in range(3):
        train_step(learner, make_row(step, length), 3)
    print(json.dumps({"before": before, "peak": peak_memory(device)}))


def resident() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
    return 4096 * int(pages)


if __name__ == "__main__":
    main(sys.argv[1], TrainingKnobs(**json.loads(sys.argv[2])), torch.device(sys.argv[3]))
