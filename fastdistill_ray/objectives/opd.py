"""On-policy distillation: the student writes, the teacher says what it thinks of each token.

With q the student, p the teacher, y a text that the student wrote, mu the distribution its tokens
were drawn from, all at temperature 1, and rho = min(q / mu, max_ratio), which is a constant:

  sampled  mean over tokens of rho (log q(y_t) - log p(y_t)), whose gradient is that times the
           gradient of log q(y_t): that of the reverse KL at each token, unbiased, of one draw
           (Lu and Thinking Machines Lab, On-Policy Distillation, 2025; Agarwal et al., GKD, arXiv
           2306.13649, with reverse KL).
  full     a divergence between both whole distributions at each token: GKD, eq. 1, on texts of the
           student; its share of a teacher's texts is `rounds.mix`.
  topk     the reverse KL summed over the student's k likeliest tokens, and the token drawn for all
           others: sum over v in top of q_v (d_v - c) and, where y_t is not in top, rho (d_y - c),
           with d = log q - log p and c = the sum over top of q d, which a constant may be.
  chunks   as sampled, of a teacher with a tokenizer of its own: at every span of bytes that both
           divide alike (`training/alignment.py`), rho (log q(span) - log p(span)), the sums over
           its tokens, which is the slope of each of the student's tokens there. Where every token
           is a span of its own, that is sampled. A teacher that would write the bytes of a span by
           other tokens too gives them less than they have in all: p(span) is of one division.
  minillm  MiniLLM (arXiv 2306.08543, eq. 5 and 6): the reverse KL of each token's own step, and of
           what follows it -rho R_{t+1}, R_{t+1} the mean of r = log p - log q over the tokens after
           t (its length normalisation), with PPO's clip at 1 - clip and 1 + clip.

`reward` adds -rho A_i at every token, A_i the advantage of the text in its group by the recipe's
rewards, as a mean over texts of each one's mean: its own coefficient and denominator.

Departures of minillm: texts are drawn of the student alone, not of a mixture with the teacher
(section 2.2, alpha 0.2), which needs both models at every token that is drawn; rewards are neither
whitened nor scaled (the released code does both), which needs a mean over the step; there is no
loss of pre-training texts. Its R is the paper's, from t + 1; the released code's begins at t.
A token's whole KL is a loss here and never an advantage: its gradient would not be the KL's.
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fastdistill_ray.objectives.contract import (
    PAPER_TAU,
    Across,
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

Form = Literal["sampled", "full", "topk", "chunks", "minillm"]


class Opd(ObjectiveKnobs):
    label: ClassVar[str] = "on-policy distillation"
    described: ClassVar[str] = "On-policy distillation"
    colour: ClassVar[str] = "#1f6f9f"
    terms: ClassVar[dict[str, str]] = {
        "kl": "Divergence on its own texts",
        "following": "Divergence of what follows",
        "reward": "Rewards of its own texts",
    }

    kind: Literal["opd"] = "opd"
    form: Form = Field(
        default="sampled",
        description="What of the teacher is learnt at each token of the student's texts. sampled: "
        "its log-probability of the token; full: its whole distribution; topk: its "
        "log-probabilities of the student's likeliest tokens; chunks: as sampled, of the bytes "
        "that both divide alike, for a teacher with another tokenizer; minillm: full, and of all "
        "that follows the token.",
    )
    divergence: Divergence = Field(
        default="reverse_kl", description="How whole distributions differ, with form: full."
    )
    share: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="Share of the first distribution in the mixtures of jsd, skew_kl and "
        "skew_reverse_kl, with form: full.",
    )
    k: int = Field(default=16, ge=1, description="Tokens compared at each place, with form: topk.")
    max_ratio: float = Field(
        default=2.0,
        ge=1,
        description="Most that the student's probability of a token is taken to have grown since "
        "it was drawn.",
    )
    clip: float = Field(
        default=0.2, gt=0, lt=1, description="PPO's clip of that ratio, with form: minillm."
    )
    reward: float = Field(
        default=0.0, ge=0, description="Weight of the rewards' advantages beside the teacher's."
    )

    @property
    def needs(self) -> Needs:
        measure = None
        if self.form == "full":
            measure = Measure(self.divergence, self.share)
        elif self.form == "minillm":
            measure = Measure("reverse_kl")
        is_full, is_across = self.form == "full", self.form == "chunks"
        return Needs(
            frozen="teacher",
            measure=measure,
            top=self.k if self.form == "topk" else 0,
            frozen_logprob=not is_full and not is_across,
            across=Across("chunks") if is_across else None,
            written=not is_full or self.reward > 0,
            rounds=True,
        )

    def describe(self) -> str:
        forms = {"topk": f"top {self.k}", "sampled": ""}
        parts = list(filter(None, [self.described, forms.get(self.form, self.form)]))
        parts += [self.divergence.replace("_", " ")] if self.form == "full" else []
        parts += [f"{self.reward:g} rewards"] if self.reward else []
        return ", ".join(parts)

    def targets(self, completions: list[Scored]) -> list[Target]:
        """All of them; the coefficient of a text's rewards stands where a penalty's would."""
        return [Target(i, 1.0, one.advantage) for i, one in enumerate(completions)]

    def group_weights(self, completions: list[Scored]) -> np.ndarray:
        return softmax_of_advantages(completions, PAPER_TAU)

    def __call__(self, outputs: Outputs, batch: LossBatch) -> list[Term]:
        weight_K = batch.weight[batch.completion]
        if self.form == "chunks":
            value_K = self._chunks(outputs, batch)
        else:
            values = {"full": _measured, "minillm": _measured, "topk": self._top}
            value_K = values.get(self.form, self._sampled)(outputs)
        terms = [Term("kl", (weight_K * value_K).sum(), "tokens", 1.0)]
        if self.form == "minillm":
            later_K = weight_K * self._following(outputs, batch)
            terms.append(Term("following", later_K.sum(), "tokens", 1.0))
        if self.reward:
            drawn_K = with_slope(-self._ratio(outputs), outputs.logprob)
            mean_C = batch.sum_tokens(drawn_K) / batch.lengths
            total = (batch.penalty * mean_C).sum()
            terms.append(Term("reward", total, "completions", self.reward))
        return terms

    def _ratio(self, outputs: Outputs) -> Tensor:
        """[K], a constant."""
        assert outputs.written is not None
        return (outputs.logprob.detach() - outputs.written).exp().clamp(max=self.max_ratio)

    def _sampled(self, outputs: Outputs) -> Tensor:
        assert outputs.frozen_logprob is not None
        apart_K = outputs.logprob.detach() - outputs.frozen_logprob
        return with_slope(self._ratio(outputs) * apart_K, outputs.logprob)

    def _chunks(self, outputs: Outputs, batch: LossBatch) -> Tensor:
        """Each span's value is dealt to its tokens alike; the slope of each is that of all. Tokens
        before a text's first span are of none: 0, without a slope."""
        assert outputs.written is not None
        its_K, is_start_K = outputs.spans
        is_other_K = batch.completion.diff(prepend=batch.completion[:1]) != 0  # a text begins
        part_K = (is_other_K | (is_start_K > 0)).long().cumsum(0)

        def sums(values_K: Tensor) -> Tensor:
            doubles_K = values_K.detach().double()
            found_S = doubles_K.new_zeros(len(doubles_K) + 1).index_add(0, part_K, doubles_K)
            return found_S[part_K].to(values_K.dtype)

        own_K = sums(outputs.logprob)
        ratio_K = (own_K - sums(outputs.written)).exp().clamp(max=self.max_ratio)
        value_K = sums(is_start_K) * ratio_K * (own_K - sums(its_K))
        constant_K = value_K / sums(is_start_K * 0 + 1)
        return constant_K + value_K * (outputs.logprob - outputs.logprob.detach())

    def _top(self, outputs: Outputs) -> Tensor:
        assert outputs.top is not None and outputs.frozen_logprob is not None
        own_KM, other_KM, is_in_K = outputs.top
        assert other_KM is not None
        q_KM = own_KM.detach().exp()
        apart_KM = own_KM.detach() - other_KM
        c_K = (q_KM * apart_KM).sum(-1)
        at_top_K = with_slope(q_KM * (apart_KM - c_K[:, None]), own_KM).sum(-1)
        apart_K = outputs.logprob.detach() - outputs.frozen_logprob
        drawn_K = with_slope(self._ratio(outputs) * (apart_K - c_K), outputs.logprob)
        # c as a constant has no slope; with it the value is that of the KL.
        return at_top_K + (1 - is_in_K) * drawn_K + c_K

    def _following(self, outputs: Outputs, batch: LossBatch) -> Tensor:
        """[K]: PPO's loss of the mean reward of the tokens after each one; 0 of the last."""
        assert outputs.frozen_logprob is not None and outputs.written is not None
        reward_K = outputs.frozen_logprob - outputs.logprob.detach()
        return_K = mean_of_later(reward_K, batch)
        ratio_K = (outputs.logprob - outputs.written).exp()
        clipped_K = ratio_K.clamp(1 - self.clip, 1 + self.clip)
        return -(return_K * ratio_K).minimum(return_K * clipped_K)


def with_slope(value: Tensor, logprob: Tensor) -> Tensor:
    """The constant `value`, with the gradient of value times log-probability: what a mean over
    draws of value has."""
    return value * (1 + logprob - logprob.detach())


def mean_of_later(values_K: Tensor, batch: LossBatch) -> Tensor:
    """[K]: of each token, the mean of the values of those after it in its completion; 0 of none.

    The tokens of a completion stand side by side."""
    doubles_K = values_K.double()
    sums_K = doubles_K.cumsum(0)
    ends_C = batch.lengths.long().cumsum(0)
    ends_K = ends_C[batch.completion]
    place_K = doubles_K.new_ones(len(doubles_K)).cumsum(0)
    left_K = ends_K - place_K
    later_K = sums_K[ends_K - 1] - sums_K
    return (later_K / left_K.clamp(min=1)).to(values_K.dtype)


def _measured(outputs: Outputs) -> Tensor:
    assert outputs.divergence is not None
    return outputs.divergence
