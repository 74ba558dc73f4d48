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

MAX_QUEUED_BLOCKS = 2048  # of one operator; more than all engine tasks at once


class ShortQueues(BackpressurePolicy):
    """An operator whose finished blocks nobody takes is read no further: its tasks then wait."""

    def max_task_output_bytes_to_read(self, op: PhysicalOperator) -> int | None:
        queued = self._topology[op].output_queue.num_blocks
        return 0 if queued > MAX_QUEUED_BLOCKS else None


def bound_queues(context: DataContext) -> None:
    """Also: a block leaves its task at once, and no progress bars but ours."""
    context.enable_progress_bars = False
    context.target_max_block_size = 1
    context.set_config(
        ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*ENABLED_BACKPRESSURE_POLICIES, ShortQueues]
    )
