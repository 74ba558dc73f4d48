"""Distilling Step-by-Step (arXiv 2305.02301): answers and thoughts as two tasks.

With mean(...) over a step's groups of the mean over their correct completions, each by the mean
over its tokens:

  L = alpha mean(CE of what follows the thoughts, after the student's own prompt)
      + (1 - alpha) mean(CE of the thoughts, after the prompt that asks for them)

so that the student answers without thoughts, and has learned from them. Each mean has a denominator
of its own: however long thoughts are, alpha says how much they count. alpha 0.5 is the released
code's; the paper's sum L_label + lambda L_rationale, lambda 1, is twice that.

Departures: system texts in place of the prefixes "predict: " and "explain: " of a T5. Labels are
the teachers' own correct answers. The released code takes the mean over all tokens of a batch,
here each text counts alike. A completion that has not both parts is left out.
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fastdistill_ray.objectives.choice import chosen
from fastdistill_ray.objectives.contract import (
    PAPER_TAU,
    LossBatch,
    Needs,
    ObjectiveKnobs,
    Outputs,
    Scored,
    Target,
    Term,
    Views,
    softmax_of_advantages,
)

EXPLAIN = "Explain step by step how to solve the user's problem."


class StepByStep(ObjectiveKnobs):
    label: ClassVar[str] = "Step-by-Step"
    described: ClassVar[str] = "Distilling Step-by-Step"
    colour: ClassVar[str] = "#b5651d"
    terms: ClassVar[dict[str, str]] = {
        "label": "Cross-entropy of answers",
        "rationale": "Cross-entropy of thoughts",
    }

    kind: Literal["step_by_step"] = "step_by_step"
    alpha: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Weight of the answers, that of the thoughts being 1 minus it; 1: answers "
        "alone.",
    )
    system: str = Field(
        default=EXPLAIN,
        min_length=1,
        description="System text of the prompt that thoughts follow; answers follow the student's "
        "own.",
    )

    @property
    def needs(self) -> Needs:
        return Needs(views=Views(self.system if self.alpha < 1 else ""))

    def describe(self) -> str:
        return self.described if self.alpha < 1 else "SFT on answers without thoughts"

    def targets(self, completions: list[Scored]) -> list[Target]:
        """All correct completions alike; a group without one contributes nothing."""
        places = chosen("correct", completions)
        return [Target(place, 1 / len(places), 1 / len(places)) for place in places]

    def group_weights(self, completions: list[Scored]) -> np.ndarray:
        return softmax_of_advantages(completions, PAPER_TAU)

    def __call__(self, outputs: Outputs, batch: LossBatch) -> list[Term]:
        mean = batch.sum_tokens(-outputs.logprob) / batch.lengths
        return [
            Term("label", (batch.weight * mean).sum(), "groups", self.alpha),
            Term("rationale", (batch.penalty * mean).sum(), "explained", 1 - self.alpha),
        ]
