"""Models x problems -> judged answers, through the same engines as generation.

Models of one architecture share one engine: its weights are exchanged in place. Every answer is
judged twice: by the contract (`verdict`), and leniently (`lenient_verdict`: a last number outside
any format counts), so that learning the format is not taken for learning to reason.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fastdistill_ray.cluster.pools import PoolsKnobs
from fastdistill_ray.evaluation.knobs import EvaluationKnobs, Model
from fastdistill_ray.generation.completions import to_write
from fastdistill_ray.generation.knobs import EngineSpec, SamplingKnobs
from fastdistill_ray.generation.outputs import RAW_COMPLETION
from fastdistill_ray.generation.requests import ProblemRequests, has_one_that_fits
from fastdistill_ray.generation.vllm_engine import RELOAD_COLUMN
from fastdistill_ray.groups.accounting import paid_facts
from fastdistill_ray.groups.aside import forget_aside, set_aside
from fastdistill_ray.groups.ask import ask
from fastdistill_ray.groups.store import STORE, Store
from fastdistill_ray.models import fetch_without_weights
from fastdistill_ray.progress import Progress
from fastdistill_ray.records import PROBLEM_FIELDS
from fastdistill_ray.rewards import check_format
from fastdistill_ray.run_files import ANSWERS, StageResult
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import write_batches
from fastdistill_ray.tasks.problem_file import ProblemFile, digests
from fastdistill_ray.verifiers import Judge, VerifierKnobs

ROWS_PER_FILE = 64
# Weights of these configurations fit one engine; the rest of config.json may differ.
IGNORED_CONFIG = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")


ANSWER = pa.struct(
    [
        *[RAW_COMPLETION.field(i) for i in range(RAW_COMPLETION.num_fields)],
        ("verdict", pa.string()),
        ("answer", pa.string()),
        ("reason", pa.string()),
        ("lenient_verdict", pa.string()),
        ("lenient_answer", pa.string()),
        ("format_think", pa.bool_()),
        ("format_answer", pa.bool_()),
        ("format_box", pa.bool_()),
        ("format_whole", pa.bool_()),
    ]
)
ANSWERED_SCHEMA = pa.schema(
    [
        *PROBLEM_FIELDS,
        ("prompt_num_tokens", pa.int32()),
        ("completions", pa.list_(ANSWER)),
    ]
)
ANSWERS_SCHEMA = pa.schema(
    [
        *PROBLEM_FIELDS,
        ("prompt_num_tokens", pa.int32()),
        ("k", pa.int32()),
        *[field for field in ANSWER if field.name != "token_ids"],
    ]
)


class AnswerMaker:
    """Requests with raw completions -> answers, judged twice."""

    def __init__(self, verifier: VerifierKnobs) -> None:
        self.strict = Judge(verifier)
        self.lenient = Judge(verifier.model_copy(update={"last_number": True}))

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = [self._judged(row) for row in batch.to_pylist()]
        return pa.Table.from_pylist(rows, schema=ANSWERED_SCHEMA)

    def _judged(self, row: dict[str, Any]) -> dict[str, Any]:
        answers = []
        for completion in row["completions"]:
            text, finish_reason = completion["text"], completion["finish_reason"]
            strict = self.strict.judge_row(row, text, finish_reason)
            lenient = self.lenient.judge_row(row, text, finish_reason)
            form = check_format(text, "strict")
            answers.append(
                {
                    **completion,
                    "verdict": strict.verdict,
                    "answer": strict.answer,
                    "reason": strict.reason,
                    "lenient_verdict": lenient.verdict,
                    "lenient_answer": lenient.answer,
                    **{f"format_{part}": value for part, value in form._asdict().items()},
                }
            )
        return {
            **row,
            "prompt_num_tokens": len(row["prompt_token_ids"]) or row["prompt_num_tokens"],
            "completions": answers,
        }


@dataclass(frozen=True)
class ModelRequests:
    """Requests of models, one after the other: each one's weights are loaded once."""

    parts: list[tuple[Model, ProblemRequests]]

    def __len__(self) -> int:
        return sum(len(requests) for _, requests in self.parts)

    def take(self, numbers: np.ndarray) -> pa.Table:
        ends = np.cumsum([len(requests) for _, requests in self.parts])
        places = np.searchsorted(ends, numbers, side="right")
        tables = []
        for place in np.unique(places):
            model, requests = self.parts[place]
            start = ends[place] - len(requests)
            table = requests.take(numbers[places == place] - start)
            columns = {
                STORE: [model.name] * table.num_rows,
                RELOAD_COLUMN: [model.weights] * table.num_rows,
            }
            for name, values in columns.items():
                table = table.append_column(name, pa.array(values, pa.string()))
            tables.append(table)
        return pa.concat_tables(tables)


def evaluate(
    models: list[Model],
    files: list[ProblemFile],
    knobs: EvaluationKnobs,
    verifier: VerifierKnobs,
    pools: PoolsKnobs,
    *,
    out: Mapping[str, Place],
) -> dict[str, StageResult]:
    """Ask each model every problem that it has not answered yet; `out` is a folder for each.

    Writes answers.parquet into each folder; -> the result of each.
    """
    stores = {model.name: Store(out[model.name]) for model in models}
    for store in stores.values():
        store.begin()
        forget_aside(store)
    for shared in _by_architecture(models):
        progress = Progress(f"evaluate {len(shared)} models", len(shared) * sum(map(len, files)))
        while has_one_that_fits(missing := missing_requests(shared, files, stores, knobs)):
            assert progress.total - len(missing) >= progress.done, "an answer is not in its store"
            progress.done = progress.total - len(missing)
            _ask_models(missing, knobs, verifier, pools, stores, progress)
    return {model.name: result_of(model, files, knobs, stores[model.name]) for model in models}


def result_of(
    model: Model, files: list[ProblemFile], knobs: EvaluationKnobs, store: Store
) -> StageResult:
    """Once all was asked; writes answers.parquet."""
    unanswered = missing_requests([model], files, {model.name: store}, knobs)
    num_asked = sum(map(len, files))
    refused = sum(
        pc.sum(pc.equal(pc.list_value_length(table["completions"]), 0)).as_py() or 0
        for table in store.tables()
    )
    left = {"prompt_too_long": len(unanswered), "not_answered": len(set_aside(store))}
    left["refused"] = refused  # by an endpoint
    write_batches(_answers(store), ANSWERS_SCHEMA, store.folder / ANSWERS)
    return StageResult(
        rows_in=num_asked,
        rows_out=num_asked - sum(left.values()),
        set_aside={why: number for why, number in left.items() if number},
        prompt_tokens=sum(commit.prompt_tokens for commit in store.commits()),
        completion_tokens=sum(commit.num_tokens for commit in store.commits()),
        facts=paid_facts("teacher", store.folder),
    )


def missing_requests(
    models: list[Model],
    files: list[ProblemFile],
    stores: Mapping[str, Store],
    knobs: EvaluationKnobs,
) -> ModelRequests:
    """What is not answered, by weights; after all were asked, those whose prompt is too long.
    What was set aside is not asked again."""
    room = knobs.engine.max_model_len - knobs.max_new_tokens
    parts = []
    for model in sorted(models, key=lambda model: model.weights):
        store = stores[model.name]
        answered = digests(chain(store.keys(), set_aside(store)))
        for file in files:
            rows = file.rows_without(answered)
            renders, most = ("", None) if model.endpoint else (model.weights, room)
            requests = ProblemRequests(file, rows, renders, model.prompt, knobs.seed, most)
            parts.append((model, requests))
    return ModelRequests(parts)


def _ask_models(
    requests: ModelRequests,
    knobs: EvaluationKnobs,
    verifier: VerifierKnobs,
    pools: PoolsKnobs,
    stores: Mapping[str, Store],
    progress: Progress,
) -> None:
    """Models of one architecture, by one engine; or one behind an endpoint, as it is asked when it
    teaches."""
    model = next(model for model, part in requests.parts if len(part))
    engine, endpoint = knobs.engine, model.endpoint
    sampling = SamplingKnobs(
        n=knobs.n,
        temperature=knobs.temperature,
        top_p=knobs.top_p,
        max_new_tokens=knobs.max_new_tokens,
        loop_repeats=0 if endpoint else knobs.loop_repeats,
    )
    paid = stores[model.name].folder if endpoint else None
    spec = EngineSpec(model.weights, endpoint or engine, sampling, verifier, paid)
    asked = {model.name for model, _ in requests.parts}
    ask(
        [to_write(requests, spec, pools.teacher if endpoint else pools.evaluation)],
        partial(AnswerMaker, verifier),
        {name: store for name, store in stores.items() if name in asked},
        judges=pools.judges,
        rows_per_file=min(ROWS_PER_FILE, max(1, len(requests) // 16)),
        max_aside=sampling.max_set_aside,
        stall_minutes=pools.stall_minutes,
        progress=progress,
        note=lambda commit: "",
    )


def _by_architecture(models: list[Model]) -> Iterator[list[Model]]:
    """Models whose weights fit the same engine; one behind an endpoint by itself."""
    groups: dict[str, list[Model]] = {}
    for model in models:
        if model.endpoint:
            groups[model.name] = [model]
            continue
        file = Path(fetch_without_weights(model.weights)) / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        kept = {key: value for key, value in config.items() if key not in IGNORED_CONFIG}
        groups.setdefault(json.dumps(kept, sort_keys=True), []).append(model)
    yield from groups.values()


def _answers(store: Store) -> Iterator[pa.Table]:
    """A row per answer, in the order in which problems were answered."""
    for table in store.tables():
        rows = [
            {**row, **answer, "k": k}
            for row in table.to_pylist()
            for k, answer in enumerate(row.pop("completions"))
        ]
        rows = [{name: row[name] for name in ANSWERS_SCHEMA.names} for row in rows]
        yield pa.Table.from_pylist(rows, schema=ANSWERS_SCHEMA)
