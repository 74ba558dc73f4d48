"""Born-again networks (arXiv 1805.04770): a generation learns from texts and from the one before.

L = alpha CE + (1 - alpha) D_t at every token of the texts, p the former generation, q the student,
y the text's token. What D is of p (`knowledge`):

  whole       T^2 KL(p, q) at temperature T (eq. 3, "dark knowledge" and all);
  confidence  max p times -log q(y): the text, weighted by the former generation's confidence (CWTM,
              eq. 9);
  permuted    the cross-entropy of q with p, all but whose likeliest token are permuted (DKPP,
              eq. 10): T^2 times -max p log q(a) - (1 - max p) times the mean of log q(v) over all
              v but a, a being p's likeliest token.

Departures: CWTM's weights are divided by the step's tokens, the paper's by their own sum, which is
a factor of a whole step; DKPP takes the mean over all permutations where the paper draws one, so
that its gradient is that of the paper without the noise. Both were shown without labels; `alpha: 0`
is that.
"""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from fastdistill_ray.objectives.contract import Measure, Needs, Outputs, Tensor
from fastdistill_ray.objectives.distribution import FromTeacherTokens


class BornAgain(FromTeacherTokens):
    label: ClassVar[str] = "born-again"
    described: ClassVar[str] = "Born-again"
    colour: ClassVar[str] = "#8a5a2b"
    terms: ClassVar[dict[str, str]] = {
        "ce": "Cross-entropy",
        "knowledge": "What the generation before knows",
    }

    kind: Literal["born_again"] = "born_again"
    alpha: float = Field(
        default=0.5, ge=0, lt=1, description="Share of the cross-entropy of the text in the loss."
    )
    knowledge: Literal["whole", "confidence", "permuted"] = Field(
        default="whole",
        description="What is learnt of the generation before. whole: its distribution; confidence: "
        "how sure it is, as weight of the text (CWTM); permuted: that, and which token it finds "
        "likeliest (DKPP).",
    )

    @model_validator(mode="after")
    def _check_temperature(self) -> "BornAgain":
        if self.knowledge == "confidence" and self.temperature != 1:
            raise ValueError("temperature: with knowledge: confidence it is 1; leave it out")
        return self

    @property
    def needs(self) -> Needs:
        if self.knowledge == "whole":
            measure = Measure("forward_kl", temperature=self.temperature)
            return Needs(frozen="teacher", measure=measure)
        is_permuted = self.knowledge == "permuted"
        return Needs(frozen="teacher", likeliest=self.temperature, others=is_permuted)

    def describe(self) -> str:
        named = {"whole": "", "confidence": "CWTM", "permuted": "DKPP"}[self.knowledge]
        return ", ".join(filter(None, [super().describe(), named]))

    def compared(self, outputs: Outputs) -> Tensor:
        if self.knowledge == "whole":
            assert outputs.divergence is not None
            return outputs.divergence
        assert outputs.likeliest
        own, other = outputs.likeliest
        confidence_K = other[:, 0].exp()
        if self.knowledge == "confidence":
            return -confidence_K * outputs.logprob
        assert outputs.others is not None
        return -confidence_K * own[:, 0] - (1 - confidence_K) * outputs.others
