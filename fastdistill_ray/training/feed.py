"""Committed groups -> one Ray Dataset per training rank, one row per optimizer step.

Ray's own splitting deals rows to ranks as blocks arrive. Here every rank derives its share of each
step from the store's log, so that a restart, a second run or another rank sees the same steps. A
rank makes its own dataset, once it knows at which step it goes on: nothing before that is read.
"""

from collections.abc import Iterator

import pyarrow as pa
import ray.data

from fastdistill_ray.cluster.queues import bound_queues
from fastdistill_ray.groups.steps import StepPlan, rank_rows
from fastdistill_ray.records import STEP_SCHEMA

FEED_CPUS = 0.1  # of the task that reads a rank's groups
STEPS_AHEAD = 8  # read before a rank asks for them


class FollowSteps:
    """Ray Data UDF: a row naming a rank -> the rows of its steps from `first` on, as they become
    known."""

    def __init__(self, plan: StepPlan, world_size: int, first: int) -> None:
        self.plan = plan
        self.world_size = world_size
        self.first = first

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for rank in batch["rank"].to_pylist():
            for row in rank_rows(self.plan, rank, self.world_size, self.first):
                yield pa.Table.from_pylist([row], schema=STEP_SCHEMA)


def rank_dataset(plan: StepPlan, rank: int, world_size: int, first: int) -> ray.data.Dataset:
    """The lazy dataset of one rank from step `first` on; it reads a few steps ahead."""
    steps = FollowSteps(plan, world_size, first)
    dataset = ray.data.from_items([{"rank": rank}]).map_batches(
        steps.__call__, batch_format="pyarrow", num_cpus=FEED_CPUS
    )
    bound_queues(dataset.context, max_blocks=STEPS_AHEAD)
    return dataset
