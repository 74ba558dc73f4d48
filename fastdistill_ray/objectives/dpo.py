"""DPO (Rafailov et al., arXiv 2305.18290, eq. 7) on a pair of each group: its best correct
completion is preferred to its worst wrong one.

L = -log sigmoid(beta ((log q - log r)(chosen) - (log q - log r)(rejected))), r the reference: the
student as it begins. A group without one of both has no pair. Departures: `normalize: token` takes
means over a completion's tokens in place of sums, so that long answers do not decide by their
length; `alpha` adds the chosen completion's cross-entropy, its token mean, whose likelihood may
else fall while the margin grows (as RPO's, arXiv 2404.19733, eq. 1).
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fastdistill_ray.groups.signals import Signal
from fastdistill_ray.objectives.choice import best_of
from fastdistill_ray.objectives.contract import (
    PAPER_TAU,
    LossBatch,
    Needs,
    ObjectiveKnobs,
    Outputs,
    Scored,
    Target,
    Term,
    softmax_of_advantages,
)


class Dpo(ObjectiveKnobs):
    label: ClassVar[str] = "DPO"
    described: ClassVar[str] = "DPO"
    colour: ClassVar[str] = "#3f5c73"
    terms: ClassVar[dict[str, str]] = {
        "preference": "Preference",
        "ce": "Cross-entropy",
    }

    kind: Literal["dpo"] = "dpo"
    beta: float = Field(
        default=0.1, gt=0, description="Strength with which the reference holds the student."
    )
    normalize: Literal["sequence", "token"] = Field(
        default="sequence",
        description="A completion's log-ratio: the sum over its tokens, as in the paper, or mean.",
    )
    alpha: float = Field(
        default=0.0, ge=0, description="Weight of the chosen completion's cross-entropy."
    )

    reference: Literal["live", "stored"] = Field(
        default="live",
        description="The reference's log-probabilities: live, of a frozen copy of the student "
        "beside it at every step; stored, computed once before training.",
    )

    min_completions: ClassVar[int] = 2

    @property
    def needs(self) -> Needs:
        if self.reference == "live":
            return Needs(frozen="student", whole_groups=True)
        return Needs(signal=Signal("chosen", by="student"), whole_groups=True)

    def targets(self, completions: list[Scored]) -> list[Target]:
        """The chosen one has weight 1, the rejected one -1; no pair, no targets."""
        correct = [place for place, one in enumerate(completions) if one.is_correct]
        wrong = [place for place, one in enumerate(completions) if not one.is_correct]
        if not correct or not wrong:
            return []
        worst = min(wrong, key=lambda i: (completions[i].reward, completions[i].num_tokens, i))
        pair = {best_of(correct, completions): 1.0, worst: -1.0}
        return [Target(place, pair[place], 0.0) for place in sorted(pair)]

    def group_weights(self, completions: list[Scored]) -> np.ndarray:
        return softmax_of_advantages(completions, PAPER_TAU)

    def __call__(self, outputs: Outputs, batch: LossBatch) -> list[Term]:
        assert outputs.frozen_logprob is not None
        ratio = batch.sum_tokens(outputs.logprob - outputs.frozen_logprob)
        cross_entropy = batch.sum_tokens(
            -(outputs.logprob if self.alpha else outputs.logprob.detach())
        )
        if self.normalize == "token":
            ratio = ratio / batch.lengths
        margin = batch.sum_completions(batch.weight * ratio)
        has_pair = batch.sum_completions(batch.weight.abs()) > 0
        preference = (-self.beta * margin).logaddexp(margin.new_zeros(()))  # finite, exact at 0
        mean = (batch.weight.clamp(min=0) * cross_entropy / batch.lengths).sum()
        return [
            Term("preference", (has_pair * preference).sum(), "groups", 1.0),
            Term("ce", mean, "groups", self.alpha),
        ]
