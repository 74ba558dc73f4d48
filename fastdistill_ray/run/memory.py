"""Whether students and engines fit where they are to run, found out before anything expensive
starts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import ray
import torch
from ray.exceptions import GetTimeoutError

from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.knobs import EngineKnobs
from fastdistill_ray.models import fetch_without_weights, is_here, model_size
from fastdistill_ray.recipe.derived import (
    all_teachers,
    baselines,
    students,
    trained_models,
    writers,
)
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.run.placement import NOTHING, Done
from fastdistill_ray.storage.room import GIB, gib
from fastdistill_ray.storage.weights import loaded_bytes
from fastdistill_ray.training.memory import MemoryEstimate, advice, estimate_memory

NO_MEMORY = MemoryEstimate(*[0] * len(MemoryEstimate._fields))
GPU_SECONDS = 300.0  # for a free one
HELD_OTHERWISE = {"quantization", "cpu_offload_gb", "hf_overrides"}  # of vLLM's arguments


class Loaded(NamedTuple):
    """A model that an engine of a pool is to hold."""

    field: str
    model: str
    engine: EngineKnobs
    section: str  # of the engine
    pool_name: str
    pool: PoolKnobs


def memory_plans(
    recipe: Recipe, folder_of: Callable[[str], str | None]
) -> dict[str, MemoryEstimate | None]:
    """By the model of each student what its training takes at most; None where `folder_of` gives no
    folder of it or of what stands beside it."""
    pool = recipe.pools.student
    plans: dict[str, MemoryEstimate | None] = {}
    for model, frozen, needs in trained_models(recipe):
        folder, beside = folder_of(model), folder_of(frozen) if frozen else ""
        if folder is None or beside is None:
            plans[model] = None
        elif (most := plans.get(model, NO_MEMORY)) is not None:
            plan = estimate_memory(
                folder,
                recipe.training,
                recipe.optimizer,
                workers=pool.least,  # whose shares are the largest
                device="cuda" if pool.gpus else "cpu",
                frozen=beside,
                needs=needs,
            )
            plans[model] = max(most, plan, key=lambda one: one.total)
    return plans


def check_memory(recipe: Recipe, done: Done) -> dict[str, MemoryEstimate]:
    """Every student's training fits its ranks, where one is yet to be trained; -> what each would
    take, by its model."""
    pool = recipe.pools.student
    device = "cuda" if pool.gpus else "cpu"
    found = memory_plans(recipe, fetch_without_weights)
    plans = {model: plan for model, plan in found.items() if plan}
    is_unknown = recipe.pools.autoscaling or done.is_trained or done.is_taught_only
    available = None if is_unknown else memory_of("pools.student", pool)
    for model, plan in plans.items():
        if available is not None and plan.total > available:
            raise UserError(
                f"pools.student: training {model} needs about {plan.describe()}, a rank has "
                f"{available / GIB:.1f}; {advice(plan, available, device)}"
            )
    return plans


def check_engines(recipe: Recipe, done: Done) -> None:
    """The weights of every teacher and of every model that is evaluated fit their engine, where
    something is left for it to do."""
    if recipe.pools.autoscaling:
        return
    memory: dict[str, float] = {}
    for one in loaded(recipe, done):
        if one.pool_name not in memory:
            memory[one.pool_name] = memory_of(one.pool_name, one.pool)
        check_engine(one, memory[one.pool_name])


def check_engine(one: Loaded, memory: float) -> None:
    """`memory`: bytes of one of the pool's GPUs, or of a worker without any. An engine that is told
    to hold its weights in another way is not held to it."""
    engine = one.engine
    if HELD_OTHERWISE & set(engine.extra):
        return
    folder = fetch_without_weights(one.model)
    if is_here(one.model):
        weights = loaded_bytes(Path(folder), engine.dtype)
    else:
        weights = model_size(folder) * (4 if engine.dtype == "float32" else 2)
    if one.pool.gpus:
        room = memory * engine.num_devices * engine.gpu_memory_utilization
        where = f"{engine.num_devices} x {gib(memory)} of GPU memory"
        mend = f"raise {one.section}.tensor_parallel_size and {one.pool_name}.gpus"
    else:
        room = memory - engine.cpu_kv_cache_gib * GIB
        where = f"{gib(memory)} of memory, {engine.cpu_kv_cache_gib} of it for the cache"
        mend = f"lower {one.pool_name}.workers, or give it nodes with more memory"
    if weights > room:
        raise UserError(
            f"{one.pool_name}: the weights of {one.field} {one.model} are {gib(weights)}, "
            f"an engine has {where}; {mend}"
        )


def loaded(recipe: Recipe, done: Done = NOTHING) -> Iterator[Loaded]:
    pools = recipe.pools
    teachers = {} if done.is_taught else all_teachers(recipe)
    for place, (name, teacher) in enumerate(teachers.items()):
        pool = f"pools.teachers.{place - 1}" if place and pools.teachers else "pools.teacher"
        if isinstance(teacher.engine, EngineKnobs) and teacher.engine.kind != "scripted":
            yield Loaded(
                *(f"{name}.model", teacher.model, teacher.engine, f"{name}.engine", pool),
                pools.of_teacher(place),
            )
    if done.is_taught_only:
        return
    if (one := recipe.scorer) and one.engine.kind != "scripted" and not done.is_trained:
        pool = "pools.scorer" if pools.scorer else "pools.teacher"
        yield Loaded("scorer.model", one.model, one.engine, "scorer.engine", pool, pools.of_scorer)
    engine = recipe.evaluation.engine
    evaluated = {
        model.weights: f"compare.baselines {model.name}"
        for model in baselines(recipe)
        if not model.endpoint
    }
    evaluated |= {student.model: student.model_field for student in students(recipe)}
    if engine.kind != "scripted":
        for model, field in evaluated.items():
            yield Loaded(
                *(field, model, engine, "evaluation.engine", "pools.evaluation"), pools.evaluation
            )
        if pools.writer and not done.is_trained:
            for student in writers(recipe):
                yield Loaded(
                    *(student.model_field, student.model, engine, "evaluation.engine"),
                    *("pools.writer", pools.writer),
                )


def memory_of(name: str, pool: PoolKnobs) -> float:
    """Bytes a worker can use: of one of its GPUs, as reserved, or its share of the largest node."""
    if pool.gpus:
        asked = ray.remote(_gpu_memory).options(**pool.remote_args()).remote()
        try:
            return ray.get(asked, timeout=GPU_SECONDS)
        except GetTimeoutError as error:
            ray.cancel(asked)
            raise UserError(
                f"{name}: no worker with {pool.gpus:g} GPUs could be started in {GPU_SECONDS:g} s; "
                "other jobs may hold them: start it again once they are free"
            ) from error
    if pool.memory_gib:
        return pool.memory_gib * GIB
    nodes = [node["Resources"].get("memory", 0.0) for node in ray.nodes() if node["Alive"]]
    return max(nodes) / -(-pool.workers // len(nodes))


def _gpu_memory() -> float:
    return float(torch.cuda.get_device_properties(0).total_memory)
