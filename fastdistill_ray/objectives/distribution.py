"""The teacher's whole distribution at every token: Hinton, GKD and DistiLLM on the teacher's texts.

L = alpha CE + (1 - alpha) T^2 D(p, q), with p and q the distributions of teacher and student at
temperature T (Hinton et al., arXiv 1503.02531, section 2; D there is the forward KL), and D one of
six divergences: forward and reverse KL, JSD (GKD, arXiv 2306.13649, eq. 1), skew and skew reverse
KL (DistiLLM, arXiv 2402.03898, section 3.1), total variation (f-DISTILL, arXiv 2307.15190).

Departures: the means are over a step's tokens, not over each text first; GKD and DistiLLM also
train on texts of the student, this on the teacher's alone; T^2 multiplies every divergence but the
total variation, whose slope falls with T alone. `weighting: advantage` is ours: AdvDistill's
weights (arXiv 2507.00054, eq. 6 and 7) with alpha CE + (1 - alpha) D in place of its CE.
"""

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from fastdistill_ray.groups.signals import Signal
from fastdistill_ray.objectives.choice import On, chosen
from fastdistill_ray.objectives.contract import (
    PAPER_TAU,
    Divergence,
    LossBatch,
    Measure,
    Needs,
    ObjectiveKnobs,
    Outputs,
    Scored,
    Target,
    Tensor,
    Term,
    softmax_of_advantages,
)
from fastdistill_ray.rewards.advantages import softmax_weights

States = Literal["live", "bf16", "int8"]
BITS: dict[States, int] = {"bf16": 16, "int8": 8}


class FromTeacherTokens(ObjectiveKnobs):
    """What all kinds share that learn what the teacher thinks of each token of its texts; each has
    `kind`, `needs` and `compared`."""

    terms: ClassVar[dict[str, str]] = {
        "ce": "Cross-entropy",
        "divergence": "Divergence from the teacher",
    }
    slope: ClassVar[int] = 2  # the power of T by which the comparison's gradient falls

    temperature: float = Field(
        default=1.0, gt=0, description="Temperature of the teacher's and the student's softmax."
    )
    alpha: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the cross-entropy of the teacher's text in the loss.",
    )
    on: On = Field(
        default="all",
        description="Completions of a group that are trained on: all, the correct ones, or the "
        "best correct one.",
    )
    weighting: Literal["uniform", "advantage"] = Field(
        default="uniform",
        description="All tokens alike, or each completion's mean by AdvDistill's weights.",
    )
    tau: float = Field(
        default=PAPER_TAU,
        gt=0,
        description="Temperature of the softmax over advantages, with weighting: advantage.",
    )

    def compared(self, outputs: Outputs) -> Tensor:
        """[K], by how much the student differs from the teacher."""
        raise NotImplementedError

    @property
    def trains_one(self) -> bool:
        return self.on == "best"

    def describe(self) -> str:
        parts = [self.described]
        is_plain = self.alpha == type(self).model_fields["alpha"].default
        parts += [] if is_plain else [f"{self.alpha:g} cross-entropy"]
        parts += ["advantage weights"] if self.weighting == "advantage" else []
        parts += [f"{self.on} completion{'s' * (self.on != 'best')}"] if self.on != "all" else []
        return ", ".join(parts)

    def targets(self, completions: list[Scored]) -> list[Target]:
        places = chosen(self.on, completions)
        weights = np.ones(len(completions))
        if self.weighting == "advantage" and places:
            is_chosen = np.isin(np.arange(len(completions)), places)
            advantages = np.array([one.advantage for one in completions])
            weights = softmax_weights(advantages, self.tau, is_chosen)
        return [Target(place, float(weights[place]), 0.0) for place in places if weights[place] > 0]

    def group_weights(self, completions: list[Scored]) -> np.ndarray:
        return softmax_of_advantages(completions, self.tau)

    def __call__(self, outputs: Outputs, batch: LossBatch) -> list[Term]:
        # Without a share its gradient would be computed to be multiplied by nothing.
        logprob = outputs.logprob if self.alpha else outputs.logprob.detach()
        return [
            self._term("ce", -logprob, batch, self.alpha),
            self._term(
                list(self.terms)[1],
                self.temperature**self.slope * self.compared(outputs),
                batch,
                1 - self.alpha,
            ),
        ]

    def _term(self, name: str, values_K: Tensor, batch: LossBatch, share: float) -> Term:
        sums_C = batch.sum_tokens(values_K)
        if self.weighting == "uniform":
            return Term(name, (batch.weight * sums_C).sum(), "tokens", share)
        return Term(name, (batch.weight * sums_C / batch.lengths).sum(), "groups", share)


class FromDistribution(FromTeacherTokens):
    """Whole distributions are compared."""

    divergence: ClassVar[Divergence]

    @property
    def needs(self) -> Needs:
        return Needs(frozen="teacher", measure=self.measure)

    @property
    def measure(self) -> Measure:
        return Measure(self.divergence, temperature=self.temperature)

    def compared(self, outputs: Outputs) -> Tensor:
        assert outputs.divergence is not None
        return outputs.divergence


class FromStates(FromDistribution):
    """Nothing of the teacher is compared but its distributions, which a stored state can give."""

    states: States = Field(
        default="live",
        description="Where the teacher's distributions come from. live: a frozen model beside the "
        "student. bf16, int8: its last hidden states, computed once, stored in that precision and "
        "multiplied with its head at every step.",
    )

    @property
    def needs(self) -> Needs:
        if self.states == "live":
            return super().needs
        return Needs(measure=self.measure, signal=Signal("hidden", BITS[self.states]))


class ForwardKl(FromStates):
    label: ClassVar[str] = "forward KL"
    described: ClassVar[str] = "Forward KL"
    colour: ClassVar[str] = "#c4622d"
    divergence: ClassVar[Divergence] = "forward_kl"

    kind: Literal["forward_kl"] = "forward_kl"


class ReverseKl(FromStates):
    label: ClassVar[str] = "reverse KL"
    described: ClassVar[str] = "Reverse KL"
    colour: ClassVar[str] = "#7b52ab"
    divergence: ClassVar[Divergence] = "reverse_kl"

    kind: Literal["reverse_kl"] = "reverse_kl"


Skew = Annotated[
    float,
    Field(
        gt=0,
        lt=1,
        description="Share of the first distribution in the mixture it is compared with.",
    ),
]


class Skewed(FromStates):
    skew: Skew = 0.1

    @property
    def measure(self) -> Measure:
        return Measure(self.divergence, self.skew, self.temperature)


class SkewKl(Skewed):
    label: ClassVar[str] = "skew KL"
    described: ClassVar[str] = "Skew KL"
    colour: ClassVar[str] = "#a8324a"
    divergence: ClassVar[Divergence] = "skew_kl"

    kind: Literal["skew_kl"] = "skew_kl"


class SkewReverseKl(Skewed):
    label: ClassVar[str] = "skew reverse KL"
    described: ClassVar[str] = "Skew reverse KL"
    colour: ClassVar[str] = "#c65fa0"
    divergence: ClassVar[Divergence] = "skew_reverse_kl"

    kind: Literal["skew_reverse_kl"] = "skew_reverse_kl"


class Jsd(FromStates):
    label: ClassVar[str] = "JSD"
    described: ClassVar[str] = "JSD"
    colour: ClassVar[str] = "#2b7f86"
    divergence: ClassVar[Divergence] = "jsd"

    kind: Literal["jsd"] = "jsd"
    beta: float = Field(
        default=0.5, gt=0, lt=1, description="Share of the teacher in the mixture, and of its KL."
    )

    @property
    def measure(self) -> Measure:
        return Measure(self.divergence, self.beta, self.temperature)


class Tvd(FromStates):
    label: ClassVar[str] = "total variation"
    described: ClassVar[str] = "Total variation"
    colour: ClassVar[str] = "#7a5a3a"
    slope: ClassVar[int] = 1
    divergence: ClassVar[Divergence] = "tvd"

    kind: Literal["tvd"] = "tvd"
