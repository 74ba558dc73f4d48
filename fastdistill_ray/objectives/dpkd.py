"""Direct Preference KD (arXiv 2406.19774), its token form: where teacher and student would say
different tokens, the teacher's is preferred.

L_t = -log sigmoid(beta ((log q - log p)(a) - (log q - log p)(b))) at every token of the teacher's
texts, a the teacher's likeliest token and b the student's, p the teacher's distribution, which is
the reference, and q the student's; L = alpha CE + (1 - alpha) L_t, as the released code has it.

Departures: the paper's sequence form prefers whole texts of the teacher to texts of the student,
which writes none here; a token on which both agree is 0 where the code counts a constant log 2.
"""

from typing import ClassVar, Literal

from pydantic import Field

from fastdistill_ray.objectives.contract import Needs, Outputs, Tensor
from fastdistill_ray.objectives.distribution import FromTeacherTokens


class Dpkd(FromTeacherTokens):
    label: ClassVar[str] = "DPKD"
    described: ClassVar[str] = "DPKD"
    colour: ClassVar[str] = "#b0486b"
    terms: ClassVar[dict[str, str]] = {
        "ce": "Cross-entropy",
        "preference": "Preference for the teacher's token",
    }
    slope: ClassVar[int] = 1

    kind: Literal["dpkd"] = "dpkd"
    alpha: float = Field(
        default=0.5, ge=0, lt=1, description="Share of the cross-entropy of the teacher's text."
    )
    beta: float = Field(
        default=0.1, gt=0, description="Strength with which the teacher holds the student."
    )

    @property
    def needs(self) -> Needs:
        return Needs(frozen="teacher", likeliest=self.temperature)

    def compared(self, outputs: Outputs) -> Tensor:
        assert outputs.likeliest
        own, other = outputs.likeliest
        differ = other[:, 1].isfinite()
        ratio = (own - other).masked_fill(~differ[:, None], 0.0)
        margin = self.beta * (ratio[:, 0] - ratio[:, 1])
        return differ * (-margin).logaddexp(margin.new_zeros(()))  # finite however large
