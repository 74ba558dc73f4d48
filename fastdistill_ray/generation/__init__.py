"""Requests -> completions: Ray Data maps engine actors over them, one task per few requests.

The driver knows requests by number only; the actor that asks one renders it. A request is a row of
REQUEST_SCHEMA; the engine adds the column `completions` (raw: not judged). The rows of a task stay
together: one row of the dataset, one block.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from fastdistill_ray.config import PoolKnobs
from fastdistill_ray.generation.endpoint import EndpointEngine
from fastdistill_ray.generation.queues import bound_queues
from fastdistill_ray.generation.scripted import ScriptedEngine
from fastdistill_ray.generation.vllm_engine import VLLMEngine
from fastdistill_ray.models import tokenizer_of
from fastdistill_ray.problems import ProblemFile
from fastdistill_ray.prompts import PromptKnobs, build_messages, render, template_hash
from fastdistill_ray.records import REQUEST_SCHEMA, Problem
from fastdistill_ray.teachers import SEED_STRIDE, EndpointKnobs, EngineKnobs, SamplingKnobs
from fastdistill_ray.verifiers import VerifierKnobs

ENGINES = {"vllm": VLLMEngine, "scripted": ScriptedEngine, "endpoint": EndpointEngine}
IN_FLIGHT_FACTOR = 2  # queued beside what the engine can decode at once
# Each task costs the driver milliseconds: where more than this many could run at once, a task
# takes several requests, and a finished group waits for those few.
TASKS_AT_ONCE = 256
NUMBERS_AT_ONCE = 4096  # handed out by one task
ROWS_AT_ONCE = 1024  # rendered only to see whether one fits
ENGINE_RESTARTS = 10  # of one actor; an engine that dies every time ends the stage


class EngineSpec(NamedTuple):
    """What an actor loads and how it samples."""

    model: str  # reference; each actor fetches it for its own node
    engine: EngineKnobs | EndpointKnobs
    sampling: SamplingKnobs
    verifier: VerifierKnobs  # of who stops when enough completions are correct


class Requests(Protocol):
    """Numbered requests; actors read the rows of the numbers they are given."""

    def __len__(self) -> int: ...

    def take(self, numbers: np.ndarray) -> pa.Table: ...


@dataclass(frozen=True)
class ProblemRequests:
    """Requests for some problems of a file, rendered by the actor that asks them.

    A prompt that leaves no room for a whole completion is left out.
    """

    problems: ProblemFile
    rows: np.ndarray  # row number of each request's problem
    model: str  # whose tokenizer and chat template; "": whoever is asked renders the messages
    prompt: PromptKnobs
    seed: int
    max_prompt_tokens: int | None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, numbers: np.ndarray) -> pa.Table:
        problems = self.problems.take(self.rows[numbers])
        tokenizer = tokenizer_of(self.model) if self.model else None
        requests = build_requests(problems, self.prompt, tokenizer, self.seed)
        if self.max_prompt_tokens is not None:
            requests, _ = split_by_length(requests, self.max_prompt_tokens)
        return pa.Table.from_pylist(requests, schema=REQUEST_SCHEMA)


class Asking:
    """Ray Data UDF: numbers of requests -> their rows with completions, as one."""

    def __init__(self, spec: EngineSpec, requests: ray.ObjectRef) -> None:
        self.requests: Requests = ray.get(requests)
        self.requests.take(np.arange(1))  # loads the tokenizer before an engine waits for it
        self.engine = ENGINES[spec.engine.kind](spec)

    async def __call__(self, batch: pa.Table) -> pa.Table:
        (numbers,) = batch["numbers"].to_numpy()
        return bundle(await self.engine(self.requests.take(numbers)))


def bundle(rows: pa.Table) -> pa.Table:
    """One row that holds them all: Ray Data, told to cut small blocks, would make each its own."""
    columns = [column.combine_chunks() for column in rows.columns]
    structs = pa.StructArray.from_arrays(columns, fields=list(rows.schema))
    return pa.table({"rows": pa.ListArray.from_arrays([0, rows.num_rows], structs)})


def unbundle(batch: pa.Table) -> pa.Table:
    """The rows of all bundles of a batch."""
    return pa.Table.from_struct_array(batch["rows"].combine_chunks().flatten())


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


def has_one_that_fits(requests: Requests) -> bool:
    """Whether an engine would be asked any of them."""
    return any(
        requests.take(np.arange(first, min(first + ROWS_AT_ONCE, len(requests)))).num_rows
        for first in range(0, len(requests), ROWS_AT_ONCE)
    )


def _task_sizes(spec: EngineSpec, num_actors: int) -> tuple[int, int]:
    """(requests of a task, tasks of an actor at once): as much as keeps its engine full."""
    if isinstance(spec.engine, EndpointKnobs):
        return 1, spec.engine.max_concurrency
    in_flight = max(1, IN_FLIGHT_FACTOR * spec.engine.max_num_seqs // spec.sampling.n)
    per_task = max(8 // spec.sampling.n, in_flight * num_actors // TASKS_AT_ONCE, 1)
    return per_task, -(-in_flight // per_task)


def num_bundles(num_requests: int, spec: EngineSpec, pool: PoolKnobs) -> int:
    """How many rows of `completions` hold no more than these requests; at least one."""
    return max(1, num_requests // _task_sizes(spec, pool.workers)[0])


def completions(requests: Requests, spec: EngineSpec, pool: PoolKnobs) -> ray.data.Dataset:
    """A lazy dataset of bundles of the requests' rows with their completions, a block per task as
    each is done; engines start when it is consumed."""
    per_task, tasks = _task_sizes(spec, pool.workers)
    numbers = ray.data.from_items(
        [{"start": start} for start in range(0, len(requests), NUMBERS_AT_ONCE)]
    )
    bound_queues(numbers.context, max_blocks=4 * TASKS_AT_ONCE)
    return numbers.map_batches(
        _hand_out,
        fn_kwargs={"end": len(requests), "per_task": per_task},
        batch_size=1,
        compute=TaskPoolStrategy(size=1),
        num_cpus=0,
        # By default Ray Data finds 2 blocks each time it looks, too few for many actors.
        _generator_backpressure_num_objects=2 * TASKS_AT_ONCE,
    ).map_batches(
        Asking,
        fn_constructor_kwargs={"spec": spec, "requests": ray.put(requests)},
        batch_size=1,  # with GPUs Ray Data wants a number
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=pool.workers, max_tasks_in_flight_per_actor=tasks),
        max_concurrency=tasks,
        max_restarts=ENGINE_RESTARTS,
        **pool.remote_args(),
    )


def _hand_out(batch: dict[str, np.ndarray], end: int, per_task: int) -> Iterator[pa.Table]:
    """The numbers of each task in a block of one row."""
    (start,) = batch["start"]
    stop = min(start + NUMBERS_AT_ONCE, end)
    for first in range(start, stop, per_task):
        numbers = np.arange(first, min(first + per_task, stop))
        yield pa.table({"numbers": pa.array([numbers], pa.list_(pa.int64()))})
