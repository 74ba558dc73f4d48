"""A teacher with a tokenizer of its own: ULD, MultiLevelOT and the distribution of the next byte.

Student and teacher read one text by their own tokens. They are compared wherever both begin a span:
at the first token, after every byte at which both have a token's end, and where the text ends by
itself (`training/alignment.py`). L = alpha CE + (1 - alpha) D, CE the mean over the student's
tokens, D the mean over spans.

`uld` (Universal Logit Distillation, arXiv 2402.12030, section 3): D is the Wasserstein distance of
both distributions where all tokens are equally far from each other, the sum over places of |p - q|
with each side's probabilities in descending order. Which token has which probability is lost, so
CE is a part of it: alpha 0.4 is the paper's CE + 1.5 D, divided by 2.5.

`multilevel_ot` (MultiLevelOT, arXiv 2412.14528, section 3): D = H + b L + c W. Logits are
divided by their standard deviation over the vocabulary; of each text the k tokens with the largest
sums of probabilities are compared in that order, each side's own. H is the sum of |p - q| over
them, L of -p log q, and W the cost of Sinkhorn's plan that moves the teacher's tokens of the whole
text to the student's, by their L1 distance. alpha 0.4 is the released code's CE + 1.5 D, divided by
2.5.

`byte_kl` (ours): D is T^2 KL(p, q) of what comes next, a byte or the end of the turn: the sum of
the probabilities of all tokens that begin with it. It knows which byte is which, is exact for any
two tokenizers, and is 0 where both models think alike.

Departures: ULD and MultiLevelOT compare the t-th token of one side with the t-th of the other, up
to the shorter side's end, whatever text they are of; here both are of the same bytes. Their
released codes can leave out the end of text, which is trained and compared here. T multiplies D of
`uld`, whose slope falls with T alone, and no part of `multilevel_ot`. Of the latter's code some is
not repeated: tokens ranked over a whole batch, probabilities that are made probabilities once more
in L and W, L with teacher and student changed round, W times 0.001, and texts filled up with zeros.
Here the tokens of a text weigh 1 together on either side, so that W is a mean, and texts of
different lengths have a plan.
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


class MultiLevelOt(AcrossTokenizers):
    label: ClassVar[str] = "MultiLevelOT"
    described: ClassVar[str] = "MultiLevelOT"
    colour: ClassVar[str] = "#b3475b"
    terms: ClassVar[dict[str, str]] = {
        "ce": "Cross-entropy",
        "absolute": "Distance of a text's likeliest tokens",
        "logarithmic": "Cross-entropy of a text's likeliest tokens",
        "transport": "Cost of moving a text's tokens",
    }

    kind: Literal["multilevel_ot"] = "multilevel_ot"
    alpha: float = Field(
        default=0.4, gt=0, lt=1, description="Share of the cross-entropy of the teacher's text."
    )
    k: int = Field(default=50, ge=1, description="Likeliest tokens of a text that are compared.")
    logarithmic: float = Field(
        default=0.1, ge=0, description="Weight of the logarithmic cost beside the absolute one."
    )
    transport: float = Field(
        default=0.1, ge=0, description="Weight of moving a text's tokens beside the absolute cost."
    )
    epsilon: float = Field(default=0.1, gt=0, description="Share of the entropy in the plan.")
    iterations: int = Field(default=10, ge=1, description="Iterations of Sinkhorn's plan.")

    @property
    def across(self) -> Across:
        return Across("levels", self.temperature, self.k, self.epsilon, self.iterations)

    def __call__(self, outputs: Outputs, batch: LossBatch) -> list[Term]:
        absolute_K, logarithmic_K, transport_K = outputs.spans
        share = 1 - self.alpha
        cost_C = batch.weight * batch.sum_tokens(transport_K)
        denominator = "completions" if self.weighting == "uniform" else "groups"
        return [
            self._term("ce", -outputs.logprob, batch, self.alpha),
            self._term_of_spans("absolute", absolute_K, batch, share),
            self._term_of_spans("logarithmic", logarithmic_K, batch, share * self.logarithmic),
            Term("transport", cost_C.sum(), denominator, share * self.transport),
        ]


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
