"""What a training did, step by step: metrics.jsonl and steps.jsonl, written by rank 0."""

import json
import time
from itertools import islice, zip_longest
from typing import Any

from fastdistill_ray.groups.steps import StepPlan, steps
from fastdistill_ray.run_files import METRICS, STEPS
from fastdistill_ray.storage.place import Journal, Place

SECONDS_BETWEEN_PUTS = 5.0  # in a bucket, where the driver sees steps only once they are put


class StepJournal:
    """metrics.jsonl counts steps done, steps.jsonl names the groups of a step by its row number."""

    def __init__(self, out: Place, step: int) -> None:
        """Goes on after `step` steps: the records of later ones are cut off."""
        _keep_lines(out / METRICS, step)
        _keep_lines(out / STEPS, step - 1)
        self.metrics, self.steps = Journal(out / METRICS), Journal(out / STEPS)
        self.is_remote = not out.is_local
        self.synced = time.monotonic()

    def add(self, row: dict[str, Any], metrics: dict[str, float]) -> None:
        line = {"step": row["step"] + 1, "epoch": row["epoch"], **metrics}
        groups = {name: row[name] for name in ("step", "epoch", "group_ids")}
        self.metrics.append(json.dumps(line))
        self.steps.append(json.dumps({**groups, "time": time.time()}))
        if self.is_remote and time.monotonic() - self.synced > SECONDS_BETWEEN_PUTS:
            self.sync()

    def sync(self) -> None:
        """Durable: before a checkpoint that counts these steps as done."""
        self.metrics.sync()
        self.steps.sync()
        self.synced = time.monotonic()


def is_as_planned(out: Place, plan: StepPlan, num_steps: int) -> bool:
    """Whether the first steps that were done are of the groups that the plan says now."""
    done = (json.loads(line)["group_ids"] for line in (out / STEPS).read_text().splitlines())
    planned = ([one.key for one in step.all_locations] for step in steps(plan))
    return all(
        first == second
        for first, second in zip_longest(islice(done, num_steps), islice(planned, num_steps))
    )


def _keep_lines(file: Place, last_step: int) -> None:
    text = file.read_text() if file.is_file() else ""
    whole = text[: text.rfind("\n") + 1].splitlines(True)
    file.put("".join(line for line in whole if json.loads(line)["step"] <= last_step))
