"""SFT on the best completion of each group, the paper's baseline, or on more of them.

With `confidence` a > 0 it is the auxiliary loss of Weak-to-Strong Generalization (arXiv 2312.09390,
section 4.3.2), for texts of a writer that knows less than the student: at each token y, with q the
student,

  L = (1 - a) (-log q(y)) - a max_v log q(v),

a growing from 0 over the first `ramp` of the updates. Departure: the paper has two classes and
hardens the student's prediction at a threshold that keeps both as frequent as they are; of a whole
vocabulary it is the likeliest token.
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fastdistill_ray.objectives.choice import On, chosen
from fastdistill_ray.objectives.contract import (
    PAPER_TAU,
    LossBatch,
    Needs,
    ObjectiveKnobs,
    Outputs,
    Scored,
    Target,
    Tensor,
    Term,
    softmax_of_advantages,
)


class Sft(ObjectiveKnobs):
    label: ClassVar[str] = "SFT"
    described: ClassVar[str] = "SFT on best completion"
    colour: ClassVar[str] = "#4a7bc8"
    terms: ClassVar[dict[str, str]] = {"ce": "Cross-entropy", "confidence": "Own likeliest token"}

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

    confidence: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Weight of the student's own likeliest token beside the text's, for texts of a "
        "weaker writer (arXiv 2312.09390 has 0.5 and 0.75).",
    )
    ramp: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Share of the updates over which confidence grows to that from 0.",
    )

    @property
    def needs(self) -> Needs:
        return Needs(top=1 if self.confidence else 0)

    @property
    def trains_one(self) -> bool:
        return self.on == "best"

    def describe(self) -> str:
        on = {
            "best": self.described,
            "correct": "SFT on correct completions",
            "all": "SFT on all completions",
        }[self.on]
        return f"{on}, confidence {self.confidence:g}" if self.confidence else on

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
        if not self.confidence:
            return [self._mean("ce", outputs.logprob, batch, 1.0)]
        assert outputs.top is not None
        share = self.confidence * min(1.0, batch.progress / self.ramp)
        return [
            self._mean("ce", outputs.logprob, batch, 1 - share),
            self._mean("confidence", outputs.top[0][:, 0], batch, share),
        ]

    def _mean(self, name: str, logprob: Tensor, batch: LossBatch, coefficient: float) -> Term:
        cross_entropy = batch.sum_tokens(-logprob)
        if self.normalize == "token":
            return Term(name, (batch.weight * cross_entropy).sum(), "tokens", coefficient)
        mean = cross_entropy / batch.lengths
        return Term(name, (batch.weight * mean).sum(), "completions", coefficient)
