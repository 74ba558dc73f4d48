"""What a rank's memory peaks at while a student is loaded, over one sharded copy of it.

    python -m benchmarks.loading [--ranks 2] [--layers 28] [--json FILE]

A random model of the size of Qwen2.5-1.5B is written in bf16 to a temporary folder. Ranks of gloo
load it, each in a process of its own: `whole`, every rank reads all of it in float32 by
transformers' from_pretrained and then keeps its shard, one rank after the other as two copies do
not fit; `parts`, as training does it, all at once. The peak is VmHWM over what the process had
before. A rank's sharded copy is 4 bytes of every parameter over the number of ranks.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, Qwen2Config

from benchmarks.harness import ROOT, make_parser, print_rows, write_json
from fastdistill_ray.training.knobs import LoraKnobs, TrainingKnobs
from fastdistill_ray.training.loading import fill
from fastdistill_ray.training.sharding import shard_student
from fastdistill_ray.training.student import Student, empty_student, prepare_model

CPU = torch.device("cpu")
TRAINING = TrainingKnobs(shared_prompt=False)
WAYS = ("whole", "parts")


def write_model(folder: str, layers: int) -> int:
    """-> its parameters."""
    config = Qwen2Config(
        vocab_size=151_936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=layers,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return model.num_parameters()


def load_whole(folder: str) -> Student:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    student = Student(prepare_model(model, LoraKnobs()), model.config.vocab_size)
    shard_student(student, TRAINING, CPU)
    return student


def load_parts(folder: str) -> Student:
    student, weights = empty_student(
        folder,
        vocab_size=10**6,
        device=CPU,
        shared_prompt=False,
        trains_router=False,
        lora=LoraKnobs(),
    )
    shard_student(student, TRAINING, CPU)
    fill(student, weights, CPU)
    return student


def run_rank(way: str, folder: str, rank: int, world_size: int) -> None:
    rendezvous = f"file://{folder}/rendezvous-{way}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world_size)
    before = status("VmRSS")
    if way == "parts":
        student = load_parts(folder)
    for turn in range(world_size):
        if way == "whole" and turn == rank:
            student = load_whole(folder)
        dist.barrier()
    own = sum(one.to_local().numel() for one in student.parameters())
    print(json.dumps({"peak": status("VmHWM") - before, "own": 4 * own}))
    dist.destroy_process_group()


def status(name: str) -> int:
    """Bytes: VmRSS, resident now; VmHWM, at most so far."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (line,) = (one for one in lines if one.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def measure(way: str, folder: str, ranks: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.loading", "--way", way, "--folder", folder]
    started = [
        subprocess.Popen(
            [*command, "--ranks", str(ranks), "--rank", str(rank)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    printed = [one.communicate() for one in started]
    if any(one.returncode for one in started):
        raise RuntimeError(printed[0][1][-3000:])
    found = [json.loads(out.splitlines()[-1]) for out, _ in printed]
    return {
        "way": way,
        "peak_gib": [round(one["peak"] / 2**30, 2) for one in found],
        "sharded_copy_gib": [round(one["own"] / 2**30, 2) for one in found],
        "ratio": [round(one["peak"] / one["own"], 2) for one in found],
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        run_rank(arguments.way, arguments.folder, arguments.rank, arguments.ranks)
        return
    with tempfile.TemporaryDirectory() as folder:
        parameters = write_model(folder, arguments.layers)
        rows = [{"parameters": parameters, **measure(way, folder, arguments.ranks)} for way in WAYS]
    print_rows(rows)
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
