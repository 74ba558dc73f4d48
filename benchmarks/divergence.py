"""The divergence of two heads over the vocabulary: CPU seconds, memory and error of each way.

    python -m benchmarks.divergence [--device cuda] [--json FILE] [--positions 512]
        [--sizes 49152x576 151936x896] [--kinds forward_kl jsd ...] [--ways ours trl full]

Each way takes the same bf16 hidden states and heads, runs forward and backward with a coefficient
per position in a process of its own, and is timed in CPU seconds of one thread (on a GPU in
seconds). Memory is the peak beyond the inputs, gradients included. `trl` is the operator of trl
1.16 (the extra `bench`), which knows three kinds; `full` computes float32 logits of both sides at
once; `picks` are 64 ids with the exact rest beside their own `full`.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from benchmarks.harness import make_parser, print_rows, run_fresh, write_json
from fastdistill_ray.objectives.contract import Measure
from fastdistill_ray.training.head import Readout
from fastdistill_ray.training.operators import divergence, picks

BETA = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": 0.5}  # TRL's names
ALPHA = {"jsd": 0.5}
KINDS = ("forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "tvd", "picks")
NUM_PICKS = 64
Sides = tuple[Tensor, Tensor, Tensor, Tensor]  # hidden and weight of the student, of the teacher


def ours(kind: str, sides: Sides) -> Tensor:
    student, teacher = Readout(*sides[:2]), Readout(*sides[2:])
    if kind == "picks":
        return kl_of_picks(*picks(student, ids_of(sides)))
    return divergence(student, teacher, measure_of(kind))


def trl(kind: str, sides: Sides) -> Tensor:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    hidden, weight, teacher_hidden, teacher_weight = sides
    return ChunkedDivergenceFunction.apply(
        hidden, weight, None, teacher_hidden, teacher_weight, None, BETA[kind]
    )[0]


def full(kind: str, sides: Sides) -> Tensor:
    log_q = linear(*sides[:2]).float().log_softmax(-1)
    if kind == "picks":
        picked = log_q.gather(1, ids_of(sides))
        rest = torch.log1p(-picked.exp().sum(-1).clamp(max=1 - 1e-6))
        return kl_of_picks(picked, rest)
    with torch.no_grad():
        log_p = linear(*sides[2:]).float().log_softmax(-1)
    return by_definition(kind, log_p, log_q).sum(-1)


def by_definition(kind: str, log_p: Tensor, log_q: Tensor) -> Tensor:
    if kind == "tvd":
        return (log_q.exp() - log_p.exp()).abs() / 2
    share = ALPHA.get(kind, 0.1)
    if kind == "forward_kl":
        return log_p.exp() * (log_p - log_q)
    if kind == "reverse_kl":
        return log_q.exp() * (log_q - log_p)
    first, second = (log_q, log_p) if kind == "skew_reverse_kl" else (log_p, log_q)
    mixed = torch.logaddexp(first + math.log(share), second + math.log1p(-share))
    of_first = first.exp() * (first - mixed)
    if kind != "jsd":
        return of_first
    return share * of_first + (1 - share) * log_q.exp() * (log_q - mixed)


WAYS: dict[str, Callable[[str, Sides], Tensor]] = {"ours": ours, "trl": trl, "full": full}


def measure_of(kind: Any) -> Measure:
    return Measure(kind, ALPHA.get(kind, 0.1))


def ids_of(sides: Sides) -> Tensor:
    """Distinct ids of each position."""
    hidden, weight, *_ = sides
    step = len(weight) // NUM_PICKS
    start = torch.arange(len(hidden), device=hidden.device)[:, None] % step
    return start + step * torch.arange(NUM_PICKS, device=hidden.device)


def kl_of_picks(picked: Tensor, rest: Tensor) -> Tensor:
    """Of a teacher with 0.9 of its mass spread evenly over the ids."""
    return -0.9 * picked.mean(-1) - 0.1 * rest


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--positions", type=int, default=512)
    parser.add_argument("--sizes", nargs="+", default=["49152x576", "151936x896"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="this way, in this process")
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(measured(arguments)))
        return
    rows = []
    for size in arguments.sizes:
        for kind in arguments.kinds:
            found = {
                way: one_of(arguments, size, kind, way)
                for way in arguments.ways
                if way != "trl" or kind in BETA
            }
            mine = found.get("ours")
            for way, one in found.items():
                ratios = {}
                if mine and way != "ours":
                    ratios["ours_is_faster"] = round(one["seconds"] / mine["seconds"], 2)
                    ratios["our_share_of_memory"] = round(mine["mib"] / one["mib"], 2)
                rows.append({"size": size, "kind": kind, "way": way, **one, **ratios})
            print_rows(rows[-len(found) :])
    write_json(arguments.json, {"rows": rows})


def one_of(arguments: argparse.Namespace, size: str, kind: str, way: str) -> dict[str, Any]:
    options = ["--alone", "--sizes", size, "--kinds", kind, "--ways", way]
    options += ["--positions", str(arguments.positions), "--repeats", str(arguments.repeats)]
    printed = run_fresh("benchmarks.divergence", *options, "--device", arguments.device)
    return json.loads(printed.splitlines()[-1])


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)  # threads that wait for one another take CPU time too
    (size,), (kind,), (way,) = arguments.sizes, arguments.kinds, arguments.ways
    vocabulary, width = map(int, size.split("x"))
    device = torch.device(arguments.device)
    sides = make_sides(arguments.positions, vocabulary, width, device)
    coefficients = torch.rand(arguments.positions, device=device)
    call = WAYS[way]
    if way == "trl":
        call(kind, make_sides(2, 64, width, device))  # its import takes memory
    before, seconds, value = bytes_in_use(device), [], torch.zeros(())
    for _ in range(arguments.repeats):
        for one in sides:
            one.grad = None
        begin = clock(device)
        value = (call(kind, sides) * coefficients).sum()
        value.backward()
        seconds.append(clock(device) - begin)
    mib = (peak_bytes(device) - before) / 2**20
    return {"seconds": round(min(seconds), 3), "mib": round(mib), "value": value.item()}


def make_sides(positions: int, vocabulary: int, width: int, device: torch.device) -> Sides:
    torch.manual_seed(0)

    def drawn(rows: int, scale: float) -> Tensor:
        return (torch.randn(rows, width, device=device) * scale).bfloat16()

    hidden, teacher_hidden = drawn(positions, 1.0), drawn(positions, 1.0)
    weight, teacher_weight = (drawn(vocabulary, width**-0.5) for _ in range(2))
    return hidden.requires_grad_(), weight.requires_grad_(), teacher_hidden, teacher_weight


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def bytes_in_use(device: torch.device) -> int:
    """Also begins to watch the peak anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return host_bytes("VmRSS")


def peak_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else host_bytes("VmHWM")


def host_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main()
