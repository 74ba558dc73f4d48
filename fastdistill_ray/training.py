"""Ray Train workers with FSDP2: rows of groups in, exported epochs and metrics.jsonl out.

A dataset row is one optimizer step's share of a rank; all ranks see the same steps. The loss is
normalised by counts over the whole step and all ranks, so packing, accumulation and the number of
ranks cannot change it.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
import transformers
from ray.train.torch import TorchConfig, TorchTrainer
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from fastdistill_ray.advantages import AdvantageKnobs
from fastdistill_ray.checkpoints import (
    TrainProgress,
    export_student,
    load_checkpoint,
    save_checkpoint,
)
from fastdistill_ray.config import OptimizerKnobs, PoolKnobs, TrainingKnobs
from fastdistill_ray.memory import ALLOCATOR
from fastdistill_ray.models import fetch_model, load_tokenizer, same_tokenizer
from fastdistill_ray.objectives import Objective
from fastdistill_ray.optimization import Learner, train_step
from fastdistill_ray.packing import StudentText
from fastdistill_ray.prompts import PromptKnobs, build_messages, render
from fastdistill_ray.run_dir import StageResult, write_text
from fastdistill_ray.student import (
    Student,
    check_packed_attention,
    load_student,
    probe_group,
)

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class TrainJob:
    """All a worker needs beside its rows."""

    model: str
    prompt: PromptKnobs
    objective: Objective
    advantage: AdvantageKnobs
    optimizer: OptimizerKnobs
    training: TrainingKnobs
    total_steps: int
    export_epochs: list[int]
    out: Path


def train(
    *,
    model: str,
    prompt: PromptKnobs,
    objective: Objective,
    advantage: AdvantageKnobs,
    optimizer: OptimizerKnobs,
    training: TrainingKnobs,
    total_steps: int,
    export_epochs: list[int],
    data_config: ray.train.DataConfig,
    student_pool: PoolKnobs,
    out: Path,
) -> StageResult:
    """Train a student on the rows `data_config` deals; exports are `out/epoch_<n>`, n from 1.

    Continues from the last checkpoint in `out` when called again. Rows are group visits.
    """
    job = TrainJob(
        model,
        prompt,
        objective,
        advantage,
        optimizer,
        training,
        total_steps,
        export_epochs,
        out.absolute(),
    )
    # The controller handles a report when it polls, every 2 s by default.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    use_gpu = student_pool.gpus > 0
    resources = {"CPU": student_pool.cpus, "memory": student_pool.memory_gib * 2**30}
    resources |= student_pool.resources
    result = TorchTrainer(
        partial(run_worker, job),
        # The config makes the datasets itself, anew at every restart.
        datasets={"train": _no_dataset},
        dataset_config=data_config,
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=student_pool.workers,
            use_gpu=use_gpu,
            resources_per_worker={name: value for name, value in resources.items() if value},
            label_selector=student_pool.labels or None,
        ),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=str(job.out),
            failure_config=ray.train.FailureConfig(max_failures=training.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            worker_runtime_env={} if use_gpu else {"env_vars": ALLOCATOR},
        ),
    ).fit()
    if result.return_value:
        raise ValueError(result.return_value)
    shutil.rmtree(job.out / CHECKPOINTS, ignore_errors=True)  # a finished training needs none
    return _count_rows(job.out / "metrics.jsonl", total_steps)


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


def run_worker(job: TrainJob) -> str:
    """One rank's whole training -> why it stopped for good, "" when it finished.

    Such reasons are the same on all ranks and are returned: Ray would retry an exception.
    """
    source = fetch_model(job.model)
    learner = build_learner(job, source)
    progress = resume(learner, job)
    try:
        check_student(learner.student, job.training)
    except ValueError as error:
        return str(error)
    row = None
    for row in step_rows():
        if row["step"] < progress.step:
            continue
        try:
            metrics = train_step(learner, row, progress.total_steps)
        except FloatingPointError as error:
            return str(error)
        progress = progress._replace(step=row["step"] + 1)
        record_step(job.out, row, metrics)
        if row["ends_epoch"] and row["epoch"] + 1 in job.export_epochs:
            export_student(learner.student, source, epoch_folder(job.out, row["epoch"]))
        if progress.step % job.training.checkpoint_every == 0:
            report_checkpoint(learner, progress)
    if row and not row["ends_epoch"]:  # max_steps ended it inside an epoch
        export_student(learner.student, source, epoch_folder(job.out, row["epoch"]))
    return ""


def epoch_folder(out: Path, epoch: int) -> Path:
    return out / f"epoch_{epoch + 1}"


def step_rows() -> Iterator[dict[str, Any]]:
    shard = ray.train.get_dataset_shard("train")
    for batch in shard.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=2):
        yield from batch.to_pylist()


def build_learner(job: TrainJob, source: str) -> Learner:
    device = ray.train.torch.get_device() if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cpu":
        ranks_here = ray.train.get_context().get_local_world_size()
        # Pools count logical CPUs and Ray sets OMP_NUM_THREADS by them; compute takes real ones.
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks_here))
    torch.manual_seed(job.training.seed)  # the same adapter on every rank
    transformers.utils.logging.disable_progress_bar()
    tokenizer = load_tokenizer(source)
    student = load_student(
        source,
        vocab_size=len(tokenizer),
        device=device,
        shared_prompt=job.training.shared_prompt,
        lora=job.training.lora,
    )
    shard_student(student, job.training, device)
    optimizer = build_optimizer(student, job.optimizer)
    text = student_text(student, tokenizer, job.prompt)
    return Learner(
        student,
        optimizer,
        text,
        device,
        job.objective,
        job.advantage,
        job.optimizer,
        job.training,
    )


def check_student(student: Student, training: TrainingKnobs) -> None:
    """ValueError when packed groups would not be computed as the model's own rows are."""
    if training.shared_prompt:
        check_packed_attention(
            student, probe_group(student.vocab_size), precision=training.precision
        )


def shard_student(student: Student, training: TrainingKnobs, device: torch.device) -> None:
    """FSDP2 per decoder block, then the rest; weights and reductions stay float32."""
    if training.activation_checkpointing:
        student.model.gradient_checkpointing_enable({"use_reentrant": False})
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    is_bf16 = training.precision == "bf16"
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if is_bf16 else None, reduce_dtype=torch.float32
    )
    shard = partial(
        fully_shard, mesh=mesh, mp_policy=policy, reshard_after_forward=dist.get_world_size() > 1
    )
    blocks = set(student.model._no_split_modules)
    for module in student.modules():
        if type(module).__name__ in blocks:
            shard(module)
    shard(student)
    register_fsdp_forward_method(student, "reference_logprob")


def build_optimizer(student: Student, knobs: OptimizerKnobs) -> torch.optim.Optimizer:
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if parameter.ndim >= 2]
    others = [parameter for parameter in trained if parameter.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": knobs.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=knobs.learning_rate,
        betas=(knobs.beta1, knobs.beta2),
        eps=knobs.eps,
        fused=True,
    )


def student_text(student: Student, tokenizer: Any, prompt: PromptKnobs) -> StudentText:
    """The student's prompt for a group row, and whether a teacher's token ids are its own."""
    generation = student.model.generation_config.eos_token_id
    eos_ids = generation if isinstance(generation, list) else [generation]

    @cache
    def has_ids_of(teacher: str) -> bool:
        return same_tokenizer(tokenizer, load_tokenizer(fetch_model(teacher)))

    return StudentText(
        encode_prompt=lambda row: render(
            build_messages(row["question"], prompt, row["options"]), tokenizer
        ),
        encode_text=lambda text: tokenizer.encode(text, add_special_tokens=False),
        has_ids_of=has_ids_of,
        eos_id=tokenizer.eos_token_id,
        eos_ids=frozenset([tokenizer.eos_token_id, *eos_ids]),
    )


def resume(learner: Learner, job: TrainJob) -> TrainProgress:
    """State of the last checkpoint, if any; the records of later steps are cut off."""
    progress = TrainProgress(0, job.total_steps)
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            progress = load_checkpoint(learner.student, learner.optimizer, folder)
    if dist.get_rank() == 0:
        _keep_lines(job.out / "metrics.jsonl", progress.step)
        _keep_lines(job.out / "steps.jsonl", progress.step - 1)
    return progress


def _keep_lines(file: Path, last_step: int) -> None:
    lines = file.read_text(encoding="utf-8").splitlines(True) if file.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    write_text(file, "".join(line for line in whole if json.loads(line)["step"] <= last_step))


def record_step(out: Path, row: dict[str, Any], metrics: dict[str, float]) -> None:
    """metrics.jsonl counts steps done, steps.jsonl names the step's groups by its row number."""
    if dist.get_rank() > 0:
        return
    line = {"step": row["step"] + 1, "epoch": row["epoch"], **metrics}
    journal = {name: row[name] for name in ("step", "epoch", "group_ids")} | {"time": time.time()}
    for name, record in (("metrics.jsonl", line), ("steps.jsonl", journal)):
        with open(out / name, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def report_checkpoint(learner: Learner, progress: TrainProgress) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(learner.student, learner.optimizer, progress, folder)
        checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report({"step": progress.step}, checkpoint=checkpoint)
