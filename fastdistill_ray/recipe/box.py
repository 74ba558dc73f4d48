"""The recipe of a box of tools (`fastdistill box`)."""

from typing import Literal

from pydantic import Field

from fastdistill_ray.recipe.tree import AnyRecipe
from fastdistill_ray.tasks import TaskKnobs


class BoxRecipe(AnyRecipe):
    job: Literal["box"] = Field(description="The verb that runs this recipe.")
    task: TaskKnobs
