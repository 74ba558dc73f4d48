"""A Ray Data pipeline of many small blocks that takes the driver no memory per block.

Ray Data bounds its queues by bytes. Numbers of requests weigh nothing, so all of a million would
lie in the driver at once, at some kilobytes each. It also keeps statistics of every block.
"""

import logging
import time
from dataclasses import replace
from typing import Any

from ray.data import ActorPoolStrategy, DataContext

# No public way to bound a queue by its length in the pinned Ray 2.60.
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)
from ray.data._internal.execution.interfaces.physical_operator import PhysicalOperator

from fastdistill_ray.cluster.pools import PoolKnobs

TELLS_LOST_TASKS = "ray.data._internal.execution.streaming_executor_state"
LIMIT = "fastdistill_ray.max_queued_blocks"
PAUSE_SECONDS = 0.02


class ShortQueues(BackpressurePolicy):
    """An operator whose finished blocks nobody takes is read no further: its tasks then wait.

    Ray's loop waits only while no block can be read, so a block left unread makes it spin: it took
    a core, and the lock of the interpreter, from the training beside it.
    """

    def max_task_output_bytes_to_read(self, op: PhysicalOperator) -> int | None:
        _forget_statistics(op)
        limit = self._data_context.get_config(LIMIT)
        if self._topology[op].output_queue.num_blocks < limit:
            return None
        time.sleep(PAUSE_SECONDS)
        return 0


def ignore_lost_tasks(context: DataContext) -> None:
    """Tasks whose actor dies are dropped, what they gave before stays; without limit of time.

    For operators whose tasks Ray does not try again. Ray Data tells each with a traceback.
    """
    context.max_errored_blocks = -1
    logging.getLogger(TELLS_LOST_TASKS).setLevel(logging.CRITICAL)


def actor_pool(pool: PoolKnobs, context: DataContext, **options: Any) -> ActorPoolStrategy:
    """The pool in Ray Data's words. One of several sizes grows while each of its actors has a task
    and shrinks, to its least size, once one has none."""
    if not pool.is_range:
        return ActorPoolStrategy(size=pool.workers, **options)
    context.autoscaling_config = replace(
        context.autoscaling_config,
        actor_pool_util_upscaling_threshold=1.0,
        actor_pool_util_downscaling_threshold=1 - 1 / (2 * pool.workers),
    )
    return ActorPoolStrategy(min_size=pool.least, max_size=pool.workers, **options)


def _forget_statistics(op: PhysicalOperator) -> None:
    """Drops statistics of blocks, a kilobyte each: only Dataset.stats() reads them, unused here."""
    getattr(op, "_output_blocks_stats", []).clear()


def bound_queues(context: DataContext, max_blocks: int) -> None:
    """Bounds each operator's queue; a block leaves its task at once; no progress bars but ours."""
    context.enable_progress_bars = False
    context.target_max_block_size = 1
    context.execution_no_progress_timeout_s = -1  # waiting is not failing; what stalls, we tell
    # Else each of an actor's many tasks has a thread that weighs the process every second.
    context.memory_usage_poll_interval_s = None
    context.set_config(LIMIT, max_blocks)
    context.set_config(
        ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*ENABLED_BACKPRESSURE_POLICIES, ShortQueues]
    )
