"""DistiLLM-2 (arXiv 2503.07067): a contrast of texts that teachers wrote with texts of the student.

With p the teacher, q the student and a the skew, each divergence the mean over a text's tokens:

  L = mean over the step's groups of the mean over their texts of
      (2 - beta) KL(p, a p + (1 - a) q)   where a teacher wrote it, which pulls the student up;
      beta KL(q, a q + (1 - a) p)         where the student wrote it, which pushes it down.

One text of each for each of B problems makes this the paper's sum over both, divided by 2 B. beta
is 1 + 2 (`beta` - 1) times the share of updates that are done, up to `beta`, which the paper has at
1.5. The default is 1, as the released code's configurations have it: beta stays where it begins.

Departures: the skew is the same for every text, as in the released code. The paper's depends on how
likely both models find the text and on the first mean of that in the training, so that it is no
constant of the group, and a state that a checkpoint would have to hold. The student writes anew in
every round, where the paper has texts from before the training (`rounds.count: 1` has them too);
both kinds of text are of other problems in one step. The mixture has a gradient, which the released
code cuts off in the reverse KL.
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fastdistill_ray.objectives.contract import (
    PAPER_TAU,
    LossBatch,
    Measure,
    Needs,
    ObjectiveKnobs,
    Outputs,
    Scored,
    Target,
    Term,
    softmax_of_advantages,
)
from fastdistill_ray.objectives.distribution import Skew


class DistiLlm2(ObjectiveKnobs):
    label: ClassVar[str] = "DistiLLM-2"
    described: ClassVar[str] = "DistiLLM-2"
    colour: ClassVar[str] = "#6a4c93"
    terms: ClassVar[dict[str, str]] = {
        "skew_kl": "Skew KL on the teacher's texts",
        "skew_reverse_kl": "Skew reverse KL on its own texts",
    }

    kind: Literal["distillm2"] = "distillm2"
    skew: Skew = 0.1
    beta: float = Field(
        default=1.0,
        ge=1,
        lt=2,
        description="Weight of the student's own texts from half of the updates on, that of the "
        "teacher's being 2 minus it; it grows from 1. The paper has 1.5, its released code 1.",
    )

    @property
    def needs(self) -> Needs:
        return Needs(
            frozen="teacher",
            measure=Measure("skew_kl", self.skew),
            penalty_measure=Measure("skew_reverse_kl", self.skew),
            rounds=True,
            mixed=True,
        )

    def targets(self, completions: list[Scored]) -> list[Target]:
        """Every text has its share of the group; the student's own as a penalty."""
        share = 1 / len(completions)
        return [
            Target(place, 0.0, share) if one.by_student else Target(place, share, 0.0)
            for place, one in enumerate(completions)
        ]

    def group_weights(self, completions: list[Scored]) -> np.ndarray:
        return softmax_of_advantages(completions, PAPER_TAU)

    def __call__(self, outputs: Outputs, batch: LossBatch) -> list[Term]:
        assert outputs.divergence is not None
        mean_C = batch.sum_tokens(outputs.divergence) / batch.lengths
        beta = 1 + (self.beta - 1) * min(1.0, 2 * batch.progress)
        return [
            Term("skew_kl", (batch.weight * mean_C).sum(), "groups", 2 - beta),
            Term("skew_reverse_kl", (batch.penalty * mean_C).sum(), "groups", beta),
        ]
