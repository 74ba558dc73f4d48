"""A box of tools (AgentDistill, arXiv 2506.14728): a teacher's tools, not its weights.

ray job submit --working-dir . -- python jobs/box.py jobs/recipes/box/mcp_box.yaml --run-dir RUN
"""

from fastdistill_ray.recipe.box import BoxRecipe
from fastdistill_ray.run.driver import AnyJob, main_of
from fastdistill_ray.run.folder import JobFolder


def box(job: AnyJob[JobFolder[BoxRecipe]]) -> None:
    job.claim()


if __name__ == "__main__":
    main_of(BoxRecipe, box)
