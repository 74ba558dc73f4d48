"""Models x problems -> judged answers, through the same engines as generation.

Models of one architecture share one engine: its weights are exchanged in place. Every answer is
judged twice: by the contract (`verdict`), and leniently (`lenient_verdict`: a last number outside
any format counts), so that learning the format is not taken for learning to reason.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ray.data import ActorPoolStrategy

from fastdistill_ray.cluster.pools import PoolsKnobs
from fastdistill_ray.evaluation.knobs import EvaluationKnobs
from fastdistill_ray.generation.completions import EngineSpec, completions, num_bundles, unbundle
from fastdistill_ray.generation.knobs import SamplingKnobs
from fastdistill_ray.generation.outputs import RAW_COMPLETION
from fastdistill_ray.generation.requests import ProblemRequests, has_one_that_fits
from fastdistill_ray.generation.vllm_engine import RELOAD_COLUMN
from fastdistill_ray.groups.store import Commit, Store
from fastdistill_ray.models import fetch_model
from fastdistill_ray.progress import Progress
from fastdistill_ray.prompts import PromptKnobs
from fastdistill_ray.records import PROBLEM_FIELDS
from fastdistill_ray.rewards import check_format
from fastdistill_ray.run_files import StageResult
from fastdistill_ray.tasks.problem_file import ProblemFile, digests
from fastdistill_ray.verifiers import Judge, VerifierKnobs

ROWS_PER_FILE = 64
# Weights of these configurations fit one engine; the rest of config.json may differ.
IGNORED_CONFIG = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")


class Model(NamedTuple):
    """A row of the report: a model reference and the prompt it is asked with."""

    name: str
    weights: str
    prompt: PromptKnobs


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
        ("request_id", pa.string()),
        ("model", pa.string()),
        ("prompt_num_tokens", pa.int32()),
        ("completions", pa.list_(ANSWER)),
    ]
)


class AnswerWriter:
    """Ray Data UDF: bundles of answered requests -> committed rows; returns their log lines."""

    def __init__(self, folder: str, verifier: VerifierKnobs) -> None:
        self.store = Store(folder, key="request_id")
        self.strict = Judge(verifier)
        self.lenient = Judge(verifier.model_copy(update={"last_number": True}))

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = [self._judged(row) for row in unbundle(batch).to_pylist()]
        lines = []
        if rows:
            commit = self.store.write(pa.Table.from_pylist(rows, schema=ANSWERED_SCHEMA))
            lines.append(json.dumps(commit._asdict()))
        return pa.table({"commit": pa.array(lines, pa.string())})

    def _judged(self, row: dict[str, Any]) -> dict[str, Any]:
        answers = []
        for completion in row["completions"]:
            asked = (
                *(row["kind"], completion["text"], row["reference"], row["options"]),
                completion["finish_reason"],
            )
            strict = self.strict.judge(*asked, tolerance=row["tolerance"])
            lenient = self.lenient.judge(*asked, tolerance=row["tolerance"])
            form = check_format(completion["text"], "strict")
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
            "prompt_num_tokens": len(row["prompt_token_ids"]),
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
            keys = [f"{model.name}/{one}" for one in table["problem_id"].to_pylist()]
            columns = {
                "request_id": keys,
                "model": [model.name] * len(keys),
                RELOAD_COLUMN: [model.weights] * len(keys),
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
    out: Path,
) -> StageResult:
    """Ask every model every problem that is not answered yet; writes `<model>.parquet` each."""
    store = Store(out / "answers", key="request_id")
    store.folder.mkdir(exist_ok=True)
    store.recover()
    for shared in _by_architecture(models):
        missing = missing_requests(shared, files, store, knobs)
        if len(missing):
            _answer(missing, len(shared), knobs, verifier, pools, store)
    unanswered = missing_requests(models, files, store, knobs)
    assert not has_one_that_fits(unanswered), "a problem whose prompt fits has no answer"
    num_too_long = len(unanswered)
    num_asked = len(models) * sum(map(len, files))
    tables = _write_tables(store, models, out)
    return StageResult(
        rows_in=num_asked,
        rows_out=num_asked - num_too_long,
        set_aside={"prompt_too_long": num_too_long} if num_too_long else {},
        prompt_tokens=sum(commit.prompt_tokens for commit in store.commits()),
        completion_tokens=sum(sum(table["num_tokens"].to_pylist()) for table in tables),
    )


def missing_requests(
    models: list[Model], files: list[ProblemFile], store: Store, knobs: EvaluationKnobs
) -> ModelRequests:
    """What is not answered, by weights; after all were asked, those whose prompt is too long."""
    answered = digests(store.keys())
    room = knobs.engine.max_model_len - knobs.max_new_tokens
    return ModelRequests(
        [
            (
                model,
                ProblemRequests(
                    file,
                    file.rows_without(answered, f"{model.name}/"),
                    *(model.weights, model.prompt, knobs.seed, room),
                ),
            )
            for model in sorted(models, key=lambda model: model.weights)
            for file in files
        ]
    )


def _answer(
    requests: ModelRequests,
    num_models: int,
    knobs: EvaluationKnobs,
    verifier: VerifierKnobs,
    pools: PoolsKnobs,
    store: Store,
) -> None:
    spec = EngineSpec(
        next(model.weights for model, part in requests.parts if len(part)),
        knobs.engine,
        SamplingKnobs(
            n=knobs.n,
            temperature=knobs.temperature,
            top_p=knobs.top_p,
            max_new_tokens=knobs.max_new_tokens,
            loop_repeats=knobs.loop_repeats,
        ),
        verifier,
    )
    dataset = completions(requests, spec, pools.evaluation).map_batches(
        AnswerWriter,
        fn_constructor_args=(str(store.folder), verifier),
        batch_size=num_bundles(min(ROWS_PER_FILE, len(requests) // 16), spec, pools.evaluation),
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=pools.judges.workers),
        **pools.judges.remote_args(),
    )
    progress = Progress(f"evaluate {num_models} models", len(requests))
    for row in dataset.iter_rows():
        commit = Commit(**json.loads(row["commit"]))
        store.append(commit)
        progress.advance(len(commit.keys), commit.num_tokens)
    progress.end()


def _by_architecture(models: list[Model]) -> Iterator[list[Model]]:
    """Models whose weights fit the same engine."""
    groups: dict[str, list[Model]] = {}
    for model in models:
        file = Path(fetch_model(model.weights)) / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        kept = {key: value for key, value in config.items() if key not in IGNORED_CONFIG}
        groups.setdefault(json.dumps(kept, sort_keys=True), []).append(model)
    yield from groups.values()


def _write_tables(store: Store, models: list[Model], out: Path) -> list[pa.Table]:
    """One row per answer, problems in order of their id."""
    rows: dict[str, list[dict[str, Any]]] = {model.name: [] for model in models}
    for table in store.tables():
        for row in table.to_pylist():
            answers = row.pop("completions")
            rows[row["model"]].extend(
                {**row, "k": k, **{key: a for key, a in answer.items() if key != "token_ids"}}
                for k, answer in enumerate(answers)
            )
    tables = []
    for name, answers in rows.items():
        answers.sort(key=lambda row: (row["problem_id"], row["k"]))
        tables.append(pa.Table.from_pylist(answers))
        pq.write_table(tables[-1], out / f"{name}.parquet")
    return tables


def read_answers(folder: Path, model: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / f"{model}.parquet").to_pylist()
