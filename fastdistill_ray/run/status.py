"""Where a run stands, read from its folder alone."""

import yaml

from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.loading import parse_any
from fastdistill_ray.recipe.shapes import DISTILL, JOB
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.run.folder import place_of_run
from fastdistill_ray.run.forecast import describe_stages, is_done
from fastdistill_ray.run.lease import holder
from fastdistill_ray.run_files import MANIFEST, RECIPE, stage_folders
from fastdistill_ray.storage.place import Place


def status(run_dir: str) -> str:
    """Who writes it, a line for each stage of its last recipe, and how it goes on."""
    run = place_of_run(run_dir)
    file = run / RECIPE
    if not file.is_file():
        raise UserError(f"status {run_dir}: no run folder, it holds no {RECIPE}")
    recipe = parse_any(yaml.safe_load(file.read_text()), str(file))
    note = holder(run)
    stages = describe_stages(recipe, run) if isinstance(recipe, Recipe) else _come_to(run)
    lines = [f"{note} writes it" if note else "nobody writes it", stages]
    if note:
        return "\n".join(lines)
    if isinstance(recipe, Recipe) and is_done(recipe, run):
        lines.append("all stages are complete")
    else:
        job = getattr(recipe, JOB, DISTILL)
        lines.append(f"go on: fastdistill {job} {file} --run-dir {run}")
    return "\n".join(lines)


def _come_to(run: Place) -> str:
    """The stages that a job whose plan nobody forecasts has come to."""
    folders = stage_folders(run)
    states = {True: "complete", False: "not complete"}
    lines = [f"{name}: {states[(folder / MANIFEST).exists()]}" for name, folder in folders.items()]
    return "\n".join(lines or ["no stage has begun"])
