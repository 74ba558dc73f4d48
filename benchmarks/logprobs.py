"""What a stored log-probability costs, per completion token with its 20 likeliest tokens.

    python -m benchmarks.logprobs [--json FILE] [--tokens 256] [--groups 16] [--k 20] [--repeats 5]

Groups of 8 completions pass, token by token as an engine's core sends them, through vLLM's own
LogprobsProcessor and then to a committed Parquet file; CPU time. `flat` is this project's way;
`objects` is the engine's default way with a Python object per likely token. No model runs.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from vllm.logprobs import FlatLogprobs
from vllm.v1.engine.logprobs import LogprobsProcessor
from vllm.v1.outputs import LogprobsLists

from benchmarks.harness import make_parser, write_json
from fastdistill_ray.generation.asking import bundle
from fastdistill_ray.generation.knobs import SamplingKnobs
from fastdistill_ray.generation.outputs import RawCompletion, Reply, with_completions
from fastdistill_ray.generation.vllm_engine import flat_logprobs
from fastdistill_ray.groups.ask import RowWriter
from fastdistill_ray.groups.curation import GroupMaker
from fastdistill_ray.groups.store import Store
from fastdistill_ray.models import tokenizer_of
from fastdistill_ray.records import REQUEST_SCHEMA
from fastdistill_ray.rewards import RewardKnobs
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.rewards.selection import Judging, SelectionKnobs

MODEL = "smollm2-135m-instruct"
N = 8
VOCABULARY = 49152
TARGET = 10.0  # microseconds per token


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--tokens", type=int, default=256, help="of a completion")
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    knobs = parser.parse_args()
    tokenizer = tokenizer_of(MODEL)
    sent = core_outputs(knobs.tokens, knobs.k)
    rows: list[dict[str, Any]] = []
    for _ in range(knobs.repeats):
        rows.append(flat(sent, knobs))
        rows.append(objects(sent, knobs, tokenizer))
    result = {
        "k": knobs.k,
        "microseconds_per_token": summary(rows, statistics.median),
        "fastest_repeat": summary(rows, min),  # of a machine with other work on it
        "target": TARGET,
    }
    print(json.dumps(result, indent=1))
    write_json(knobs.json, {**result, "rows": rows})


def core_outputs(num_tokens: int, k: int) -> list[LogprobsLists]:
    """One completion: for every position the token drawn, then the k likeliest."""
    random = np.random.default_rng(0)
    ids = random.integers(0, VOCABULARY, (num_tokens, 1 + k), dtype=np.int32)
    logprobs = -np.sort(random.exponential(size=(num_tokens, 1 + k))).astype(np.float32)
    ranks = np.ones(num_tokens, dtype=np.int32)
    steps = range(num_tokens)
    return [LogprobsLists(ids[t : t + 1], logprobs[t : t + 1], ranks[t : t + 1]) for t in steps]


def receive(sent: list[LogprobsLists], k: int, tokenizer: Any, *, is_flat: bool) -> Any:
    """What the engine's front end does with each token as it arrives."""
    processor = LogprobsProcessor(
        tokenizer=tokenizer,
        logprobs=FlatLogprobs() if is_flat else [],
        prompt_logprobs=None,
        cumulative_logprob=0.0,
        num_logprobs=k,
        num_prompt_logprobs=None,
    )
    for lists in sent:
        processor._update_sample_logprobs(lists)
    return processor.logprobs


def flat(sent: list[LogprobsLists], knobs: argparse.Namespace) -> dict[str, Any]:
    """Engine, arrays, Arrow and file, less the last two without log-probabilities."""
    token_ids = np.array([lists.logprob_token_ids[0, 0] for lists in sent])
    plain = RawCompletion("\\boxed{7}", token_ids, "stop", len(sent), 0)
    seconds = {"engine": 0.0, "arrays": 0.0}
    answers = []
    for group in range(knobs.groups):
        completions = []
        for k in range(N):
            begin = time.process_time()
            received = receive(sent, knobs.k, None, is_flat=True)
            middle = time.process_time()
            ids, logprobs = flat_logprobs(received, len(sent), knobs.k)
            seconds["engine"] += middle - begin
            seconds["arrays"] += time.process_time() - middle
            number = 1 + N * group + k  # no two completions hold the same values
            completions.append(
                plain._replace(logprob_ids=ids * number % VOCABULARY, logprobs=logprobs / number)
            )
        answers.append(Reply(completions, 3))
    without = commit([Reply([plain] * N, 3) for _ in answers])
    seconds["arrow_and_file"] = commit(answers) - without
    return per_token("flat", seconds, len(sent) * N * knobs.groups)


def commit(answers: list[Reply]) -> float:
    """Seconds from completions to a committed file."""
    rows = [
        {
            "problem_id": f"p{i}",
            "kind": "number",
            "reference": "7",
            "options": [],
            "messages": [],
            "prompt_token_ids": [1, 2, 3],
        }
        for i in range(len(answers))
    ]
    batch = pa.Table.from_pylist(rows, schema=REQUEST_SCHEMA)
    judging = Judging(RewardKnobs(), AdvantageKnobs(), SelectionKnobs())
    with tempfile.TemporaryDirectory() as folder:
        maker = partial(GroupMaker, Path(folder), judging, SamplingKnobs())
        writer = RowWriter(maker, {"": Store(folder)}, len(answers))
        begin = time.process_time()
        writer(bundle(with_completions(batch, answers, MODEL)))
        return time.process_time() - begin


def objects(sent: list[LogprobsLists], knobs: argparse.Namespace, tokenizer: Any) -> dict[str, Any]:
    """One group: a dict of objects per position, as they come by default, into a file."""
    seconds = {"engine": 0.0}
    begin = time.process_time()
    received = [receive(sent, knobs.k, tokenizer, is_flat=False) for _ in range(N)]
    seconds["engine"] = time.process_time() - begin
    begin = time.process_time()
    rows = [
        [{str(i): vars(one) for i, one in position.items()}.items() for position in completion]
        for completion in received
    ]
    kind = pa.list_(pa.map_(pa.string(), pa.struct({"logprob": pa.float64(), "rank": pa.int64()})))
    table = pa.table({"logprobs": pa.array([list(map(list, row)) for row in rows], kind)})
    seconds["arrays"] = time.process_time() - begin
    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        pq.write_table(table, Path(folder) / "objects.parquet", compression="zstd")
        seconds["arrow_and_file"] = time.process_time() - begin
    return per_token("objects", seconds, len(sent) * N)


def per_token(way: str, seconds: dict[str, float], num_tokens: int) -> dict[str, Any]:
    parts = {name: 1e6 * value / num_tokens for name, value in seconds.items()}
    return {"way": way, **parts, "all": sum(parts.values())}


def summary(
    rows: list[dict[str, Any]], of: Callable[[list[float]], float]
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "way":
                found.setdefault(row["way"], {}).setdefault(name, []).append(value)
    return {
        way: {name: round(of(values), 2) for name, values in parts.items()}
        for way, parts in found.items()
    }


if __name__ == "__main__":
    main()
