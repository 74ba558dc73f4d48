"""What a stored signal costs per trained token: to ask for, to write, to read, and in bytes.

    python -m benchmarks.signals RUN_DIR [--groups 24] [--json FILE] [--kinds topk_64 ...]

The recipe's teacher, by its own prompt (worked examples), is asked about the completions of the
committed groups of its run, by the stage's own engine, one thread each in vLLM's worker and beside
it. CPU microseconds of all its processes; `transformers` is a plain forward with full logits over
padded rows of 8, prompt and completion, in the engine's precision and with one thread. `write_1`
is a committed file for every group, as a stage writes whose engine gives one group at a time, and
`write_64` one for every 64 of them, as one whose engine gives many at a time; both with all files
merged at the end. For that the groups are repeated until there are 64 or more, under other names.
`read` is what training does with what was written. Each way runs in a process of its own.
"""

import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import torch

from benchmarks.harness import make_parser, print_rows, run_fresh, write_json
from fastdistill_ray.generation.knobs import EngineKnobs
from fastdistill_ray.groups.compaction import merge_files, replace_log
from fastdistill_ray.groups.signals import GroupSignals, Signal, arrays_of, joined
from fastdistill_ray.groups.steps import SignalReader, StoredSignals, read_index
from fastdistill_ray.groups.store import Store
from fastdistill_ray.models import fetch_model, vocabulary_of
from fastdistill_ray.prompts import Prompted
from fastdistill_ray.recipe.derived import scorer_of
from fastdistill_ray.recipe.loading import load_recipe
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.run_files import stage_folders
from fastdistill_ray.scoring.engine import DTYPES, Reader, ScoringEngine, ScoringSpec
from fastdistill_ray.scoring.requests import TextRequests, Texts
from fastdistill_ray.scoring.score import IN_FLIGHT
from fastdistill_ray.storage.place import Place

SIGNALS = (
    Signal("chosen"),
    Signal("random", 50),
    Signal("topk", 20),
    Signal("topk", 64),
    Signal("hidden", 16),
    Signal("hidden", 8),
)
KINDS = {signal.name: signal for signal in SIGNALS}
PLAIN = "transformers"
ROWS = 8
REPEATS = 5  # of writing and reading
BUNDLE = 64  # groups of a file: 2^18 tokens by 8 times training.max_seq_len 512


def cpu_seconds() -> float:
    """Of this process and all it started."""
    own = psutil.Process()
    return sum(
        sum(one.cpu_times()[:2]) for one in [own, *own.children(recursive=True)] if one.is_running()
    )


def asked(run_dir: str, recipe: Recipe, num_groups: int) -> TextRequests:
    groups = str(stage_folders(Place(run_dir))["groups"])
    scorer = scorer_of(recipe)
    assert scorer
    texts = Texts(
        student=Prompted(recipe.student.model, recipe.student.prompt),
        teacher_prompts={recipe.teacher.model: recipe.teacher.prompt},
        scorer=scorer.prompted,
        max_seq_len=recipe.training.max_seq_len,
        seed=0,
    )
    return TextRequests(groups, read_index(Store(groups)).slice(0, num_groups), texts)


def score(run_dir: str, signal: Signal, num_groups: int) -> dict[str, float]:
    recipe = load_recipe(str(Path(run_dir) / "recipe.yaml"), [])
    requests = asked(run_dir, recipe, num_groups)
    assert isinstance(recipe.teacher.engine, EngineKnobs)
    model = recipe.teacher.model
    field, knobs = "teacher.model", recipe.teacher.engine
    spec = ScoringSpec(field, model, knobs, signal, vocabulary_of(model))
    reader = Reader(fetch_model(model), knobs)
    engine = ScoringEngine(spec, lambda *_: reader)
    torch.set_num_threads(1)
    tables = [requests.take(np.array([number])) for number in range(len(requests))]

    async def ask_all() -> tuple[list[Any], float]:
        room = asyncio.Semaphore(IN_FLIGHT)

        async def ask(table: Any) -> Any:
            async with room:
                return await engine(table)

        await ask(tables[0])  # the first compiles
        before = cpu_seconds()
        found = await asyncio.gather(*map(ask, tables[1:]))
        return found, cpu_seconds() - before

    tables, seconds = asyncio.run(ask_all())
    reader.engine.shutdown()
    rows = [table.drop_columns(["failure"]) for table in tables]
    tokens = sum(sum(row) for table in rows for row in table["num_tokens"].to_pylist())
    return {"ask": seconds, "tokens": tokens} | kept(rows, signal)


def kept(tables: list[Any], signal: Signal) -> dict[str, float]:
    """Tokens, bytes, and CPU seconds of writing and of reading, the least of some."""
    writes: dict[str, list[float]] = {}
    reads = []
    tables = repeated(tables)
    tokens = sum(sum(row) for table in tables for row in table["num_tokens"].to_pylist())
    bundles = [pa.concat_tables(tables[i : i + BUNDLE]) for i in range(0, len(tables), BUNDLE)]
    for _ in range(REPEATS):
        for name, files in (("1", tables), (str(BUNDLE), bundles)):
            store = Store(tempfile.mkdtemp())
            start = time.process_time()
            commits = [store.write(table) for table in files]
            store.append(commits)
            merged = commits[0]
            if len(commits) > 1:
                merged = merge_files(store, commits)
                replace_log(store, {commits[0].file: merged})
            writes.setdefault(name, []).append(time.process_time() - start)
        reader, keys = SignalReader(StoredSignals(str(store.folder), signal)), list(store.keys())
        start = time.process_time()
        for key in keys:
            row = arrays_of(reader.read(key))
            group = GroupSignals(row, signal)
            joined([group.decoded(number) for number in range(len(group.places))])
        reads.append(time.process_time() - start)
    written = {f"write_{name}": min(seconds) for name, seconds in writes.items()}
    return {"kept": tokens, "bytes": merged.size, **written, "read": min(reads)}


def repeated(tables: list[Any]) -> list[Any]:
    """As many as a bundle has at least, each of another problem."""
    found = []
    for number in range(-(-BUNDLE // len(tables)) * len(tables)):
        table = tables[number % len(tables)]
        keys = pa.array([f"{key}/{number}" for key in table["problem_id"].to_pylist()])
        found.append(table.set_column(0, table.schema.field(0), keys))
    return found


@torch.no_grad()
def plain(run_dir: str, num_groups: int) -> dict[str, float]:
    """Full logits of padded rows of 8."""
    from transformers import AutoModelForCausalLM

    recipe = load_recipe(str(Path(run_dir) / "recipe.yaml"), [])
    requests = asked(run_dir, recipe, num_groups)
    assert isinstance(recipe.teacher.engine, EngineKnobs)
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(
        fetch_model(recipe.teacher.model), dtype=DTYPES[recipe.teacher.engine.dtype]
    )
    rows, tokens = [], 0
    for row in requests.take(np.arange(1, len(requests))).to_pylist():
        for ids in row["token_ids"]:
            rows.append([*row["prompt_token_ids"], *ids])
            tokens += len(ids)
    seconds = 0.0
    for first in range(0, len(rows), ROWS):
        some = rows[first : first + ROWS]
        width = max(map(len, some))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in some])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in some])
        start = time.process_time()
        model(input_ids=ids, attention_mask=mask, use_cache=False).logits.sum()
        seconds += time.process_time() - start
    return {"ask": seconds, "tokens": tokens}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument("--groups", type=int, default=24, help="asked about; one more warms up")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--way", choices=[*KINDS, PLAIN], help="this one alone, in this process")
    arguments = parser.parse_args()
    if arguments.way:
        num_groups = arguments.groups + 1
        if arguments.way == PLAIN:
            print(json.dumps(plain(arguments.run_dir, num_groups)))
        else:
            print(json.dumps(score(arguments.run_dir, KINDS[arguments.way], num_groups)))
        return
    found = {}
    for way in [PLAIN, *arguments.kinds]:
        printed = run_fresh(
            "benchmarks.signals",
            *(arguments.run_dir, "--way", way, "--groups", str(arguments.groups)),
            env={"VLLM_CPU_OMP_THREADS_BIND": str(min(os.sched_getaffinity(0)))},
        )
        found[way] = json.loads(printed.splitlines()[-1])
    rows = []
    for way, one in found.items():
        tokens, row = one["tokens"], {"way": way, "tokens": one["tokens"]}
        row["ask_us"] = 1e6 * one["ask"] / tokens
        row["as_fast_as_transformers"] = (
            found[PLAIN]["ask"] / found[PLAIN]["tokens"] / (one["ask"] / tokens)
        )
        if way != PLAIN:
            names = ("write_1", f"write_{BUNDLE}", "read")
            row |= {f"{name}_us": 1e6 * one[name] / one["kept"] for name in names}
            row["bytes"] = one["bytes"] / one["kept"]
        rows.append(row)
    print_rows(rows)
    write_json(arguments.json, {"torch": torch.__version__, "rows": rows})


if __name__ == "__main__":
    main()
