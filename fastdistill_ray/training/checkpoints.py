"""Distributed save and load of a training, and export to a folder that transformers and vLLM load.

Every function here is called by all ranks at once.
"""

import math
import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save

from fastdistill_ray.storage.folders import copy
from fastdistill_ray.storage.place import Place, sync_tree
from fastdistill_ray.training.student import Student

# An adapter's frozen base comes from the model's own folder again.
PARTIAL = StateDictOptions(ignore_frozen_params=True, strict=False)


class TrainProgress(NamedTuple):
    """What a training has done, and the length of its schedule as fixed when it first started."""

    step: int
    total_steps: int
    best_step: int = 0  # the best validation so far; 0: none yet
    best_score: float = -math.inf
    num_worse: int = 0  # validations since
    own_share: float = 0.0  # of the groups that the student writes, where it depends on these
    own_level: float = math.inf  # the loss from which that share may rise


class CheckpointWriter:
    """Writes a copy of the state while training goes on; one checkpoint at a time."""

    def __init__(self, is_async: bool = True) -> None:
        """Not async: training waits, as torch cannot copy the state of torchao's optimizers."""
        self.is_async = is_async
        # Collectives of a save run in a thread: in a group of their own they cannot mix with ours.
        self.group = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
        self.pending: Future[Any] | None = None

    def start(
        self,
        student: Student,
        optimizer: torch.optim.Optimizer,
        progress: TrainProgress,
        folder: str | Path,
    ) -> Future[Any]:
        """Copies the state and returns; ranks name one folder on a shared mount, or each its
        own."""
        self.wait()
        model_state, optimizer_state = get_state_dict(student, optimizer, options=PARTIAL)
        state = {"model": model_state, "optimizer": optimizer_state, "progress": progress._asdict()}
        if self.is_async:
            saving = async_save(state, checkpoint_id=folder, process_group=self.group)
            self.pending = cast(Future[Any], saving)  # the other kind has an argument of its own
        else:
            self.pending = Future()
            self.pending.set_result(save(state, checkpoint_id=folder, process_group=self.group))
        return self.pending

    def wait(self) -> None:
        """Blocks until the last checkpoint is whole."""
        if self.pending:
            self.pending.result()


def keep_checkpoint(written: Path, place: Place) -> None:
    """What this rank wrote is durable at `place`, which on a disk is where it was written."""
    if place.is_local:
        sync_tree(written)
        return
    for file in Place(written).walk():
        copy(file, place / file.name)
    shutil.rmtree(written)


def load_checkpoint(
    student: Student, optimizer: torch.optim.Optimizer, folder: str
) -> TrainProgress:
    """Fills the student and the optimizer in place; any number of ranks may have saved it."""
    model_state, optimizer_state = get_state_dict(student, optimizer, options=PARTIAL)
    known = FileSystemReader(folder).read_metadata().state_dict_metadata
    progress = {
        name: value
        for name, value in TrainProgress(0, 0)._asdict().items()
        if f"progress.{name}" in known  # a field that came since counts as its default
    }
    if lost := [name for name in model_state if f"model.{name}" not in known]:
        raise ValueError(f"checkpoint {folder}: it has no {lost[0]}")
    state = {"model": model_state, "optimizer": optimizer_state, "progress": progress}
    # A parameter without a gradient, such as those of vision beside text, has no moments there.
    load(state, checkpoint_id=folder, planner=DefaultLoadPlanner(allow_partial_load=True))
    set_state_dict(
        student,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=PARTIAL,
    )
    return TrainProgress(**state["progress"])


def load_weights(student: Student, folder: str | Path) -> None:
    """The student of a checkpoint; the optimizer stays."""
    state = {"model": get_model_state_dict(student, options=PARTIAL)}
    load(state, checkpoint_id=folder)
    set_model_state_dict(student, state["model"], options=PARTIAL)
