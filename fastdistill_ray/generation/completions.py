"""Requests -> completions: Ray Data maps engine actors over seats; each actor pulls requests.

A seat is a task that stays with an actor for as long as there is work, so that an engine always has
as many requests as it can decode at once. The driver knows requests by number only; the actor that
asks one renders it. An answer is a row of REQUEST_SCHEMA with the engine's column `completions`
(raw: not judged); answers come in bundles, a block each.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, cast

import pyarrow as pa
import ray
import ray.data
from ray.data import TaskPoolStrategy

from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.cluster.queues import actor_pool, bound_queues, ignore_lost_tasks
from fastdistill_ray.generation.asking import Asking, start_writer
from fastdistill_ray.generation.dispenser import Dispenser
from fastdistill_ray.generation.knobs import EndpointKnobs, EngineSpec
from fastdistill_ray.generation.requests import Requests

IN_FLIGHT_FACTOR = 2  # asked at once, of what the engine can decode at once
BUNDLES_PER_SECOND = 200  # of all actors: each costs the driver a millisecond or two
SHORTEST_INTERVAL = 0.05  # seconds between bundles of an actor
SEAT_SECONDS = 0.2  # between looks whether another seat is wanted
MAX_BLOCKS = 1024
NODE_ID = "ray.io/node-id"  # a label that Ray gives every node


class Asked(NamedTuple):
    """Who is asked what, and where its actors run."""

    requests: Requests
    model: str  # what errors call the engine
    start: Callable[[], Any]  # an actor's engine
    in_flight: int  # requests an actor asks at once
    pool: PoolKnobs


def to_write(requests: Requests, spec: EngineSpec, pool: PoolKnobs) -> Asked:
    """For completions."""
    return Asked(requests, spec.model, partial(start_writer, spec), in_flight(spec), pool)


def start_dispenser(asked: Asked, most_aside: int) -> Any:
    """Handle of the actor that hands out the numbers of the requests."""
    actor = ray.remote(num_cpus=0, label_selector=drivers_node())(Dispenser)
    return actor.remote(len(asked.requests), asked.pool.workers, most_aside)


def drivers_node() -> dict[str, str]:
    """Labels of the node whose end is the run's end anyway: what there is one of runs on it, and on
    no spot node."""
    return {NODE_ID: ray.get_runtime_context().get_node_id()}


def in_flight(spec: EngineSpec) -> int:
    """Requests an actor asks at once."""
    if isinstance(spec.engine, EndpointKnobs):
        return spec.engine.max_concurrency
    return max(1, IN_FLIGHT_FACTOR * spec.engine.max_num_seqs // spec.sampling.n)


def completions(asked: Asked, dispenser: Any) -> ray.data.Dataset:
    """A lazy dataset of bundles of the requests' rows with their completions; engines start when
    it is consumed."""
    requests, pool = asked.requests, asked.pool
    dataset = ray.data.from_items([{"start": 0}])
    bound_queues(dataset.context, MAX_BLOCKS)
    ignore_lost_tasks(dataset.context)  # the dispenser hands out again what they asked
    interval = max(SHORTEST_INTERVAL, pool.workers / BUNDLES_PER_SECOND)
    return dataset.map_batches(
        cast(Any, _seats),  # Ray's types know no function with arguments of its own
        fn_kwargs={"dispenser": dispenser},
        batch_size=1,
        batch_format="pyarrow",
        compute=TaskPoolStrategy(size=1),
        num_cpus=0,
        label_selector=drivers_node(),
    ).map_batches(
        Asking,
        fn_constructor_kwargs={
            "model": asked.model,
            "start": asked.start,
            "requests": ray.put(requests),
            "dispenser": dispenser,
            "in_flight": asked.in_flight,
            "interval": interval,
        },
        batch_size=1,  # with GPUs Ray Data wants a number
        batch_format="pyarrow",
        compute=actor_pool(pool, dataset.context, max_tasks_in_flight_per_actor=1),
        max_task_retries=0,
        **pool.remote_args(),
    )


def _seats(batch: pa.Table, dispenser: Any) -> Iterator[pa.Table]:
    """A row whenever an actor may wait for one."""
    while not ray.get(dispenser.is_over.remote()):
        while ray.get(dispenser.wants_seat.remote()):
            yield pa.table({"seat": [0]})
        time.sleep(SEAT_SECONDS)
