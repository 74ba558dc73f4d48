"""What generation through Ray Data costs against vLLM alone and against Ray's own processor.

    python -m benchmarks.generation [--json FILE] [--prompts 256] [--n 8] [--repeats 3]

SmolLM2-135M, the demo's problems without its examples, the same engine arguments and seeds. Each
method is a process of its own: vllm (LLM.generate on all prompts at once), ray_llm (ray.data.llm
asked n times for one completion), ours (the stage `generate`: completions judged and committed).
They take turns of a few seconds, the others stopped meanwhile, so that all meet the same machine,
however its speed changes. Once with fixed lengths, once natural. Completion tokens per second count
from a ready engine on, in a method's own turns. The CPU build of vLLM computes on all cores but
one, as is its default; `--reserved-cores 0` has every core compute, and whatever else runs takes
from it.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import ROOT, make_parser, print_rows, with_spread, write_json

METHODS = ("vllm", "ray_llm", "ours")
TOKENS = {"fixed": 32, "natural": 96}  # at most, of a completion
TURN_SECONDS = 4  # the machine changes its speed within half a minute
LONGEST_SECONDS = 1800  # of a method's turns together


def main() -> None:
    parser = make_parser(__doc__)
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
        work = {"prompts": arguments.prompts, "n": arguments.n, "lengths": lengths}
        for _ in range(arguments.repeats):
            for method, measured in by_turns(arguments.methods, work).items():
                found[method].append(measured)
                print_rows([{"method": method, **work, **measured}])
        rows += [row(method, lengths, repeats) for method, repeats in found.items()]
        if lengths == "fixed":
            assert len({line["tokens"] for line in rows}) == 1, "not the same work"
    result = {
        "reserved_cores": arguments.reserved_cores,
        "rows": rows,
        "ratios": ratios(rows),
    }
    print_rows(rows)
    print(json.dumps(result["ratios"], indent=1))
    write_json(arguments.json, result)


def by_turns(methods: list[str], work: dict[str, Any]) -> dict[str, dict[str, float]]:
    """All methods once, each in a fresh process of benchmarks.generation.methods."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {method: Run(method, work, Path(folder)) for method in methods}
        try:
            while waiting := [run for run in runs.values() if not run.is_over()]:
                for run in waiting:
                    run.take_turn()
            return {method: run.measured() for method, run in runs.items()}
        finally:
            for run in runs.values():
                run.kill()


class Run:
    """A method's process and all it starts: stopped but for its turns."""

    def __init__(self, method: str, work: dict[str, Any], folder: Path) -> None:
        self.method = method
        self.out, self.log = folder / f"{method}.json", folder / f"{method}.log"
        work = {**work, "max_new_tokens": TOKENS[work["lengths"]]}
        self.command = [method, json.dumps(work), str(self.out)]
        self.process: subprocess.Popen[bytes] | None = None
        self.turns: list[tuple[float, float]] = []

    def is_over(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def take_turn(self) -> None:
        start = time.time()
        if self.process is None:
            with open(self.log, "wb") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.generation.methods", *self.command],
                    cwd=ROOT,
                    stdout=log,
                    stderr=log,
                )
        else:
            self._signal(signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(TURN_SECONDS)
        if not self.is_over():
            self._signal(signal.SIGSTOP)
        self.turns.append((start, time.time()))
        if self.process.returncode or self.seconds(0, start) > LONGEST_SECONDS:
            log = self.log.read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"{self.method}: {log[-5000:]}")

    def _signal(self, number: int) -> None:
        """To the process and all below it, those included that start meanwhile."""
        sent: set[int] = set()
        while new := {one.pid for one in self._tree()} - sent:
            for pid in new:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            sent |= new

    def _tree(self) -> list[psutil.Process]:
        assert self.process is not None
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def seconds(self, start: float, end: float) -> float:
        """Of the time between, what was in turns."""
        return sum(max(0.0, min(end, last) - max(start, first)) for first, last in self.turns)

    def measured(self) -> dict[str, float]:
        at = json.loads(self.out.read_text(encoding="utf-8"))
        return {
            "tokens": at["tokens"],
            "seconds": self.seconds(at["ready"], at["end"]),
            "start_seconds": self.seconds(at["start"], at["ready"]),
        }

    def kill(self) -> None:
        if self.process is not None and not self.is_over():
            self._signal(signal.SIGKILL)
            self.process.wait()


def row(method: str, lengths: str, repeats: list[dict[str, float]]) -> dict[str, Any]:
    """Medians and spread over the repeats."""
    rates = [one["tokens"] / one["seconds"] for one in repeats]
    starts = [one["start_seconds"] for one in repeats]
    return {
        "method": method,
        "lengths": lengths,
        "tokens": statistics.median(one["tokens"] for one in repeats),
        **with_spread("tokens_per_second", rates),
        **with_spread("start_seconds", starts),
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
