"""The teacher's distribution and its hidden states: PKD and DistilBERT on the teacher's texts.

L = alpha CE + (1 - alpha) T^2 KL(p, q) + the weight of a distance of hidden states at every token.
PKD (arXiv 1908.09355, eq. 6 to 9): the sum over pairs of blocks of the squared distance of both
outputs, each divided by its norm; the last block is left to the distribution. DistilBERT (arXiv
1910.01108, section 2; the released code's 5, 2 and 1, here divided by 7): 1 minus the cosine of
the states that the heads read.

Departures: both papers are about encoders. PKD compares the state of [CLS] alone, here that of
every token that is trained; its code's mean over the width makes of beta 500 what is 0.65 here.
Student and teacher have one width: there is no projection between them.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from fastdistill_ray.objectives.contract import (
    LAST,
    Divergence,
    LossBatch,
    Needs,
    Outputs,
    Tensor,
    Term,
)
from fastdistill_ray.objectives.distribution import FromDistribution

SHORTEST = 1e-12  # of two lengths' product
Block = Annotated[int, Field(ge=0)]


class FromHidden(FromDistribution):
    """What both kinds share; each has `kind`, `pairs` and `distance`."""

    terms: ClassVar[dict[str, str]] = {
        **FromDistribution.terms,
        "hidden": "Distance of hidden states",
    }
    divergence: ClassVar[Divergence] = "forward_kl"

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        raise NotImplementedError

    @property
    def needs(self) -> Needs:
        return Needs(frozen="teacher", measure=self.measure, taps=self.pairs)

    def distance(self, student_KD: Tensor, teacher_KD: Tensor) -> Tensor:
        """[K]"""
        raise NotImplementedError

    def __call__(self, outputs: Outputs, batch: LossBatch) -> list[Term]:
        values_K = sum(self.distance(*pair) for pair in outputs.taps)
        return [*super().__call__(outputs, batch), self._term("hidden", values_K, batch, 1.0)]


class OfBlocks(FromHidden):
    """The recipe names the blocks whose outputs are compared."""

    layers: list[tuple[Block, Block]] = Field(
        min_length=1,
        description="Pairs of a block of the student and one of the teacher, from 0, whose outputs "
        "are compared.",
    )

    @field_validator("layers")
    @classmethod
    def _each_once(cls, layers: list[tuple[int, int]]) -> list[tuple[int, int]]:
        if len({student for student, _ in layers}) < len(layers):
            raise ValueError("a block of the student stands in two pairs; keep one")
        return layers

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        return tuple(self.layers)


class Pkd(OfBlocks):
    label: ClassVar[str] = "PKD"
    described: ClassVar[str] = "PKD"
    colour: ClassVar[str] = "#4f7a28"

    kind: Literal["pkd"] = "pkd"
    alpha: float = Field(
        default=0.3, ge=0, lt=1, description="Share of the cross-entropy of the teacher's text."
    )
    layers: list[tuple[Block, Block]] = Field(
        min_length=1,
        description="Pairs of a block of the student and one of the teacher, from 0, whose outputs "
        "are compared; neither may be the last.",
    )
    beta: float = Field(default=0.65, gt=0, description="Weight of the distance of hidden states.")

    def distance(self, student_KD: Tensor, teacher_KD: Tensor) -> Tensor:
        """beta times the squared distance of two vectors of length 1."""
        return 2 * self.beta * (1 - _cosine(student_KD, teacher_KD))


class DistilBert(FromHidden):
    label: ClassVar[str] = "DistilBERT"
    described: ClassVar[str] = "DistilBERT"
    colour: ClassVar[str] = "#8c6bb1"

    kind: Literal["distilbert"] = "distilbert"
    alpha: float = Field(
        default=0.286, ge=0, lt=1, description="Share of the cross-entropy of the teacher's text."
    )
    temperature: float = Field(
        default=2.0, gt=0, description="Temperature of the teacher's and the student's softmax."
    )
    cosine: float = Field(
        default=0.143, gt=0, description="Weight of 1 minus the cosine of the last hidden states."
    )

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        return ((LAST, LAST),)

    def distance(self, student_KD: Tensor, teacher_KD: Tensor) -> Tensor:
        return self.cosine * (1 - _cosine(student_KD, teacher_KD))


def _cosine(student_KD: Tensor, teacher_KD: Tensor) -> Tensor:
    """0 of a state that is 0, as after the embedding of padding."""
    lengths_K = student_KD.norm(dim=-1) * teacher_KD.norm(dim=-1)
    return (student_KD * teacher_KD).sum(-1) / lengths_K.clamp(min=SHORTEST)
