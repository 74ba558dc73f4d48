"""The recipe of a condensed set (`fastdistill condense`)."""

from typing import Literal

from pydantic import Field

from fastdistill_ray.condensing.knobs import EncoderKnobs, LearnerKnobs, Method, TextKnobs
from fastdistill_ray.recipe.tree import AnyRecipe


class CondenseRecipe(AnyRecipe):
    job: Literal["condense"] = Field(description="The verb that runs this recipe.")
    task: TextKnobs
    encoder: EncoderKnobs
    method: Method
    learners: LearnerKnobs = LearnerKnobs()
