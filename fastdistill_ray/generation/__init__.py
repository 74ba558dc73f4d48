"""Requests -> completions: Ray Data maps engine actors over them, one task per few requests.

A request is a row of REQUEST_SCHEMA; the engine adds the column `completions` (raw: not judged).
"""

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy

from fastdistill_ray.config import PoolKnobs
from fastdistill_ray.generation.endpoint import EndpointEngine
from fastdistill_ray.generation.scripted import ScriptedEngine
from fastdistill_ray.generation.vllm_engine import VLLMEngine
from fastdistill_ray.prompts import PromptKnobs, build_messages, render, template_hash
from fastdistill_ray.records import REQUEST_SCHEMA, Problem
from fastdistill_ray.teachers import SEED_STRIDE, EndpointKnobs, EngineKnobs, SamplingKnobs
from fastdistill_ray.verifiers import VerifierKnobs

ENGINES = {"vllm": VLLMEngine, "scripted": ScriptedEngine, "endpoint": EndpointEngine}
IN_FLIGHT_FACTOR = 2  # queued beside what the engine can decode at once


class EngineSpec(NamedTuple):
    """What an actor loads and how it samples."""

    model: str  # reference; each actor fetches it for its own node
    engine: EngineKnobs | EndpointKnobs
    sampling: SamplingKnobs
    verifier: VerifierKnobs  # of who stops when enough completions are correct


def request_seed(seed: int, key: str) -> int:
    """A multiple of SEED_STRIDE in [0, 2^62), equal in every process and run."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % (1 << 52) * SEED_STRIDE


def build_requests(
    problems: Iterable[Problem], prompt: PromptKnobs, tokenizer: Any, seed: int
) -> list[dict[str, Any]]:
    """Problems rendered for one model, as rows of REQUEST_SCHEMA.

    No tokenizer: whoever is asked renders the messages itself, and there are no token ids.
    """
    hashed = template_hash(tokenizer, prompt)
    rows = []
    for problem in problems:
        messages = build_messages(problem.question, prompt, problem.options)
        rows.append(
            {
                **{name: getattr(problem, name) for name in Problem.__dataclass_fields__},
                "messages": messages,
                "prompt_token_ids": render(messages, tokenizer) if tokenizer else [],
                "template_hash": hashed,
                "seed": request_seed(seed, problem.problem_id),
            }
        )
    assert len({row["seed"] for row in rows}) == len(rows), "two requests share a seed"
    return rows


def split_by_length(
    rows: list[dict[str, Any]], max_prompt_tokens: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(rows whose prompt leaves room for a whole completion, the others)."""
    fit = [row for row in rows if len(row["prompt_token_ids"]) <= max_prompt_tokens]
    return fit, [row for row in rows if len(row["prompt_token_ids"]) > max_prompt_tokens]


def _task_sizes(spec: EngineSpec) -> tuple[int, int]:
    """(rows of a task, tasks of an actor at once): as much as keeps its engine full."""
    if isinstance(spec.engine, EndpointKnobs):
        return 1, spec.engine.max_concurrency
    rows_per_task = max(1, 8 // spec.sampling.n)
    in_flight = max(1, IN_FLIGHT_FACTOR * spec.engine.max_num_seqs // spec.sampling.n)
    return rows_per_task, max(1, -(-in_flight // rows_per_task))


def completions(
    rows: list[dict[str, Any]],
    spec: EngineSpec,
    pool: PoolKnobs,
    schema: pa.Schema = REQUEST_SCHEMA,
) -> ray.data.Dataset:
    """A lazy dataset of the rows with their completions; engines start when it is consumed."""
    rows_per_task, tasks = _task_sizes(spec)
    requests = ray.data.from_arrow(
        [
            pa.Table.from_pylist(rows[i : i + rows_per_task], schema=schema)
            for i in range(0, len(rows), rows_per_task)
        ]
    )
    requests.context.enable_progress_bars = False
    requests.context.target_max_block_size = 1  # a finished group leaves its actor at once
    return requests.map_batches(
        ENGINES[spec.engine.kind],
        fn_constructor_kwargs={"spec": spec},
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=pool.workers, max_tasks_in_flight_per_actor=tasks),
        max_concurrency=tasks,
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        memory=pool.memory_gib * 2**30 or None,
    )
