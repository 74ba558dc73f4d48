"""The recipe of a condensed set (`fastdistill condense`)."""

from typing import Literal

from pydantic import Field

from fastdistill_ray.condensing.knobs import EncoderKnobs, LearnerKnobs, Method, TextKnobs
from fastdistill_ray.condensing.texts import check_per_class, load_texts
from fastdistill_ray.recipe.tree import AnyRecipe


class CondenseRecipe(AnyRecipe):
    job: Literal["condense"] = Field(description="The verb that runs this recipe.")
    task: TextKnobs
    encoder: EncoderKnobs
    method: Method
    learners: LearnerKnobs = LearnerKnobs()

    def check_files(self) -> None:
        train = load_texts(self.task)["train"]
        check_per_class([label for _, label in train], self.method.per_class)
