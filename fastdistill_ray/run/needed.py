"""What a verb goes on from and does not make itself: groups to train on, trainings to evaluate.

No Ray, no torch: asked before a cluster is.
"""

from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.derived import reads_groups, students
from fastdistill_ray.run.folder import RunFolder
from fastdistill_ray.run.graph import Stage, nearest
from fastdistill_ray.run.stages import training_problems
from fastdistill_ray.tasks.problem_file import ProblemFile


def check_groups(run: RunFolder) -> None:
    """UserError unless the groups of this recipe are complete."""
    problems = training_problems(run.path, run.recipe)
    if problems is None:
        raise _missing(run, None, "it holds no groups of this recipe", "generate")
    if not reads_groups(run.recipe):
        return
    groups = run.stages.groups(problems)
    if not run.is_complete(groups):
        raise _missing(run, groups, "the groups of this recipe are not complete", "generate")


def check_trainings(run: RunFolder) -> None:
    """UserError unless every training of this recipe is complete."""
    problems = training_problems(run.path, run.recipe)
    if problems is None:
        raise _missing(run, None, "it holds no student of this recipe", "train")
    if missing := untrained(run, problems):
        raise _missing(run, missing[0], f"{missing[0].name} is not complete", "train")


NEEDED = {"train": check_groups, "evaluate": check_trainings}  # by verb


def untrained(run: RunFolder, problems: ProblemFile) -> list[Stage]:
    """The trainings that are not complete."""
    stages = [
        run.stages.training(training, problems)
        for student in students(run.recipe)
        for training in student.trainings
    ]
    return [stage for stage in stages if not run.is_complete(stage)]


def _missing(run: RunFolder, stage: Stage | None, what: str, verb: str) -> UserError:
    """With what differs in the like of it that is there."""
    near = nearest(run.path, stage) if stage else None
    others = f" (of those there, {near[1][0]})" if near and near[1] else ""
    return UserError(f"--run-dir {run.path}: {what}{others}; run {verb} first")
