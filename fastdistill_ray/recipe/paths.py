"""Files and folders that a recipe names, from where the user stands: absolute, so that they are the
same in a job's own working directory and in the workers of its nodes."""

from pathlib import Path
from typing import TypeVar

from fastdistill_ray.generation.knobs import TeacherKnobs
from fastdistill_ray.knobs import Knobs
from fastdistill_ray.models import LAYERS
from fastdistill_ray.recipe.compare import ComparedModel
from fastdistill_ray.recipe.tree import Recipe

Section = TypeVar("Section", bound=Knobs)


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Names of what is not on this machine stay as they are: hub ids, buckets, a node's files."""
    task, compare = _fixed(recipe.task, "path"), recipe.compare
    if task.ood:
        task = task.model_copy(update={"ood": _fixed(task.ood, "path")})
    entries = [_fixed(one, "model") for one in compare.students]
    baselines = [
        _fixed(one, "model") if isinstance(one, ComparedModel) else one for one in compare.baselines
    ]
    return recipe.model_copy(
        update={
            "task": task,
            "teacher": _teacher(recipe.teacher),
            "scorer": _fixed(recipe.scorer, "model") if recipe.scorer else None,
            "teachers": [_teacher(teacher) for teacher in recipe.teachers],
            "student": _fixed(recipe.student, "model"),
            "compare": compare.model_copy(update={"students": entries, "baselines": baselines}),
        }
    )


def _teacher(teacher: TeacherKnobs) -> TeacherKnobs:
    return teacher if teacher.is_remote else _fixed(teacher, "model")


def _fixed(knobs: Section, field: str) -> Section:
    return knobs.model_copy(update={field: _absolute(getattr(knobs, field))})


def _absolute(reference: str) -> str:
    path, layers, numbers = reference.partition(LAYERS)
    found = Path(path).expanduser()
    return f"{found.absolute()}{layers}{numbers}" if path and found.exists() else reference
