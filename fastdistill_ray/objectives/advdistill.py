"""AdvDistill (arXiv 2507.00054, eq. 5 to 9): weighted cross-entropy, penalty on wrong ones.

The paper states lambda 0.5 (eq. 5), a softmax over advantages (eq. 7; its "Temperature (Student)"
of 0.5 is taken as tau), a penalty on incorrect completions alone that is clamped to a maximum
before the logarithm (eq. 8), and the average token probability (eq. 9). The equations themselves
were lost in conversion. Inferred are their forms and these defaults: the mean over tokens in eq. 6,
the sum over completions in eq. 5, -log(1 - p) with p_max 0.999 and 1/N unweighted in eq. 8,
"incorrect" as the verdict, the arithmetic mean in eq. 9, the mean over a step's groups.
docs/methods.md says why.
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fastdistill_ray.knobs import Knobs
from fastdistill_ray.objectives.contract import (
    PAPER_TAU,
    LossBatch,
    ObjectiveKnobs,
    Outputs,
    Scored,
    Target,
    Tensor,
    Term,
    softmax_of_advantages,
)
from fastdistill_ray.rewards.advantages import softmax_weights


class CrossEntropyKnobs(Knobs):
    reduction: Literal["mean", "sum", "const"] = Field(
        default="mean",
        description="How a completion's token losses become one, eq. 6; const: / const_length.",
    )
    const_length: int = Field(default=2048, gt=0, description="The divisor of reduction const.")
    on: Literal["all", "correct", "positive_advantage"] = Field(
        default="all",
        description="Completions with cross-entropy; the others' weights go to these.",
    )


class ContrastiveKnobs(Knobs):
    reduction: Literal["mean_group", "mean_incorrect", "sum"] = Field(
        default="mean_group",
        description="How a group's penalties become one, eq. 8 (1/N by default).",
    )
    weighted: bool = Field(
        default=False, description="Multiply each penalty by its completion's weight."
    )
    incorrect_if: Literal["verdict", "negative_advantage", "low_reward"] = Field(
        default="verdict", description="Which completions are penalised."
    )
    reward_threshold: float = Field(
        default=0.0, description="low_reward: penalised at or below this."
    )
    average: Literal["arithmetic", "geometric", "token"] = Field(
        default="arithmetic",
        description="Mean token probability of eq. 9, or per-token unlikelihood.",
    )


class AdvDistill(ObjectiveKnobs):
    label: ClassVar[str] = "AdvDistill"
    described: ClassVar[str] = "AdvDistill"
    colour: ClassVar[str] = "#0f8a6b"
    terms: ClassVar[dict[str, str]] = {"ce": "Cross-entropy", "contrastive": "Contrastive penalty"}

    kind: Literal["advdistill"] = "advdistill"
    tau: float = Field(
        default=PAPER_TAU, gt=0, description="Temperature of the softmax over advantages, eq. 7."
    )
    lambda_: float = Field(
        default=0.5,
        ge=0,
        alias="lambda",
        description="Weight of the penalty, eq. 5; the paper's is too strong where wrong answers "
        "share most of their tokens with right ones.",
    )
    p_max: float = Field(
        default=0.999, gt=0, lt=1, description="Clamp of the mean probability, eq. 8."
    )
    ce: CrossEntropyKnobs = CrossEntropyKnobs()
    contrastive: ContrastiveKnobs = ContrastiveKnobs()
    group_reduction: Literal["mean", "sum"] = Field(
        default="mean", description="How the losses of a step's groups become one."
    )

    min_completions: ClassVar[int] = 2  # one completion alone has nothing to be compared with

    def targets(self, completions: list[Scored]) -> list[Target]:
        """Coefficients of eq. 5, 7 and 8; a completion with none of them is left out."""
        advantages = np.array([completion.advantage for completion in completions])
        weights = softmax_weights(advantages, self.tau)
        eligible = np.array([self._has_cross_entropy(completion) for completion in completions])
        penalised = np.array([self._is_penalised(completion) for completion in completions])
        trained = softmax_weights(advantages, self.tau, eligible)
        penalties = np.where(penalised, weights if self.contrastive.weighted else 1.0, 0.0)
        if self.contrastive.reduction != "sum":
            is_group = self.contrastive.reduction == "mean_group"
            penalties = penalties / (len(completions) if is_group else max(penalised.sum(), 1))
        return [
            Target(index, float(weight), float(penalty))
            for index, (weight, penalty) in enumerate(zip(trained, penalties, strict=True))
            if weight > 0 or penalty > 0
        ]

    def group_weights(self, completions: list[Scored]) -> np.ndarray:
        """Eq. 7, whichever of the completions have cross-entropy."""
        return softmax_of_advantages(completions, self.tau)

    def __call__(self, outputs: Outputs, batch: LossBatch) -> list[Term]:
        """eq. 5: sum of w_i CE_i, and lambda times the sum of eq. 8's penalties."""
        denominator = "groups" if self.group_reduction == "mean" else "step"
        cross_entropy = batch.sum_tokens(-outputs.logprob)
        if self.ce.reduction == "mean":
            cross_entropy = cross_entropy / batch.lengths
        elif self.ce.reduction == "const":
            cross_entropy = cross_entropy / self.ce.const_length
        penalty = self._penalty(outputs.logprob, batch)
        return [
            Term("ce", (batch.weight * cross_entropy).sum(), denominator, 1.0),
            Term("contrastive", (batch.penalty * penalty).sum(), denominator, self.lambda_),
        ]

    def _penalty(self, logprob: Tensor, batch: LossBatch) -> Tensor:
        """[C]: -log(1 - min(p, p_max)), p by eq. 9; no gradient above p_max."""
        if self.contrastive.average == "token":
            unlikelihood = -(-logprob.exp().clamp(max=self.p_max)).log1p()
            return batch.mean_own_tokens(unlikelihood)
        if self.contrastive.average == "geometric":
            probability = batch.mean_own_tokens(logprob).exp()
        else:
            probability = batch.mean_own_tokens(logprob.exp())
        return -(-probability.clamp(max=self.p_max)).log1p()

    def _has_cross_entropy(self, completion: Scored) -> bool:
        if self.ce.on == "correct":
            return completion.is_correct
        return self.ce.on == "all" or completion.advantage > 0

    def _is_penalised(self, completion: Scored) -> bool:
        if self.contrastive.incorrect_if == "negative_advantage":
            return completion.advantage < 0
        if self.contrastive.incorrect_if == "low_reward":
            return completion.reward <= self.contrastive.reward_threshold
        return not completion.is_correct
