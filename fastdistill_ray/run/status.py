"""Where a run stands, read from its folder alone."""

import yaml

from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.loading import parse_recipe
from fastdistill_ray.run.folder import place_of_run
from fastdistill_ray.run.forecast import describe_stages
from fastdistill_ray.run.lease import holder
from fastdistill_ray.run_files import RECIPE


def status(run_dir: str) -> str:
    """Who writes it, a line for each stage of its last recipe, and how it goes on."""
    run = place_of_run(run_dir)
    file = run / RECIPE
    if not file.is_file():
        raise UserError(f"status {run_dir}: no run folder, it holds no {RECIPE}")
    recipe = parse_recipe(yaml.safe_load(file.read_text()), str(file))
    note = holder(run)
    lines = [f"{note} writes it" if note else "nobody writes it", describe_stages(recipe, run)]
    if not note:
        lines.append(f"go on: fastdistill distill {file} --run-dir {run}")
    return "\n".join(lines)
