"""Whether a cluster has a place for the pools of what a run is still to do. No torch."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.derived import all_teachers, students
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.training.feed import FEED_CPUS

FEED = "the student's data feed"


class Done(NamedTuple):
    """What a run is not to do any more."""

    is_taught: bool = False  # all groups of teachers are there
    is_trained: bool = False  # and all students
    is_taught_only: bool = False  # the verb ends with the groups


NOTHING = Done()


def check_pools(recipe: Recipe, available: Mapping[str, float], done: Done = NOTHING) -> None:
    """The pools that run at once fit the cluster, each number said with the one to change."""
    if recipe.pools.autoscaling:
        return
    for group in pools_at_once(recipe, done):
        if line := shortage(group, available, recipe.training.overlap):
            raise UserError(line)


def pools_at_once(recipe: Recipe, done: Done = NOTHING) -> list[dict[str, PoolKnobs]]:
    """Pools by name, those together that run at once, in the order of the run."""
    pools = recipe.pools
    ranks = pools.student
    feed = PoolKnobs(workers=ranks.workers, min_workers=ranks.least, cpus=FEED_CPUS)
    teaching = {
        name: pools.of_teacher(place) for place, name in enumerate(all_teachers(recipe))
    } | {"judges": pools.judges}
    training = {"student": pools.student, FEED: feed}
    # By the names that the recipe gives them.
    writing = {"writer" if pools.writer else "evaluation": pools.of_writer, "judges": pools.judges}
    scoring = {"scorer" if pools.scorer else "teacher": pools.of_scorer, "judges": pools.judges}
    evaluating = {"evaluation": pools.evaluation, "judges": pools.judges}
    at_once = [] if done.is_taught else [teaching]
    if done.is_taught_only:
        return at_once
    if done.is_trained:
        return [*at_once, evaluating]
    overlapped = recipe.training.overlap and not done.is_taught
    at_once = [teaching | training] if overlapped else [*at_once, training]
    if any(student.objective.needs.signal for student in students(recipe)):
        at_once.append(scoring)
    if any(student.rounds for student in students(recipe)):
        at_once.append(training | writing)
    if any(student.writer for student in students(recipe)):
        at_once.append(writing)
    return [*at_once, evaluating]


def shortage(
    group: Mapping[str, PoolKnobs], available: Mapping[str, float], is_overlapped: bool = False
) -> str:
    """What the cluster lacks for pools that run at once, and what to change; "" where they fit."""
    custom = sorted({name for pool in group.values() for name in pool.resources})
    for field, resource, have in (
        ("cpus", "CPUs", available.get("CPU", 0.0)),
        ("gpus", "GPUs", available.get("GPU", 0.0)),
        ("memory_gib", "GiB of memory", available.get("memory", 0.0) / 2**30),
        *((f"resources.{name}", name, available.get(name, 0.0)) for name in custom),
    ):
        wanted = {name: pool.least * _amount(pool, field) for name, pool in group.items()}
        if sum(wanted.values()) > have + 1e-6:
            most = max(wanted, key=lambda name: wanted[name])
            parts = ", ".join(f"{name} {value:g}" for name, value in wanted.items() if value)
            return (
                f"pools.{most}: the pools that run at once want {sum(wanted.values()):g} "
                f"{resource} ({parts}), the cluster has {have:g}; lower pools.{most}.workers "
                f"or pools.{most}.{field}"
                + ("" if not is_overlapped else ", or set training.overlap: false")
            )
    return ""


def _amount(pool: PoolKnobs, field: str) -> float:
    section, _, name = field.partition(".")
    return pool.resources.get(name, 0.0) if name else getattr(pool, section)


def check_labels(recipe: Recipe, nodes: list[dict[str, Any]], done: Done = NOTHING) -> None:
    """Every pool that is still needed has its place: `nodes`, as Ray tells of them, with its labels
    that hold its workers, each whole."""
    if recipe.pools.autoscaling:
        return
    groups = pools_at_once(recipe, done)
    pools = {name: pool for group in groups for name, pool in group.items() if name != FEED}
    for name, pool in pools.items():
        own = [node["Resources"] for node in nodes if _has_labels(node["Labels"], pool.labels)]
        if not own:
            raise UserError(
                f"pools.{name}.labels: no node of the cluster has {pool.labels}; start one with "
                "`ray start --labels` or change them"
            )
        wanted = wanted_by(pool)
        room = sum(_times(wanted, resources) for resources in own) if wanted else pool.least
        if room < pool.least:
            where = f" with {pool.labels}" if pool.labels else ""
            raise UserError(
                f"pools.{name}: {pool.least} workers are wanted, each whole on one node, and the "
                f"nodes{where} hold {room} of {_said(wanted)}; lower pools.{name}.workers or what "
                "each of them wants"
            )


def wanted_by(pool: PoolKnobs) -> dict[str, float]:
    """What Ray is asked for each worker."""
    bundle = {"CPU": pool.cpus, "GPU": float(pool.gpus), "memory": pool.memory_gib * 2**30}
    return {name: amount for name, amount in (bundle | pool.resources).items() if amount}


def _times(wanted: Mapping[str, float], resources: Mapping[str, float]) -> int:
    """How often a node has that."""
    return min(int((resources.get(name, 0.0) + 1e-6) / one) for name, one in wanted.items())


def _said(wanted: Mapping[str, float]) -> str:
    return ", ".join(
        f"{one / 2**30:g} GiB of memory" if name == "memory" else f"{one:g} {name}"
        for name, one in wanted.items()
    )


def _has_labels(node: dict[str, str], wanted: dict[str, str]) -> bool:
    for label, selector in wanted.items():
        body = selector.removeprefix("!")
        values = body[3:-1].split(",") if body.startswith("in(") else [body]
        if (node.get(label) in [value.strip() for value in values]) == selector.startswith("!"):
            return False
    return True
