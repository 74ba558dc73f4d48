"""SFT on the best completion of each group, the paper's baseline, or on more of them."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

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
    on: Literal["best", "correct", "all"] = Field(
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
        correct = [index for index, one in enumerate(completions) if one.is_correct]
        if self.on != "best":
            chosen = correct if self.on == "correct" else range(len(completions))
            return [Target(index, 1.0, 0.0) for index in chosen]
        if not correct:
            return []
        if self.best_of == "first_correct":
            return [Target(correct[0], 1.0, 0.0)]
        best = min(correct, key=lambda i: (-completions[i].reward, completions[i].num_tokens, i))
        return [Target(best, 1.0, 0.0)]

    def group_weights(self, completions: list[Scored]) -> np.ndarray:
        """SFT has no weights of its own: those of the paper, for curves that can be compared."""
        return softmax_of_advantages(completions, PAPER_TAU)

    def __call__(self, outputs: Outputs, batch: LossBatch) -> list[Term]:
        cross_entropy = batch.sum_tokens(-outputs.logprob)
        if self.normalize == "token":
            return [Term("ce", (batch.weight * cross_entropy).sum(), "tokens", 1.0)]
        mean = cross_entropy / batch.lengths
        return [Term("ce", (batch.weight * mean).sum(), "completions", 1.0)]
