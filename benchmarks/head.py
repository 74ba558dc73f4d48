"""Which way from hidden states to log-probabilities: time, memory and error of each, both ways.

    python -m benchmarks.head [--device cuda] [--tokens 285] [--vocabulary 49152]
                              [--width 576] [--repeats 3] [--json FILE]

Every way takes the same bf16 hidden states and head and gives one loss with its own coefficient
per token; errors are against float64. Liger's kernel needs CUDA and takes no such coefficients in
its fused form, so it is given equal ones.
"""

import argparse
import importlib
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, linear_cross_entropy
from torch.utils.checkpoint import checkpoint

from benchmarks.harness import make_parser, write_json
from fastdistill_ray.training.head import CHUNK_BYTES, ChunkedLogprob

Way = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def ours(hidden: Tensor, weight: Tensor, labels: Tensor, slope: Tensor) -> Tensor:
    return (ChunkedLogprob.apply(hidden, weight, None, labels, None) * slope).sum()


def torch_own(hidden: Tensor, weight: Tensor, labels: Tensor, slope: Tensor) -> Tensor:
    """Without its options, which chunk but know no coefficients: all logits at once, in bf16."""
    loss = linear_cross_entropy(hidden, weight, labels, reduction="none")
    return -(loss.float() * slope).sum()


def checkpointed(hidden: Tensor, weight: Tensor, labels: Tensor, slope: Tensor) -> Tensor:
    size = max(1, CHUNK_BYTES[hidden.device.type] // (4 * len(weight)))

    def part(some: Tensor, ids: Tensor) -> Tensor:
        logits = linear(some, weight).float()
        return logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]

    parts = [
        checkpoint(part, some, ids, use_reentrant=False)
        for some, ids in zip(hidden.split(size), labels.split(size), strict=True)
    ]
    return (torch.cat(parts) * slope).sum()


def full_logits(hidden: Tensor, weight: Tensor, labels: Tensor, slope: Tensor) -> Tensor:
    logits = linear(hidden, weight).float()
    return (logits.log_softmax(-1).gather(1, labels[:, None])[:, 0] * slope).sum()


def liger(hidden: Tensor, weight: Tensor, labels: Tensor, _slope: Tensor) -> Tensor:
    name = "liger_kernel.transformers.fused_linear_cross_entropy"
    loss = importlib.import_module(name).LigerFusedLinearCrossEntropyLoss(reduction="sum")
    return -loss(weight, hidden, labels)


def measure(way: Way, inputs: tuple[Tensor, ...], repeats: int) -> dict[str, float]:
    """Median seconds of forward and backward, and error of the gradients against float64."""
    hidden, weight, labels, slope = inputs
    leaves = [one.detach().requires_grad_() for one in (hidden, weight)]
    seconds = []
    for _ in range(repeats + 1):
        for one in leaves:
            one.grad = None
        start = time.perf_counter()
        way(*leaves, labels, slope).backward()
        if hidden.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    exact = [one.detach().double().requires_grad_() for one in leaves]
    full = linear(*exact).log_softmax(-1).gather(1, labels[:, None])[:, 0]
    (full * (slope if way is not liger else 1)).sum().backward()
    errors = [
        ((one.grad - two.grad).norm() / two.grad.norm()).item()
        for one, two in zip(leaves, exact, strict=True)
    ]
    return {
        "seconds": statistics.median(seconds[1:]),
        "error_hidden": errors[0],
        "error_weight": errors[1],
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tokens", type=int, default=285)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(json.dumps(rows := compare(arguments), indent=1))
    write_json(arguments.json, {"rows": rows})


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    inputs = (
        torch.randn(arguments.tokens, arguments.width, device=device).bfloat16(),
        (
            torch.randn(arguments.vocabulary, arguments.width, device=device) / arguments.width**0.5
        ).bfloat16(),
        torch.randint(0, arguments.vocabulary, (arguments.tokens,), device=device),
        torch.randn(arguments.tokens, device=device),
    )
    ways: list[Way] = [ours, torch_own, checkpointed, full_logits]
    if device.type == "cuda":
        ways.append(liger)
    return [{"way": way.__name__, **measure(way, inputs, arguments.repeats)} for way in ways]


if __name__ == "__main__":
    main()
