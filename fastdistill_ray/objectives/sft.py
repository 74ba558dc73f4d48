"""SFT on the best completion of each group: the paper's baseline."""

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
    trains_one: ClassVar[bool] = True

    kind: Literal["sft"] = "sft"
    best_of: Literal["reward", "first_correct"] = Field(
        default="reward",
        description="Which correct completion is trained on; ties of reward: the shortest.",
    )
    normalize: Literal["token", "sequence"] = Field(
        default="token",
        description="Mean over a step's tokens, or over its completions' token means.",
    )

    def targets(self, completions: list[Scored]) -> list[Target]:
        """The best correct completion; a group without one contributes nothing."""
        correct = [index for index, one in enumerate(completions) if one.is_correct]
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
