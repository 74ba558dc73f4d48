"""Ray Train workers with FSDP2: rows of groups in, exported epochs and metrics.jsonl out.

A dataset row is one optimizer step's share of a rank; all ranks see the same steps. The loss is
normalised by counts over the whole step and all ranks, so packing, accumulation and the number of
ranks cannot change it; only the loss of a router's choices is of each micro-batch (`router.py`).
"""

import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
import transformers
from ray.train import CheckpointUploadMode

from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.shares import Shares
from fastdistill_ray.groups.signals import Signal
from fastdistill_ray.groups.steps import StepPlan
from fastdistill_ray.models import (
    fetch_model,
    load_tokenizer,
    reference_for_others,
    tokenizer_of,
)
from fastdistill_ray.objectives import Objective
from fastdistill_ray.prompts import (
    Prompted,
    PromptKnobs,
)
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.rounds.policies import Policies
from fastdistill_ray.run_files import CHECKPOINTS
from fastdistill_ray.storage.folders import readable_folder
from fastdistill_ray.storage.place import Place
from fastdistill_ray.training.checkpoints import (
    CheckpointWriter,
    TrainProgress,
    keep_checkpoint,
    load_checkpoint,
    load_weights,
)
from fastdistill_ray.training.export import Chat, export_student, name_base
from fastdistill_ray.training.feed import Ahead, rank_dataset, step_row
from fastdistill_ray.training.held_out import (
    held_out_rows,
    hold_out,
    is_stopped,
    mark_best,
    validate,
)
from fastdistill_ray.training.journal import StepJournal, is_as_planned
from fastdistill_ray.training.knobs import OptimizerKnobs, TrainingKnobs
from fastdistill_ray.training.learner import Learner, build_learner
from fastdistill_ray.training.own_texts import check_own_texts
from fastdistill_ray.training.sharding import compilation
from fastdistill_ray.training.step import PREPARED, prepare_rows, train_step
from fastdistill_ray.training.stopping import watch_stop
from fastdistill_ray.training.texts import read_by_both, student_text
from fastdistill_ray.training.utilisation import matrix_peak
from fastdistill_ray.training.written import OwnTexts

EPOCH, BEST = "epoch_", "best_step_"  # begin the names of exported students
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainJob:
    """What is trained and how; where it runs and writes is the caller's of `job.train`."""

    model: str
    start: str  # whose weights it begins with: `model`, or a folder of a student of that
    prompt: PromptKnobs
    teacher_prompts: Mapping[str, PromptKnobs]  # by model
    objective: Objective
    frozen: Prompted | None  # what the objective needs beside the student
    advantage: AdvantageKnobs
    optimizer: OptimizerKnobs
    training: TrainingKnobs
    plan: StepPlan
    total_steps: int  # the length of the learning rate's schedule
    export_epochs: list[int]  # from 1
    is_writer: bool = False  # whether that model wrote texts, with their log-probabilities
    rounds: Policies | None = None  # where the student itself writes what it is trained on


def run_worker(job: TrainJob, *, use_gpu: bool, out: Place) -> None:
    """One rank's whole training; UserError where only the user can mend what stops it."""
    with compilation(job.training):
        train_rank(job, use_gpu=use_gpu, out=out)


def train_rank(job: TrainJob, *, use_gpu: bool, out: Place) -> None:
    source = fetch_model(job.model)
    learner = load_learner(job, source, worker_device(use_gpu))
    progress = resume(learner, job, out)
    knobs, shares = job.training.held_out, shares_of(job)
    held_out = None
    if knobs.share:
        ranks = dist.get_rank(), dist.get_world_size()
        held_out = hold_out(learner, held_out_rows(job.plan, *ranks))
        if shares and progress.step == 0:
            before = validate(learner, held_out)["held_out/loss"]
            progress = progress._replace(own_level=before)
    journal = StepJournal(out, progress.step) if dist.get_rank() == 0 else None
    writer = CheckpointWriter(is_async=job.optimizer.kind == "adamw")
    is_saved, ended = True, time.perf_counter()
    is_there = bool(exports_in(out))
    own_texts = OwnTexts(job.rounds, may_advise=journal is not None and progress.step == 0)
    with watch_stop(out) as is_told:
        # Its tokenizers encode for one thread at a time: how they treat what looks like a control
        # token is a state of theirs.
        encoding = threading.Lock()

        def prepare(row: dict[str, Any]) -> dict[str, Any]:
            with encoding:
                return {**row, PREPARED: prepare_rows(learner, row["groups"])}

        rows = Ahead(rows_from(job.plan, progress.step), prepare)
        while not is_stopped(progress, knobs):
            if is_told(rows):
                save_and_stop(writer, learner, progress, out, journal, is_saved)
                return
            if (row := next(rows, None)) is None:
                break
            if progress.step == 0:
                with encoding:
                    check_teacher(learner, job, row)
            written = own_texts.metrics(row, ended)  # before they are trained on
            metrics = train_step(learner, row, progress.total_steps) | written
            progress = progress._replace(step=row["step"] + 1)
            if held_out and (progress.step % knobs.every == 0 or is_last(job, row)):
                metrics |= validate(learner, held_out)
                progress = risen(mark_best(progress, metrics, knobs), shares, metrics)
            if job.rounds:
                metrics["time/publish"] = publish(learner, source, job, job.rounds, progress)
            if journal:
                journal.add(row, metrics)
            is_due = progress.step % job.training.checkpoint_every == 0
            is_saved = is_due or progress.step == progress.best_step
            if journal and (is_saved or row["ends_epoch"]):
                journal.sync()
            if is_exported(job, row):
                is_there = True
                export(learner, source, epoch_folder(out, row["epoch"]))
            if is_saved:
                report_checkpoint(writer, learner, progress, out)
            ended = time.perf_counter()
    writer.wait()
    if journal:
        journal.sync()
    export_last(learner, source, progress, out, is_there=is_there)


def save_and_stop(
    writer: CheckpointWriter,
    learner: Learner,
    progress: TrainProgress,
    out: Place,
    journal: StepJournal | None,
    is_saved: bool,
) -> None:
    """The same command goes on after the last step that was done."""
    if journal:
        journal.sync()
    if not is_saved:
        report_checkpoint(writer, learner, progress, out)
    writer.wait()


def check_teacher(learner: Learner, job: TrainJob, row: dict[str, Any]) -> None:
    """UserError where a teacher beside the student does not know texts of the step it wrote."""
    folder = job.plan.rounds.mixed if job.plan.rounds else job.plan.folder
    if job.is_writer and job.frozen and learner.frozen and folder:
        check_own_texts(learner, job.frozen.model, folder, row["groups"])


def is_last(job: TrainJob, row: dict[str, Any]) -> bool:
    return row["step"] + 1 == job.plan.max_steps or (
        row["ends_epoch"] and row["epoch"] + 1 == job.plan.epochs
    )


def is_exported(job: TrainJob, row: dict[str, Any]) -> bool:
    """After the epochs that are asked for, and where max_steps ends the training before its last
    epoch does: before the step's checkpoint, from which a training that was killed goes on without
    this step."""
    if row["ends_epoch"] and row["epoch"] + 1 in (*job.export_epochs, job.plan.epochs):
        return row["epoch"] + 1 in job.export_epochs
    return row["step"] + 1 == job.plan.max_steps and bool(job.export_epochs)


def shares_of(job: TrainJob) -> Shares | None:
    return job.plan.rounds.shares if job.plan.rounds else None


def risen(
    progress: TrainProgress, shares: Shares | None, metrics: Mapping[str, float]
) -> TrainProgress:
    """After a validation, the share of groups that the student is to write of the next round."""
    if shares is None:
        return progress
    before = progress.own_share, progress.own_level
    share, level = shares.rise.after(*before, metrics["held_out/loss"])
    return progress._replace(own_share=share, own_level=level)


def publish(
    learner: Learner, source: str, job: TrainJob, rounds: Policies, progress: TrainProgress
) -> float:
    """At the end of a round, but the last, the student that writes the next, and the share of its
    groups; -> seconds."""
    start = time.perf_counter()
    if progress.step % rounds.steps == 0 and progress.step < job.total_steps:
        rounds.publish(
            progress.step // rounds.steps,
            lambda folder: export(learner, source, folder),
            is_first=dist.get_rank() == 0,
            share=progress.own_share if shares_of(job) else 1.0,
        )
    return time.perf_counter() - start


def export_last(
    learner: Learner, source: str, progress: TrainProgress, out: Place, *, is_there: bool
) -> None:
    """The best step's student where there is one; else, where none `is_there`, this one: the last
    steps of rounds had no group that could be trained on."""
    if progress.best_step:
        if progress.best_step != progress.step:  # else a bucket may not have all of it yet
            with readable_folder(step_folder(out, progress.best_step)) as folder:
                load_weights(learner.student, folder)
        export(learner, source, out / f"{BEST}{progress.best_step}")
    elif not is_there:
        export(learner, source, epoch_folder(out, 0))


def export(learner: Learner, source: str, out: Place) -> None:
    text, own = learner.text, tokenizer_of(source).chat_template
    named = own if isinstance(own, dict) else {}
    is_said = (name for name, one in named.items() if one == text.template and name != "default")
    chat = Chat(text.template, text.eos_id, next(is_said, ""))
    export_student(learner.student, source, out, chat)


def epoch_folder(out: Place, epoch: int) -> Place:
    return out / f"{EPOCH}{epoch + 1}"


def exports_in(out: Place) -> list[Place]:
    """Students that a training has written."""
    return [one for one in out.list() if one.name.startswith((EPOCH, BEST)) and one.is_dir()]


def step_folder(out: Place, step: int) -> Place:
    return out / CHECKPOINTS / f"step_{step}"


class StartsAnewError(UserError):
    """A checkpoint's steps were of other groups than the plan's."""


def forget_steps(out: Place) -> None:
    """Nothing of a training may stay that begins anew, or Ray would keep its checkpoints and drop
    new ones of their names, and its students would count as trials."""
    for folder in (out / CHECKPOINTS, *exports_in(out)):
        folder.remove_tree()


def rows_from(plan: StepPlan, step: int) -> Iterator[dict[str, Any]]:
    """This rank's rows of the steps from `step` on."""
    ranks = dist.get_rank(), dist.get_world_size()
    yield from step_rows(rank_dataset(plan, *ranks, step).iterator(), plan.signal)


def step_rows(
    shard: ray.data.DataIterator, signal: Signal | None = None
) -> Iterator[dict[str, Any]]:
    # No prefetching: iter_batches would hold step k back until k + 1 and later ones are known,
    # which while the teacher still writes they are not. The feed's own task reads ahead instead.
    for batch in shard.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
        yield step_row(cast(pa.Table, batch), signal)


def worker_device(use_gpu: bool) -> torch.device:
    """The device of this rank; on the CPU it also takes its share of the node's cores."""
    # A worker that has no GPU may still see those of its node.
    device = ray.train.torch.get_device() if use_gpu else torch.device("cpu")
    if device.type == "cpu":
        ranks_here = ray.train.get_context().get_local_world_size()
        # Pools count logical CPUs and Ray sets OMP_NUM_THREADS by them; compute takes real ones.
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks_here))
    return device


def load_learner(job: TrainJob, source: str, device: torch.device) -> Learner:
    transformers.utils.logging.disable_progress_bar()
    tokenizer = load_tokenizer(source)
    # A reference that is the student as it begins is asked with the student's own prompts.
    teacher = job.frozen if job.objective.needs.frozen == "teacher" else None
    views = job.objective.needs.views
    explained = views.system if views else ""
    text = student_text(source, tokenizer, job.prompt, job.teacher_prompts, teacher, explained)
    if teacher and job.objective.needs.across:
        text = read_by_both(text, tokenizer, teacher, job.prompt, job.teacher_prompts)
    learner = build_learner(
        folder=fetch_model(job.start),
        vocab_size=len(tokenizer),
        text=text,
        device=device,
        objective=job.objective,
        advantage=job.advantage,
        optimizer=job.optimizer,
        training=job.training,
        frozen=fetch_model(job.frozen.model) if job.frozen else "",
    )
    if job.training.lora.rank:
        name_base(learner.student, reference_for_others(job.start))
    return learner._replace(peak=matrix_peak(device)) if device.type == "cuda" else learner


def resume(learner: Learner, job: TrainJob, out: Place) -> TrainProgress:
    """State of the last checkpoint; of none, the start. StartsAnewError where groups were damaged
    and asked again, which then come later in the order of their arrival."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return TrainProgress(0, job.total_steps)
    step = int(Path(checkpoint.path).name.rpartition("_")[2])
    if not is_as_planned(out, job.plan, step):
        raise StartsAnewError(
            f"training starts anew: the {step} steps of its checkpoint were of other groups"
        )
    with checkpoint.as_directory() as folder:
        return load_checkpoint(learner.student, learner.optimizer, folder)


def report_checkpoint(
    writer: CheckpointWriter, learner: Learner, progress: TrainProgress, out: Place
) -> None:
    """Written beside the following steps, where it stays; Ray learns of it once it is whole."""
    folder = step_folder(out, progress.step)
    local = folder.local if folder.is_local else Path(tempfile.mkdtemp())
    saved = writer.start(learner.student, learner.optimizer, progress, local)

    def wait_until_saved(_: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
        saved.result()
        keep_checkpoint(local, folder)
        return ray.train.Checkpoint(folder.path, filesystem=folder.file_system)

    # Without a metric the last one is the best.
    is_best = progress.step == progress.best_step or not progress.best_step
    ray.train.report(
        {"mark": progress.step if is_best else 0},
        checkpoint=ray.train.Checkpoint.from_directory(local),
        checkpoint_dir_name=folder.name,
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        checkpoint_upload_fn=wait_until_saved,
        delete_local_checkpoint_after_upload=False,
    )
