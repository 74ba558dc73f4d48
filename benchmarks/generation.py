"""What generation through Ray Data costs against vLLM alone and against Ray's own processor.

    python -m benchmarks.generation [--json FILE] [--prompts 256] [--n 8] [--repeats 3]

SmolLM2-135M, the demo's problems without its examples, the same engine arguments and seeds. Each
method runs in a process of its own, in turn: vllm (LLM.generate on all prompts at once), ray_llm
(ray.data.llm asked n times for one completion), ours (the stage `generate`: completions judged and
committed). Once with fixed lengths, once natural. Completion tokens per second count from a ready
engine on. The CPU build of vLLM computes on all cores but one, as is its default;
`--reserved-cores 0` has every core compute, and whatever else runs takes from it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
METHODS = ("vllm", "ray_llm", "ours")
TOKENS = {"fixed": 32, "natural": 96}  # at most, of a completion


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", default="", help="also written there")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--n", type=int, default=8, help="completions per prompt")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--lengths", nargs="+", choices=list(TOKENS), default=list(TOKENS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--reserved-cores", type=int, default=1, help="vLLM leaves to others")
    arguments = parser.parse_args()
    os.environ["VLLM_CPU_NUM_OF_RESERVED_CPU"] = str(arguments.reserved_cores)
    rows = []
    for lengths in arguments.lengths:
        found: dict[str, list[dict[str, float]]] = {method: [] for method in arguments.methods}
        for _ in range(arguments.repeats):
            for method in arguments.methods:
                work = {"prompts": arguments.prompts, "n": arguments.n, "lengths": lengths}
                found[method].append(run_method(method, work))
                print(json.dumps({"method": method, **work, **found[method][-1]}), flush=True)
        rows += [row(method, lengths, repeats) for method, repeats in found.items()]
        if lengths == "fixed":
            assert len({line["tokens"] for line in rows}) == 1, "not the same work"
    result = {
        "reserved_cores": arguments.reserved_cores,
        "rows": rows,
        "ratios": ratios(rows),
    }
    for line in rows:
        print(json.dumps(line))
    print(json.dumps(result["ratios"], indent=1))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def run_method(method: str, work: dict[str, Any]) -> dict[str, float]:
    """A fresh process of benchmarks.generation_methods -> what it measured."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        arguments = [method, json.dumps({**work, "max_new_tokens": TOKENS[work["lengths"]]})]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.generation_methods", *arguments, str(out)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=1800,
        )
        if done.returncode:
            raise RuntimeError(f"{method}: {done.stdout[-2000:]}{done.stderr[-3000:]}")
        return json.loads(out.read_text(encoding="utf-8"))


def row(method: str, lengths: str, repeats: list[dict[str, float]]) -> dict[str, Any]:
    """Medians and spread over the repeats."""
    rates = [one["tokens"] / one["seconds"] for one in repeats]
    starts = [one["start_seconds"] for one in repeats]
    return {
        "method": method,
        "lengths": lengths,
        "tokens": statistics.median(one["tokens"] for one in repeats),
        "tokens_per_second": statistics.median(rates),
        "tokens_per_second_spread": [min(rates), max(rates)],
        "start_seconds": statistics.median(starts),
        "start_seconds_spread": [min(starts), max(starts)],
        "repeats": len(repeats),
    }


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """throughput_over_<peer> is of fixed lengths; _natural of natural ones."""
    rate = {(line["lengths"], line["method"]): line["tokens_per_second"] for line in rows}
    return {
        f"throughput_over_{peer}{'' if lengths == 'fixed' else '_natural'}": rate[lengths, "ours"]
        / rate[lengths, peer]
        for lengths in TOKENS
        for peer in ("vllm", "ray_llm")
        if {(lengths, "ours"), (lengths, peer)} <= rate.keys()
    }


if __name__ == "__main__":
    main()
