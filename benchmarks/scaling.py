"""Strong scaling over gloo ranks of one thread each: the same losses, and what the ranks cost.

    python -m benchmarks.scaling [--json FILE] [--repeats N]

The same steps of uneven groups are trained by 1, 2 and 4 ranks. Overhead is CPU time over that of
one rank, which other work on the machine hardly changes; wall time gains only up to its cores. Then
how busy up to 64 ranks are is simulated (`dealing.py`).
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import dealing
from benchmarks.harness import make_parser, write_json
from fastdistill_ray.objectives import AdvDistill
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.training.knobs import OptimizerKnobs, TrainingKnobs
from fastdistill_ray.training.learner import Learner, build_learner
from fastdistill_ray.training.reading import StudentText
from fastdistill_ray.training.step import train_step

RANKS = (1, 2, 4)
GROUPS_PER_STEP = 9  # so that ranks differ in groups
WARM_UP, STEPS = 2, 6
PROMPT, COMPLETIONS, LONGEST = 100, 8, 60  # tokens, number, tokens
VOCABULARY = 8192


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="interleaved; medians are shown")
    arguments = parser.parse_args()
    found: dict[int, list[dict[str, Any]]] = {world_size: [] for world_size in RANKS}
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder)
        for repeat in range(arguments.repeats):
            for world_size in RANKS:
                out = f"{folder}/{repeat}_{world_size}"
                multiprocessing.spawn(run_rank, (world_size, folder, out), nprocs=world_size)
                ranks = [json.loads(Path(f"{out}.{r}").read_text()) for r in range(world_size)]
                cpu = sum(rank["cpu_seconds"] for rank in ranks)
                found[world_size].append({**ranks[0], "cpu_seconds": cpu})
    result = summarize(found)
    print_table(result)
    result["dealing"] = dealing.simulate()
    dealing.print_table(result["dealing"])
    write_json(arguments.json, result)


def save_model(folder: str) -> None:
    """20 million random weights; the smallest at which arithmetic, not Python, takes the time."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)


def run_rank(rank: int, world_size: int, folder: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{out}.rendezvous", rank=rank, world_size=world_size
    )
    learner = make_learner(folder)
    losses, norms = [], []
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            wall, cpu = time.perf_counter(), time.process_time()
        metrics = train_step(learner, make_row(step, rank, world_size), WARM_UP + STEPS)
        losses.append(metrics["train/loss"])
        norms.append(metrics["train/grad_norm"])
    measured = {
        "seconds": (time.perf_counter() - wall) / STEPS,
        "cpu_seconds": (time.process_time() - cpu) / STEPS,
        "losses": losses,
        "norms": norms,
    }
    Path(f"{out}.{rank}").write_text(json.dumps(measured), encoding="utf-8")
    dist.destroy_process_group()


def make_learner(folder: str) -> Learner:
    prompt = np.random.default_rng(1).integers(0, VOCABULARY, PROMPT).tolist()
    text = StudentText(lambda row: prompt, lambda text: [], lambda teacher: True, 0, frozenset([0]))
    return build_learner(
        folder=folder,
        vocab_size=VOCABULARY,
        text=text,
        device=torch.device("cpu"),
        objective=AdvDistill(),
        advantage=AdvantageKnobs(),
        optimizer=OptimizerKnobs(learning_rate=1e-3),
        training=TrainingKnobs(precision="fp32", micro_batch_tokens=1),  # a group each
    )


def make_row(step: int, rank: int, world_size: int) -> dict[str, Any]:
    """The rank's share of a step's groups as its feed reads them."""
    random = np.random.default_rng(step)
    groups = []
    for number in range(GROUPS_PER_STEP):
        completions = [
            {
                "token_ids": random.integers(1, VOCABULARY, random.integers(5, LONGEST)).tolist(),
                "finish_reason": "length",
                "num_tokens": 1,
                "verdict": "correct" if k % 2 else "wrong",
                "reward": float(random.normal()),
                "is_selected": True,
                "advantage": 0.0,
            }
            for k in range(COMPLETIONS)
        ]
        row = {"problem_id": f"{number}", "teacher": "", "round": None}
        groups.append({**row, "completions": completions})
    share = groups[rank::world_size]
    return {"step": step, "epoch": 0, "num_groups": len(groups), "groups": share}


def summarize(found: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
    expected = np.array([found[1][0]["losses"], found[1][0]["norms"]])
    base = statistics.median(one["cpu_seconds"] for one in found[1])
    wall = statistics.median(one["seconds"] for one in found[1])
    rows = []
    for world_size, repeats in found.items():
        cpu = [one["cpu_seconds"] for one in repeats]
        seconds = statistics.median(one["seconds"] for one in repeats)
        values = np.array([[one["losses"], one["norms"]] for one in repeats])
        rows.append(
            {
                "ranks": world_size,
                "seconds_per_step": seconds,
                "cpu_seconds_per_step": statistics.median(cpu),
                "cpu_seconds_spread": [min(cpu), max(cpu)],
                "overhead": statistics.median(cpu) / base - 1,
                "speedup": wall / seconds,
                "largest_relative_difference": float(abs(values / expected - 1).max()),
            }
        )
    return {"cores": len(os.sched_getaffinity(0)), "rows": rows}


def print_table(result: dict[str, Any]) -> None:
    print(f"{result['cores']} cores; losses and gradient norms against those of one rank")
    print("ranks  s/step  CPU s/step  overhead  speedup  largest difference")
    for row in result["rows"]:
        print(
            f"{row['ranks']:>5}  {row['seconds_per_step']:>6.2f}  "
            f"{row['cpu_seconds_per_step']:>10.2f}  {row['overhead']:>8.1%}  "
            f"{row['speedup']:>7.2f}  {row['largest_relative_difference']:>18.1e}"
        )


if __name__ == "__main__":
    main()
