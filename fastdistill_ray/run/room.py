"""How much room a run's folder still needs, roughly, and whether its file system has it."""

import logging
from collections.abc import Mapping

from fastdistill_ray.errors import UserError
from fastdistill_ray.models import fetch_model, model_size
from fastdistill_ray.recipe.derived import baselines, exported_epochs, students
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.records import Split
from fastdistill_ray.run.folder import RunFolder
from fastdistill_ray.run.graph import Stage, find
from fastdistill_ray.storage.room import free, gib
from fastdistill_ray.tasks.problem_file import ProblemFile
from fastdistill_ray.training.memory import MOMENTS

logger = logging.getLogger(__name__)
TOKEN_BYTES = 6  # of a completion's token in a store: its id, its text and its share of columns
EXPORT_BYTES = 2  # of a parameter, in bf16
WEIGHT_BYTES = 4  # of a parameter in a checkpoint, beside its moments


def check_room(run: RunFolder, problems: Mapping[Split, ProblemFile]) -> float:
    """-> bytes that are still to be written, at most; UserError where there is less room."""
    needed = room_needed(run, problems)
    if not run.path.is_local:
        return needed
    there = free(run.path.local)
    logger.info("--run-dir %s: needs about %s, %s are free", run.path, gib(needed), gib(there))
    if needed > there:
        raise UserError(
            f"--run-dir {run.path}: the run needs about {gib(needed)}, {gib(there)} are free; make "
            "room or choose another, or lower training.epochs, compare.* or sampling.max_new_tokens"
        )
    return needed


def room_needed(run: RunFolder, problems: Mapping[Split, ProblemFile]) -> float:
    """Bytes yet to be written, every completion at its limit, and answers as if none was there."""
    recipe = run.recipe
    written = len(problems["train"]) * recipe.sampling.most * recipe.sampling.max_new_tokens
    needed = _rest(run, run.stages.groups(problems["train"]), TOKEN_BYTES * written)
    checkpoints = 0.0
    for student in students(recipe):
        size = model_size(fetch_model(student.model))
        exports = EXPORT_BYTES * size * max(1, len(exported_epochs(recipe)))
        for rate in student.learning_rates:
            stage = run.stages.training(student, rate, problems["train"])
            if not run.is_complete(stage):
                needed += _rest(run, stage, exports)
                checkpoints = max(checkpoints, 2 * checkpoint_bytes(recipe, size))
    models = len(baselines(recipe)) + len(students(recipe))
    asked = (len(problems["test"]) + len(problems["ood"])) * models * recipe.evaluation.n
    needed += TOKEN_BYTES * asked * recipe.evaluation.max_new_tokens
    return needed + checkpoints


def checkpoint_bytes(recipe: Recipe, size: int) -> float:
    """Of one; an adapter's frozen base is not in it. Two are there while one takes the place of
    the other."""
    if recipe.training.lora.rank:
        return 0.0
    return (WEIGHT_BYTES + MOMENTS[recipe.optimizer.kind]) * size


def _rest(run: RunFolder, stage: Stage, needed: float) -> float:
    found = find(run.path, stage)
    if found is None:
        return needed
    if found.is_complete:
        return 0.0
    return max(0.0, needed - sum(file.size() for file in found.folder.walk()))
