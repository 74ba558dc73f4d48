"""A teacher with a tokenizer of its own: ULD and the distribution of the next byte.

Student and teacher read one text by their own tokens. They are compared wherever both begin a span:
at the first token, after every byte at which both have a token's end, and where the text ends by
itself (`training/alignment.py`). L = alpha CE + (1 - alpha) D, CE the mean over the student's
tokens, D the mean over spans.

`uld` (Universal Logit Distillation, arXiv 2402.12030, section 3): D is the Wasserstein distance of
both distributions where all tokens are equally far from each other, the sum over places of |p - q|
with each side's probabilities in descending order. Which token has which probability is lost, so
CE is a part of it: alpha 0.4 is the paper's CE + 1.5 D, divided by 2.5.

`byte_kl` (ours): D is T^2 KL(p, q) of what comes next, a byte or the end of the turn: the sum of
the probabilities of all tokens that begin with it. It knows which byte is which, is exact for any
two tokenizers, and is 0 where both models think alike.

Departures: ULD compares the t-th token of one side with the t-th of the other, up to the shorter
side's end, whatever text they are of; here both are of the same bytes. Its released code leaves out
the student's end of text, which is trained and compared here. T multiplies D of `uld`, whose slope
falls with T alone.
"""

from typing import ClassVar, Literal

from pydantic import Field

from fastdistill_ray.objectives.contract import Across, LossBatch, Needs, Outputs, Tensor, Term
from fastdistill_ray.objectives.distribution import FromTeacherTokens


class AcrossTokenizers(FromTeacherTokens):
    """What all kinds share; each has `kind`, `terms` and `across`."""

    @property
    def across(self) -> Across:
        raise NotImplementedError

    @property
    def needs(self) -> Needs:
        return Needs(frozen="teacher", across=self.across)

    def compared(self, outputs: Outputs) -> Tensor:
        (values_K,) = outputs.spans
        return values_K

    def __call__(self, outputs: Outputs, batch: LossBatch) -> list[Term]:
        values_K = self.temperature**self.slope * self.compared(outputs)
        return [
            self._term("ce", -outputs.logprob, batch, self.alpha),
            self._term_of_spans(list(self.terms)[1], values_K, batch, 1 - self.alpha),
        ]

    def _term_of_spans(self, name: str, values_K: Tensor, batch: LossBatch, share: float) -> Term:
        """Means over spans, as `_term` has them over tokens."""
        sums_C = batch.sum_tokens(values_K)
        if self.weighting == "uniform":
            return Term(name, (batch.weight * sums_C).sum(), "spans", share)
        num_spans_C = batch.lengths if batch.spans is None else batch.spans.clamp(min=1)
        return Term(name, (batch.weight * sums_C / num_spans_C).sum(), "groups", share)


class Uld(AcrossTokenizers):
    label: ClassVar[str] = "ULD"
    described: ClassVar[str] = "ULD"
    colour: ClassVar[str] = "#9c3587"
    terms: ClassVar[dict[str, str]] = {
        "ce": "Cross-entropy",
        "uld": "Distance of sorted probabilities",
    }
    slope: ClassVar[int] = 1

    kind: Literal["uld"] = "uld"
    alpha: float = Field(
        default=0.4, gt=0, lt=1, description="Share of the cross-entropy of the teacher's text."
    )

    @property
    def across(self) -> Across:
        return Across("sorted", self.temperature)


class ByteKl(AcrossTokenizers):
    label: ClassVar[str] = "byte KL"
    described: ClassVar[str] = "Byte KL"
    colour: ClassVar[str] = "#4f6f1d"
    terms: ClassVar[dict[str, str]] = {
        "ce": "Cross-entropy",
        "bytes": "Divergence of the next byte from the teacher's",
    }

    kind: Literal["byte_kl"] = "byte_kl"
    alpha: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="Share of the cross-entropy of the teacher's text, which alone trains tokens "
        "inside of spans.",
    )

    @property
    def across(self) -> Across:
        return Across("bytes", self.temperature)
