"""Requests -> completions: Ray Data maps engine actors over them, one task per few requests.

The driver knows requests by number only; the actor that asks one renders it. A request is a row of
REQUEST_SCHEMA; the engine adds the column `completions` (raw: not judged). The rows of a task stay
together: one row of the dataset, one block.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.cluster.queues import bound_queues
from fastdistill_ray.generation.endpoint import EndpointEngine
from fastdistill_ray.generation.knobs import EndpointKnobs, EngineSpec
from fastdistill_ray.generation.outputs import RawCompletion
from fastdistill_ray.generation.requests import Requests
from fastdistill_ray.generation.scripted import ScriptedEngine
from fastdistill_ray.generation.vllm_engine import VLLMEngine
from fastdistill_ray.verifiers import Judge

ENGINES = {"vllm": VLLMEngine, "scripted": ScriptedEngine, "endpoint": EndpointEngine}
IN_FLIGHT_FACTOR = 2  # queued beside what the engine can decode at once
# Most tasks in flight over all actors. Each costs the driver milliseconds; beyond this many a task
# carries several requests, so a finished group is committed only when its task is.
TASKS_AT_ONCE = 256
NUMBERS_AT_ONCE = 4096  # handed out by one task

ENGINE_RESTARTS = 10  # of one actor; an engine that dies every time ends the stage


class Asking:
    """Ray Data UDF: numbers of requests -> their rows with completions, as one."""

    def __init__(self, spec: EngineSpec, requests: ray.ObjectRef) -> None:
        self.requests: Requests = ray.get(requests)
        self.requests.take(np.arange(1))  # loads the tokenizer before an engine waits for it
        count = partial(num_correct, Judge(spec.verifier))
        self.engine = ENGINES[spec.engine.kind](spec, count)

    async def __call__(self, batch: pa.Table) -> pa.Table:
        (numbers,) = batch["numbers"].to_numpy()
        return bundle(await self.engine(self.requests.take(numbers)))


def num_correct(judge: Judge, row: dict[str, Any], completions: list[RawCompletion]) -> int:
    """How many of a request's completions are correct, for sampling.max_n and enough."""
    verdicts = [judge.judge_row(row, one.text, one.finish_reason).verdict for one in completions]
    return verdicts.count("correct")


def bundle(rows: pa.Table) -> pa.Table:
    """One row that holds them all: Ray Data, told to cut small blocks, would make each its own."""
    columns = [column.combine_chunks() for column in rows.columns]
    structs = pa.StructArray.from_arrays(columns, fields=list(rows.schema))
    return pa.table({"rows": pa.ListArray.from_arrays([0, rows.num_rows], structs)})


def unbundle(batch: pa.Table) -> pa.Table:
    """The rows of all bundles of a batch."""
    return pa.Table.from_struct_array(batch["rows"].combine_chunks().flatten())


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
        cast(Any, _hand_out),  # Ray's types know no function with arguments of its own
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
