"""Nodes that come on demand: asked for, waited for with a line a minute, and not for ever."""

import logging
import time
from collections.abc import Callable

import ray
from ray.autoscaler.sdk import request_resources

from fastdistill_ray.errors import UserError
from fastdistill_ray.progress import duration
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.run.placement import NOTHING, Done, pools_at_once, shortage, wanted_by

logger = logging.getLogger(__name__)

LINE_SECONDS = 60.0


def wait_for_nodes(recipe: Recipe, done: Done = NOTHING) -> None:
    """With `pools.autoscaling`, until the pools that run first fit; UserError after
    `pools.wait_minutes`. What runs later asks for its nodes itself, while others work."""
    group = pools_at_once(recipe, done)[0]
    if not recipe.pools.autoscaling or not shortage(
        group, ray.cluster_resources(), recipe.training.overlap
    ):
        return
    bundles = [wanted for pool in group.values() for wanted in [wanted_by(pool)] * pool.least]
    labels = [pool.labels for pool in group.values() for _ in range(pool.least)]
    pairs = [(bundle, label) for bundle, label in zip(bundles, labels, strict=True) if bundle]
    request_resources(
        bundles=[bundle for bundle, _ in pairs], bundle_label_selectors=[one for _, one in pairs]
    )
    try:
        wait(
            lambda: shortage(group, ray.cluster_resources(), recipe.training.overlap),
            recipe.pools.wait_minutes,
        )
    finally:
        request_resources(bundles=[])


def wait(lacking: Callable[[], str], minutes: float, pause: float = 2.0) -> None:
    """Until nothing is lacking; says what is, at once and each minute."""
    begun = time.monotonic()
    told = -LINE_SECONDS
    while line := lacking():
        waited = time.monotonic() - begun
        if waited >= 60 * minutes:
            raise UserError(f"pools.wait_minutes: {minutes:g} minutes for nodes in vain; {line}")
        if waited - told >= LINE_SECONDS:
            told = waited
            what = line.partition("; lower")[0]
            logger.info("waiting %s for nodes, at most %g min: %s", duration(waited), minutes, what)
        time.sleep(pause)
