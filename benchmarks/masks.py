"""FlexAttention's mask of a packed row from its segments, beside torch's `create_block_mask`, which
asks about every pair of tokens: CPU seconds of one thread and peak memory beyond the row.

    python -m benchmarks.masks [--json FILE] [--lengths 4096 16384 32768]

The row is groups of a prompt of 300 tokens and eight completions of 700; each way is a process of
its own.
"""

import argparse
import json
import resource
import time
from typing import Any

import numpy as np
import torch
from torch.nn.attention.flex_attention import create_block_mask

from benchmarks.harness import make_parser, print_rows, run_fresh, write_json
from fastdistill_ray.training.block_mask import block_mask, packed_mask
from fastdistill_ray.training.packing import Inputs, TrainCompletion, TrainGroup, packed_batch
from fastdistill_ray.training.student import to_device

CPU = torch.device("cpu")
PROMPT, COMPLETION, NUM_COMPLETIONS = 300, 700, 8
REPEATS = 3


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 16384, 32768])
    parser.add_argument("--one", nargs=2, metavar=("WAY", "LENGTH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], int(options.one[1]))))
        return
    rows = []
    for length in options.lengths:
        found = {
            way: json.loads(run_fresh("benchmarks.masks", "--one", way, str(length)))
            for way in ("segments", "pairs")
        }
        ours, theirs = found["segments"], found["pairs"]
        row: dict[str, Any] = {"tokens": length, **ours}
        row |= {f"torch_{name}": value for name, value in theirs.items()}
        row["times_faster"] = round(theirs["seconds"] / ours["seconds"], 1)
        print_rows([row])
        rows.append(row)
    write_json(options.json, rows)


def measure(way: str, length: int) -> dict[str, float]:
    torch.set_num_threads(1)
    row = packed_row(length)
    make(way, packed_row(256))  # imports and first calls
    before, seconds = peak(), []
    for _ in range(REPEATS):
        start = time.process_time()
        make(way, row)
        seconds.append(time.process_time() - start)
    return {"seconds": round(min(seconds), 5), "peak_mib": round(peak() - before, 1)}


def packed_row(length: int) -> Inputs:
    completion = TrainCompletion(np.arange(COMPLETION), 1.0, 0.0)
    group = TrainGroup("g", np.arange(PROMPT), [completion] * NUM_COMPLETIONS)
    number = max(1, length // (PROMPT + COMPLETION * NUM_COMPLETIONS))
    inputs = packed_batch([group] * number, length).inputs
    return to_device(inputs, CPU)


def make(way: str, inputs: Inputs) -> None:
    length = inputs.input_ids.shape[1]
    if way == "segments":
        block_mask(inputs, None)
    else:
        create_block_mask(packed_mask(inputs, None), 1, None, length, length, CPU)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    main()
