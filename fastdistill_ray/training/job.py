"""The driver's side of a training: a Ray Train job from a plan of steps to exported epochs."""

import contextlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray import exceptions
from ray.exceptions import ActorDiedError
from ray.train.torch import TorchConfig, TorchTrainer

from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.store import Store
from fastdistill_ray.run_files import CHECKPOINTS, STOP, StageResult
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.room import causes
from fastdistill_ray.training.knobs import TrainingKnobs
from fastdistill_ray.training.worker import (
    StartsAnewError,
    TrainJob,
    exports_in,
    forget_steps,
    run_worker,
)

logger = logging.getLogger(__name__)
MAX_HALVINGS = 3  # of micro-batches; each costs a start of the workers
CPU_ALLOCATION_FAILED = "can't allocate memory"  # in torch's RuntimeError
# Variables that Ray Train's controller and workers read; from the driver's they are handed on.
CONTROLLER_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # how often reports are taken; by default 2 s
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}


def train(job: TrainJob, pool: PoolKnobs, *, out: Place) -> StageResult:
    """Train a student on the steps of the plan; exports are `out/epoch_<n>`, n from 1.

    With a metric to choose by, the one export is `out/best_step_<n>`. Continues from the last
    checkpoint in `out` when called again; whoever notes that the stage is complete removes those.
    Rows are group visits. A rank that runs out of memory makes all go on with smaller
    micro-batches. A UserError of a worker is raised here, as itself; StoppedEarlyError where the
    file `stop` came into `out` meanwhile.
    """
    (out / STOP).unlink()
    if not (out / CHECKPOINTS).list():
        forget_steps(out)
    restarts_left, asked_for = job.training.max_failures, job.training.micro_batch_tokens
    while True:
        try:
            _fit(job, pool, out)
            break
        except ActorDiedError as error:  # the controller's; workers are restarted by it
            if not restarts_left:
                raise
            restarts_left -= 1
            logger.warning("the training's controller died and is started again: %s", error)
        except StartsAnewError as error:
            logger.warning("%s", error)
            forget_steps(out)
        except OutOfMemoryError as error:
            job = with_smaller_batches(job, asked_for, str(error))
    if (out / STOP).is_file():
        raise StoppedEarlyError
    result = _count_rows(out / "metrics.jsonl", job.total_steps)
    if not result.rows_out:
        why = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in result.set_aside.items())
        raise UserError(
            f"objective: {job.objective.kind} found nothing to train on in {result.rows_in} visits "
            f"of groups ({why}); look at training.max_seq_len, at the texts it takes (on, pairs of "
            "right and wrong ones) and at selection"
        )
    assert exports_in(out), "a training ends with a student"
    if job.plan.signals:
        result.facts.update(signal_facts(Store(job.plan.signals.folder)))
    if job.training.micro_batch_tokens < asked_for:
        result.facts["micro_batch_tokens"] = job.training.micro_batch_tokens
    return result


def with_smaller_batches(job: TrainJob, asked_for: int, reason: str) -> TrainJob:
    """UserError once they were halved MAX_HALVINGS times."""
    tokens = job.training.micro_batch_tokens
    if tokens <= asked_for >> MAX_HALVINGS or tokens == 1:
        raise UserError(
            f"training.micro_batch_tokens: a rank runs out of memory with {asked_for} and even "
            f"with {tokens} ({reason}); set activation_checkpointing, cpu_offload or lora.rank in "
            "training, lower its max_seq_len, or raise pools.student.workers"
        )
    logger.warning(
        "a rank ran out of memory; training goes on with training.micro_batch_tokens %d instead of "
        "%d, whose losses differ by rounding alone: %s",
        *(tokens // 2, tokens, reason),
    )
    training = job.training.model_copy(update={"micro_batch_tokens": tokens // 2})
    return replace(job, training=training)


class OutOfMemoryError(Exception):
    """A rank had not the memory for its step."""


class StoppedEarlyError(Exception):
    """A training ended between two steps, as it was asked to."""


def _fit(job: TrainJob, pool: PoolKnobs, out: Place) -> None:
    trainer = _trainer(job, pool, out)
    try:
        with _environment(CONTROLLER_ENVIRONMENT):
            trainer.fit()
    except ray.train.ControllerError as error:
        if isinstance(error.controller_failure, UserError | OutOfMemoryError):
            raise error.controller_failure from None
        raise


class StopAtUserError(ray.train.UserCallback):
    """Ends a training at the first UserError of a worker, or where one has too little memory.

    Ray Train restarts workers after any exception of theirs and takes no failure policy of ours;
    what a callback raises in its controller it does not retry.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if isinstance(error, UserError):
                raise error
            if is_out_of_memory(error):
                raise OutOfMemoryError((str(error).splitlines() or [""])[0][:300])


def is_out_of_memory(error: BaseException) -> bool:
    """Of a GPU, of an allocation on the CPU, or of the node, whose monitor ended the process."""
    kinds = (torch.OutOfMemoryError, exceptions.OutOfMemoryError, MemoryError)
    return any(isinstance(one, kinds) or CPU_ALLOCATION_FAILED in str(one) for one in causes(error))


@contextlib.contextmanager
def _environment(defaults: dict[str, str]) -> Iterator[None]:
    """This process's environment with these where it has none of its own, restored afterwards.

    Ray Train 2.60 has no other way: its controller is given the driver's variables.
    """
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _trainer(job: TrainJob, pool: PoolKnobs, out: Place) -> TorchTrainer:
    use_gpu = pool.gpus > 0
    resources = {"CPU": pool.cpus, "memory": pool.memory_gib * 2**30, **pool.resources}
    return TorchTrainer(
        partial(run_worker, job, use_gpu=use_gpu, out=out),
        torch_config=TorchConfig(backend=_backend(use_gpu, job.training)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=(pool.least, pool.workers) if pool.is_range else pool.workers,
            use_gpu=use_gpu,
            resources_per_worker={name: value for name, value in resources.items() if value},
            label_selector=pool.labels or None,
        ),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=out.path,
            storage_filesystem=None if out.is_local else out.file_system,
            failure_config=ray.train.FailureConfig(max_failures=job.training.max_failures),
            callbacks=[StopAtUserError()],
            # The checkpoint with the highest mark is kept, and by Ray always the latest too, which
            # resuming needs.
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute="mark"
            ),
            worker_runtime_env={"env_vars": allocator(use_gpu)},
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
        # One arena: else what one thread frees is of no use to another. Freed pages are kept and
        # serve requests of any size (by default only those of at least a 64th of theirs). Blocks
        # from 128 MiB on are given back: they are few, and no gap is long enough for them.
        "MALLOC_CONF": f"narenas:1,oversize_threshold:{128 * 2**20},dirty_decay_ms:-1,"
        "lg_extent_max_active_fit:30",
    }


def _backend(use_gpu: bool, training: TrainingKnobs) -> str:
    if not use_gpu:
        return "gloo"
    # With cpu_offload the gradients, and the all-reduce of their norm, are on the CPU.
    return "cpu:gloo,cuda:nccl" if training.cpu_offload else "nccl"


def signal_facts(store: Store) -> dict[str, float]:
    """What was read, prompts too, and is stored of the texts."""
    sums = Counter[str]()
    for commit in store.commits():
        sums["signal_tokens"] += commit.prompt_tokens + commit.num_tokens
        sums["signal_bytes"] += commit.size
    return dict(sums)


def _count_rows(metrics: Place, planned_steps: int) -> StageResult:
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    trained = sum(line["train/num_groups"] for line in lines)
    empty = sum(line["train/empty_groups"] for line in lines)
    return StageResult(
        rows_in=trained + empty,
        rows_out=trained,
        set_aside={"nothing_to_train": empty} if empty else {},
        completion_tokens=sum(line["train/trained_tokens"] for line in lines),
        facts={"steps": len(lines), "planned_steps": planned_steps},
    )
