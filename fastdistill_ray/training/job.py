"""The driver's side of a training: a Ray Train job from a plan of steps to exported epochs."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import ray.train
import ray.train.torch
from ray.train.torch import TorchConfig, TorchTrainer

from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.steps import StepPlan
from fastdistill_ray.objectives import Objective
from fastdistill_ray.prompts import PromptKnobs
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.run_files import StageResult
from fastdistill_ray.training.feed import RankStreams
from fastdistill_ray.training.knobs import OptimizerKnobs, TrainingKnobs
from fastdistill_ray.training.worker import CHECKPOINTS, TrainJob, run_worker


def train(
    *,
    model: str,
    prompt: PromptKnobs,
    objective: Objective,
    advantage: AdvantageKnobs,
    optimizer: OptimizerKnobs,
    training: TrainingKnobs,
    plan: StepPlan,
    total_steps: int,
    export_epochs: list[int],
    student_pool: PoolKnobs,
    out: Path,
) -> StageResult:
    """Train a student on the steps of the plan; exports are `out/epoch_<n>`, n from 1.

    With a metric to choose by, the one export is `out/best_step_<n>`. Continues from the last
    checkpoint in `out` when called again. Rows are group visits.
    """
    job = TrainJob(
        model,
        prompt,
        objective,
        advantage,
        optimizer,
        training,
        plan,
        total_steps,
        export_epochs,
        student_pool.gpus > 0,
        out.absolute(),
    )
    result = _trainer(job, student_pool).fit()
    if result.return_value:
        raise UserError(result.return_value)
    shutil.rmtree(job.out / CHECKPOINTS, ignore_errors=True)  # a finished training needs none
    return _count_rows(job.out / "metrics.jsonl", total_steps)


def _trainer(job: TrainJob, student_pool: PoolKnobs) -> TorchTrainer:
    # The controller handles a report when it polls, every 2 s by default.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    resources = {"CPU": student_pool.cpus, "memory": student_pool.memory_gib * 2**30}
    resources |= student_pool.resources
    return TorchTrainer(
        partial(run_worker, job),
        # The config makes the datasets itself, anew at every restart.
        datasets={"train": _no_dataset},
        dataset_config=RankStreams(job.plan),
        torch_config=TorchConfig(backend=_backend(job.use_gpu, job.training)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=student_pool.workers,
            use_gpu=job.use_gpu,
            resources_per_worker={name: value for name, value in resources.items() if value},
            label_selector=student_pool.labels or None,
        ),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=str(job.out),
            failure_config=ray.train.FailureConfig(max_failures=job.training.max_failures),
            # Beside the one with the highest mark, Ray keeps the last.
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute="mark"
            ),
            worker_runtime_env={"env_vars": allocator(job.use_gpu)},
        ),
    )


def allocator(use_gpu: bool) -> dict[str, str]:
    """Environment of a process that trains, for memory to be used again.

    On GPUs rows of ever new lengths otherwise leave gaps. On the CPU jemalloc, which Ray's wheel
    brings: glibc's allocator gives large blocks back at every free, and faulting their pages in
    again takes a fifth of a step's CPU time; told to keep them it scatters them over 0.7 GiB more.
    """
    if use_gpu:
        return {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    return {
        "LD_PRELOAD": str(Path(ray.__file__).parent / "core/libjemalloc.so"),
        # One arena, or what one thread frees is of no use to another; freed pages are kept and
        # serve requests of any size (by default only of at least a 64th of theirs), but for those
        # of the few blocks from 128 MiB on, for which no gap is long enough.
        "MALLOC_CONF": f"narenas:1,oversize_threshold:{128 * 2**20},dirty_decay_ms:-1,"
        "lg_extent_max_active_fit:30",
    }


def _backend(use_gpu: bool, training: TrainingKnobs) -> str:
    if not use_gpu:
        return "gloo"
    # Norms of offloaded gradients are summed where these are.
    return "cpu:gloo,cuda:nccl" if training.cpu_offload else "nccl"


def _no_dataset() -> None:
    return None


def _count_rows(metrics: Path, planned_steps: int) -> StageResult:
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    trained = sum(line["train/num_groups"] for line in lines)
    empty = sum(line["train/empty_groups"] for line in lines)
    return StageResult(
        rows_in=trained + empty,
        rows_out=trained,
        set_aside={"nothing_to_train": empty} if empty else {},
        completion_tokens=sum(line["train/trained_tokens"] for line in lines),
        facts={"steps": len(lines), "planned_steps": planned_steps},
    )
