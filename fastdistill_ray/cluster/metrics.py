"""What a run does now, as metrics of Ray: Prometheus finds them on each node, Ray's dashboard shows
them. Their names are `ray_fastdistill_<name>`, their tags `stage` and `job`."""

from collections.abc import Mapping
from functools import cache

import ray
from ray.util.metrics import Gauge

METRICS = {
    "rows": "Groups or answers of the stage that are committed; steps of a training.",
    "rows_planned": "Those that there are to be.",
    "tokens": "Completion tokens committed, or trained, since the driver started.",
    "kept_share": "Share of the committed groups that selection keeps.",
    "cost": "Money spent on the groups of the store, by prices of endpoints and pools.",
    "requests_in_flight": "Requests that engines are asked now.",
    "engines": "Engines that are ready.",
    "engine_deaths": "Engines that died.",
    "requests_failed": "Requests that failed, each time, and were asked again or set aside.",
    "requests_set_aside": "Requests that are asked no more.",
    "loss": "Loss of the last training step.",
    "grad_norm": "Norm of the last step's gradient before it was clipped.",
    "tokens_per_second": "Trained tokens a second in the last step.",
    "held_out_loss": "Loss on held-out groups when last validated.",
}


def show(stage: str, values: Mapping[str, float]) -> None:
    """Each value under its name in METRICS; without Ray, as in a report, nothing."""
    if not ray.is_initialized():
        return
    tags = {"stage": stage, "job": ray.get_runtime_context().get_job_id()}
    for name, value in values.items():
        _gauge(name).set(value, tags)


@cache
def _gauge(name: str) -> Gauge:
    return Gauge(f"fastdistill_{name}", METRICS[name], ("stage", "job"))
