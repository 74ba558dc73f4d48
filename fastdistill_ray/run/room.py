"""How much room a run's folder still needs, roughly, and whether its file system has it."""

import logging
from collections.abc import Mapping
from typing import NamedTuple

from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.signals import bytes_of
from fastdistill_ray.models import fetch_without_weights, load_config, model_size
from fastdistill_ray.recipe.derived import baselines, exported_epochs, speaker_of, students
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


class Room(NamedTuple):
    """Bytes that a run has yet to write."""

    weights: float  # of trained models, and of the checkpoints of one training
    texts: float  # of completions, signals and answers, if every one comes to its limit


def check_room(run: RunFolder, problems: Mapping[Split, ProblemFile]) -> float:
    """-> bytes that are still to be written, at most.

    UserError where there is less room than the weights alone need; a warning where completions
    might fill what is left.
    """
    needed = room_needed(run, problems)
    if not run.path.is_local:
        return sum(needed)
    there = free(run.path.local)
    if needed.weights > there:
        raise UserError(
            f"--run-dir {run.path}: trained models and checkpoints need about "
            f"{gib(needed.weights)}, {gib(there)} are free; make room or choose another folder, or "
            "have fewer trials (compare.learning_rates, compare.seeds, compare.epochs)"
        )
    if sum(needed) > there:
        logger.warning(
            "--run-dir %s: %s are free; models need about %s, and completions up to %s, with what "
            "is stored of them, if all of them come to max_new_tokens",
            *(run.path, gib(there), gib(needed.weights), gib(needed.texts)),
        )
    return sum(needed)


def room_needed(run: RunFolder, problems: Mapping[Split, ProblemFile]) -> Room:
    """Answers are counted as if none was there."""
    recipe = run.recipe
    written = len(problems["train"]) * recipe.sampling.most * recipe.sampling.max_new_tokens
    texts = _rest(run, run.stages.groups(problems["train"]), TOKEN_BYTES * written)
    texts += _signals(run, problems["train"], written)
    for student in students(recipe):
        for training in student.trainings if student.writer else ():
            stage = run.stages.groups_of(training, problems["train"])
            texts += _rest(run, stage, TOKEN_BYTES * written)
    weights = checkpoints = 0.0
    for student in students(recipe):
        size = model_size(fetch_without_weights(student.model))
        exports = EXPORT_BYTES * size * max(1, len(exported_epochs(recipe, student)))
        if student.rounds:  # those that write meanwhile
            exports += EXPORT_BYTES * size * (student.rounds.staleness + 2)
        for training in student.trainings:
            stage = run.stages.training(training, problems["train"])
            if not run.is_complete(stage):
                weights += _rest(run, stage, exports)
                checkpoints = max(checkpoints, 2 * checkpoint_bytes(recipe, size))
    models = len(baselines(recipe)) + sum(len(student.seeds) for student in students(recipe))
    asked = (len(problems["test"]) + len(problems["ood"])) * models * recipe.evaluation.n
    texts += TOKEN_BYTES * asked * recipe.evaluation.max_new_tokens
    return Room(weights + checkpoints, texts)


def _signals(run: RunFolder, problems: ProblemFile, written: int) -> float:
    """Of every token that may be written, those of one stage once."""
    needed = {}
    for student in students(run.recipe):
        speaker = speaker_of(run.recipe, student)
        if (signal := student.objective.needs.signal) and speaker:
            config = load_config(fetch_without_weights(speaker.prompted.model))
            size = bytes_of(signal, config.get_text_config().hidden_size) * written
            for training in student.trainings:
                stage = run.stages.signals(training, problems)
                needed[str(stage.dependencies)] = _rest(run, stage, float(size))
    return sum(needed.values())


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
