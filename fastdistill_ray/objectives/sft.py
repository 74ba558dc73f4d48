"""SFT on the best completion of each group, the paper's baseline, or on more of them."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fastdistill_ray.objectives.choice import On, chosen
from fastdistill_ray.objectives.contract import (
    PAPER_TAU,
    LossBatch,
    ObjectiveKnobs,
    Outputs,
    Scored,
    Target,
    Term,
    softmax_of_advantages,
)


class Sft(ObjectiveKnobs):
    label: ClassVar[str] = "SFT"
    described: ClassVar[str] = "SFT on best completion"
    colour: ClassVar[str] = "#4a7bc8"
    terms: ClassVar[dict[str, str]] = {"ce": "Cross-entropy"}

    kind: Literal["sft"] = "sft"
    on: On = Field(
        default="best",
        description="Completions of a group that are trained on, all alike: the best correct one, "
        "all correct ones (rejection sampling), or wrong ones too.",
    )
    best_of: Literal["reward", "first_correct"] = Field(
        default="reward",
        description="Which correct completion is the best; ties of reward: the shortest.",
    )
    normalize: Literal["token", "sequence"] = Field(
        default="token",
        description="Mean over a step's tokens, or over its completions' token means.",
    )

    @property
    def trains_one(self) -> bool:
        return self.on == "best"

    def describe(self) -> str:
        return {
            "best": self.described,
            "correct": "SFT on correct completions",
            "all": "SFT on all completions",
        }[self.on]

    def targets(self, completions: list[Scored]) -> list[Target]:
        """A group without a correct completion contributes nothing, but where all are trained."""
        if self.on == "best" and self.best_of == "first_correct":
            places = chosen("correct", completions)[:1]
        else:
            places = chosen(self.on, completions)
        return [Target(place, 1.0, 0.0) for place in places]

    def group_weights(self, completions: list[Scored]) -> np.ndarray:
        """SFT has no weights of its own: those of the paper, for curves that can be compared."""
        return softmax_of_advantages(completions, PAPER_TAU)

    def __call__(self, outputs: Outputs, batch: LossBatch) -> list[Term]:
        cross_entropy = batch.sum_tokens(-outputs.logprob)
        if self.normalize == "token":
            return [Term("ce", (batch.weight * cross_entropy).sum(), "tokens", 1.0)]
        mean = cross_entropy / batch.lengths
        return [Term("ce", (batch.weight * mean).sum(), "completions", 1.0)]
