"""Tested problems beside the texts that students were trained on: a stage of every run whose
problems are not made from templates."""

from fastdistill_ray.groups.contamination import count_overlaps
from fastdistill_ray.run.folder import RunFolder
from fastdistill_ray.run_files import stage_folders
from fastdistill_ray.tasks import words_in_a_row
from fastdistill_ray.tasks.problem_file import ProblemFile


def look_for_overlaps(run: RunFolder, tested: list[ProblemFile]) -> None:
    """Nothing where task.decontaminate is 0, or no group was written."""
    size = words_in_a_row(run.recipe.task)
    folder = stage_folders(run.view).get("groups")
    if not size or not folder or not any(map(len, tested)):
        return
    stage = run.stages.overlaps(folder.name, tested, size)
    pool = run.recipe.pools.judges
    run.stage(stage, count_overlaps, folder, tested, size, pool, pools=[pool])
