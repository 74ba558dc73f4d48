"""What a training step costs, ours against what one would otherwise use: time and memory.

    python -m benchmarks.training [--json FILE] [--run-dir DIR] [--repeats 3] [--steps 4]
    python -m benchmarks.training --device cuda

On the CPU every method runs in processes of its own, in turn, on the same committed groups; with
no --run-dir the demo's are generated first (minutes). Memory is above parameters, gradients and
optimizer state. Ours runs with the allocator of our workers, the others as they come;
`same_allocator` rows are the others with ours, once. On CUDA: a 1.5B student of random weights,
tokens per second, utilisation and memory of ours, plain and compiled, and of the padded way.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benchmarks.harness import ROOT, make_parser, print_rows, run_fresh, with_spread, write_json
from benchmarks.training.methods import METHODS, Work, grown_model
from benchmarks.training.throughput import (
    LARGE,
    Shape,
    padded_throughput,
    save_model,
    throughput,
)
from fastdistill_ray.models import fetch_model
from fastdistill_ray.objectives import AdvDistill, Objective, Sft
from fastdistill_ray.recipe.loading import load_recipe
from fastdistill_ray.training.job import allocator
from fastdistill_ray.training.packing import num_packed_tokens

GROWN_VOCABULARY = 152_064
LARGE_ROW = "advdistill_ours_152k"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--run-dir", default="", help="of the demo's recipe, with its groups")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="timed, of four groups each")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    if arguments.device == "cuda":
        result = compare_throughput(LARGE, torch.device("cuda"))
    else:
        run_dir = arguments.run_dir or generate()
        result = compare(run_dir, arguments.repeats, arguments.steps)
    print(json.dumps(result["ratios"], indent=1))
    write_json(arguments.json, result)


def compare_throughput(shape: Shape, device: torch.device) -> dict[str, Any]:
    folder = save_model(shape, device)
    plain = throughput(shape, device, folder, is_compiled=False)
    padded = padded_throughput(shape, device, folder)
    compiled = throughput(shape, device, folder, is_compiled=True)
    rows = [plain, padded, compiled]
    print_rows(rows)
    return {
        "rows": rows,
        "ratios": {
            "utilisation": plain["utilisation"],
            "utilisation_compiled": compiled["utilisation"],
            "advdistill_speedup_over_padded": padded["seconds_per_step"]
            / plain["seconds_per_step"],
            "advdistill_memory_over_padded": plain["peak_above_gib"] / padded["peak_above_gib"],
        },
    }


def generate() -> str:
    """The demo's groups, by its own command."""
    run_dir = f"{tempfile.mkdtemp()}/run"
    command = ["generate", str(ROOT / "jobs/recipes/demo_full.yaml"), "--run-dir", run_dir]
    subprocess.run([sys.executable, "-m", "fastdistill_ray.cli", *command], cwd=ROOT, check=True)
    return run_dir


def compare(run_dir: str, repeats: int, num_steps: int) -> dict[str, Any]:
    recipe = load_recipe(f"{run_dir}/recipe.yaml", [])
    folder = fetch_model(recipe.student.model)
    work = Work(recipe, run_dir, folder, 0, num_steps)
    tokens = {"advdistill": count(work, AdvDistill()), "sft": count(work, Sft())}
    print_lengths(work)
    found: dict[str, list[dict[str, float]]] = {}
    for repeat in range(repeats):
        for method in METHODS:
            is_ours = method.endswith("ours")
            one = run_method(method, run_dir, num_steps, folder, is_ours)
            found.setdefault(method, []).append(one)
            if not is_ours and repeat == 0:
                one = run_method(method, run_dir, num_steps, folder, True)
                found.setdefault(f"{method}_same_allocator", []).append(one)
    grown = grown_model(folder, GROWN_VOCABULARY)
    found[LARGE_ROW] = [run_method("advdistill_ours", run_dir, num_steps, grown, True)]
    rows = [row(name, found[name], tokens[name.split("_")[0]]) for name in found]
    print_rows(rows)
    return {"rows": rows, "ratios": ratios({line["method"]: line for line in rows})}


def count(work: Work, objective: Objective) -> dict[str, int]:
    """Of the timed steps."""
    model = AutoModelForCausalLM.from_pretrained(work.model)
    groups = [group for step in work.prepared(work.text(model), objective)[1:] for group in step]
    trained = sum(len(one.token_ids) for group in groups for one in group.completions)
    return {
        "groups": len(groups),
        "trained_tokens": trained,
        "unique_tokens": num_packed_tokens(groups),
    }


def print_lengths(work: Work) -> None:
    """The histogram of what is trained: how long prompts and completions are."""
    model = AutoModelForCausalLM.from_pretrained(work.model)
    groups = [group for step in work.prepared(work.text(model), AdvDistill())[1:] for group in step]
    lengths = {
        "prompt tokens": [len(group.prompt_ids) for group in groups],
        "completion tokens": [len(one.token_ids) for group in groups for one in group.completions],
    }
    for name, values in lengths.items():
        counts, edges = np.histogram(values, bins=8)
        shown = ", ".join(
            f"{low:.0f}-{high:.0f}: {number}"
            for low, high, number in zip(edges[:-1], edges[1:], counts, strict=True)
        )
        print(f"{name}: median {statistics.median(values):g}; {shown}")


def run_method(
    method: str, run_dir: str, num_steps: int, model: str, is_tuned: bool
) -> dict[str, float]:
    """A fresh process of benchmarks.training.methods -> what it measured."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        run_fresh(
            "benchmarks.training.methods",
            *(method, run_dir, str(out), "--steps", str(num_steps), "--model", model),
            env=allocator(use_gpu=False) if is_tuned else None,
        )
        return json.loads(out.read_text(encoding="utf-8"))


def row(method: str, repeats: list[dict[str, float]], tokens: dict[str, int]) -> dict[str, Any]:
    """Medians and spread over the repeats."""
    per_group = with_spread(
        "seconds_per_group", [one["seconds"] / tokens["groups"] for one in repeats]
    )
    trained_per_group = tokens["trained_tokens"] / tokens["groups"]
    return {
        "method": method,
        **tokens,
        **per_group,
        "trained_tokens_per_second": trained_per_group / per_group["seconds_per_group"],
        **with_spread("peak_above_gib", [one["peak_above"] / 2**30 for one in repeats]),
        "repeats": len(repeats),
    }


def ratios(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    seconds = {method: line["seconds_per_group"] for method, line in rows.items()}
    memory = {method: line["peak_above_gib"] for method, line in rows.items()}
    ours, sft = rows["advdistill_ours"], rows["sft_ours"]
    share = ours["unique_tokens"] / ours["groups"] / (sft["unique_tokens"] / sft["groups"])
    cost = seconds["advdistill_ours"] / seconds["sft_ours"]
    found = {}
    for suffix in ("", "_same_allocator"):
        padded = f"advdistill_padded{suffix}"
        trl = min(seconds[f"sft_trl_{kind}{suffix}"] for kind in ("unpacked", "packed"))
        found |= {
            f"advdistill_speedup_over_padded{suffix}": seconds[padded] / seconds["advdistill_ours"],
            f"advdistill_memory_over_padded{suffix}": memory["advdistill_ours"] / memory[padded],
            f"sft_speedup_over_trl{suffix}": trl / seconds["sft_ours"],
        }
    return found | {
        "advdistill_cost_over_token_share": cost / share,
        "memory_of_152k_vocabulary_gib": memory[LARGE_ROW] - memory["advdistill_ours"],
    }


if __name__ == "__main__":
    main()
