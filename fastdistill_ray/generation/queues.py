"""Back-pressure between the operators of a Ray Data pipeline whose blocks are small.

Ray Data bounds its queues by bytes. Numbers of requests weigh nothing, so all of a million would
lie in the driver at once, at some kilobytes each.
"""

from ray.data import DataContext

# No public way to bound a queue by its length in the pinned Ray 2.60.
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)
from ray.data._internal.execution.interfaces.physical_operator import PhysicalOperator

LIMIT = "fastdistill_ray.max_queued_blocks"


class ShortQueues(BackpressurePolicy):
    """An operator whose finished blocks nobody takes is read no further: its tasks then wait."""

    def max_task_output_bytes_to_read(self, op: PhysicalOperator) -> int | None:
        limit = self._data_context.get_config(LIMIT)
        return 0 if self._topology[op].output_queue.num_blocks >= limit else None


def bound_queues(context: DataContext, max_blocks: int) -> None:
    """Of each operator; also: a block leaves its task at once, and no progress bars but ours."""
    context.enable_progress_bars = False
    context.target_max_block_size = 1
    context.set_config(LIMIT, max_blocks)
    context.set_config(
        ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*ENABLED_BACKPRESSURE_POLICIES, ShortQueues]
    )
