"""A few tokens of the teacher's distribution, stored before training: top-k, and random samples.

`topk_kl`: KL(p, q) of the distributions over the teacher's k likeliest tokens and one more event,
that it is any other token, whose mass both sides know exactly (the "ghost token" that arXiv
2503.16870 compares with). It is a lower bound of the KL over
all tokens, equal to it where p and q agree on how the rest is shared. Renormalised top-k, which
most libraries train, pulls the student to a teacher that never says anything else.

`sampled_kl` (Sparse Logit Sampling, arXiv 2503.16870): N tokens are drawn from p with
replacement, and the student's cross-entropy is taken to their shares c / N. Its mean over draws is
the cross-entropy of p and q, so the mean of its gradient is that of the KL, which is the
cross-entropy less the entropy of p.

Departures: the paper draws from p^t with importance weights; t is 1 here, its main setting, where
the weights are c / N. The temperature is applied to p before it is stored, and then to q.
"""

from typing import ClassVar, Literal

from pydantic import Field

from fastdistill_ray.groups.signals import Signal
from fastdistill_ray.objectives.contract import Needs, Outputs, Tensor
from fastdistill_ray.objectives.distribution import FromTeacherTokens

MOST = 255  # draws of a token: their numbers are stored as bytes


class TopkKl(FromTeacherTokens):
    label: ClassVar[str] = "top-k KL"
    described: ClassVar[str] = "Top-k KL"
    colour: ClassVar[str] = "#5b7fb3"

    kind: Literal["topk_kl"] = "topk_kl"
    k: int = Field(default=64, ge=1, description="Likeliest tokens that are stored of each token.")

    @property
    def needs(self) -> Needs:
        return Needs(signal=Signal("topk", self.k, self.temperature))

    def compared(self, outputs: Outputs) -> Tensor:
        signals, picked, rest = outputs.signals, outputs.picked, outputs.rest
        assert signals is not None and picked is not None and rest is not None
        top_K = (signals.values.exp() * (signals.values - picked)).sum(-1)
        return top_K + _mass_times_ratio(signals.rest, rest)


class SampledKl(FromTeacherTokens):
    label: ClassVar[str] = "sampled KL"
    described: ClassVar[str] = "Sampled KL"
    colour: ClassVar[str] = "#96703c"
    terms: ClassVar[dict[str, str]] = {
        "ce": "Cross-entropy",
        "sampled": "Cross-entropy of the tokens that the teacher's distribution drew",
    }

    kind: Literal["sampled_kl"] = "sampled_kl"
    draws: int = Field(
        default=50, ge=1, le=MOST, description="Tokens drawn from the teacher's distribution."
    )

    @property
    def needs(self) -> Needs:
        return Needs(signal=Signal("random", self.draws, self.temperature))

    def compared(self, outputs: Outputs) -> Tensor:
        signals, picked = outputs.signals, outputs.picked
        assert signals is not None and picked is not None
        return -(signals.values * picked.masked_fill(signals.ids < 0, 0.0)).sum(-1)


def _mass_times_ratio(of_teacher_K: Tensor, of_student_K: Tensor) -> Tensor:
    """p log(p / q) of log p and log q, 0 where p is."""
    has_mass = of_teacher_K.exp() > 0
    finite_K = of_teacher_K.masked_fill(~has_mass, 0.0)
    return has_mass * finite_K.exp() * (finite_K - of_student_K.masked_fill(~has_mass, 0.0))
