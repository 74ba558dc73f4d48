"""Which job takes recipes of which shape. A recipe that is no distillation's says its `job`."""

from typing import Any

from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.box import BoxRecipe
from fastdistill_ray.recipe.condense import CondenseRecipe
from fastdistill_ray.recipe.strict_yaml import read_yaml
from fastdistill_ray.recipe.tree import AnyRecipe, Recipe
from fastdistill_ray.run_files import RECIPE
from fastdistill_ray.storage.place import Place

JOB, DISTILL = "job", "distill"
SHAPES: dict[str, type[AnyRecipe]] = {
    DISTILL: Recipe,
    "box": BoxRecipe,
    "condense": CondenseRecipe,
}


def shape_of(verb: str) -> type[AnyRecipe]:
    """What the verb takes; those that do a part of distill take its recipes."""
    return SHAPES.get(verb, Recipe)


def job_of(tree: dict[str, Any]) -> str:
    return str(tree.get(JOB, DISTILL))


def check_run_of_distill(run_dir: str) -> None:
    """UserError where the folder is of another job, whose pages the job itself writes."""
    file = Place(run_dir) / RECIPE
    try:
        tree = read_yaml(file.read_text()) if file.is_file() else {}
    except (UserError, UnicodeDecodeError):
        return  # whoever reads it next says so
    if isinstance(tree, dict) and (job := job_of(tree)) != DISTILL:
        raise UserError(f"{run_dir}: a run of `fastdistill {job}`, which writes {job}.md itself")


def check_job(tree: dict[str, Any], origin: str, shape: type[AnyRecipe]) -> None:
    """UserError where the recipe is that of another job than the one that was started."""
    job = job_of(tree)
    if job not in SHAPES:
        known = ", ".join(name for name in SHAPES if name != DISTILL)
        raise UserError(f"recipe {origin}: {JOB}: there is no {job!r}; known: {known}")
    if SHAPES[job] is not shape:
        raise UserError(f"recipe {origin}: {JOB}: it is a recipe of `fastdistill {job}`")
