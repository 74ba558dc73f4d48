"""The teacher's distribution and its hidden states, of another width than the student's:
FitNets and TinyBERT on the teacher's texts.

L = alpha CE + (1 - alpha) T^2 KL(p, q) + beta times a distance, at every token, of the teacher's
states to r(h), the student's through a matrix r that is trained with it and that no export has.
FitNets (arXiv 1412.6550, section 2.2): half the squared distance at one pair of blocks. TinyBERT
(arXiv 1909.10351, section 3): the mean of the squared differences over the width, summed over pairs
of blocks and the embeddings, with one r for all of them, as its released code has.

Departures: both papers train the states first and the distribution after them; here one loss has
both from the first step on, by constant shares. FitNets: r is a matrix, where its convolutions have
a bias; its lambda, which falls from 4 to 1, stays at 4 (alpha 0.2), and T^2 keeps the size of the
gradient. TinyBERT: its loss of attention maps is left out, which no kernel that trains here gives;
its soft cross-entropy is the KL and a constant, without the code's division by the vocabulary; its
general stage and its augmented texts are other recipes. Both papers are of other networks than
decoders, whose states are large, most of all a few of their numbers, which own a squared distance:
at 576 numbers a squared length is 10^4 and more. So beta is small by default; TinyBERT's own is 1.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fastdistill_ray.objectives.contract import FIRST, Needs, Tensor
from fastdistill_ray.objectives.hidden import Block, OfBlocks


class Projected(OfBlocks):
    @property
    def needs(self) -> Needs:
        return super().needs._replace(bridge=True)


class FitNets(Projected):
    label: ClassVar[str] = "FitNets"
    described: ClassVar[str] = "FitNets"
    colour: ClassVar[str] = "#b58900"

    kind: Literal["fitnets"] = "fitnets"
    alpha: float = Field(
        default=0.2, ge=0, lt=1, description="Share of the cross-entropy of the teacher's text."
    )
    temperature: float = Field(
        default=3.0, gt=0, description="Temperature of the teacher's and the student's softmax."
    )
    layers: Annotated[list[tuple[Block, Block]], Field(min_length=1, max_length=1)] = Field(
        description="One pair: the block of the student that is guided and the block of the "
        "teacher, from 0, that gives the hint.",
    )
    beta: float = Field(default=0.0001, gt=0, description="Weight of the hint.")

    def distance(self, student_KD: Tensor, teacher_KD: Tensor) -> Tensor:
        return self.beta / 2 * (student_KD - teacher_KD).square().sum(-1)


class TinyBert(Projected):
    label: ClassVar[str] = "TinyBERT"
    described: ClassVar[str] = "TinyBERT"
    colour: ClassVar[str] = "#5d6d1e"

    kind: Literal["tinybert"] = "tinybert"
    beta: float = Field(
        default=0.01, gt=0, description="Weight of the distance of embeddings and hidden states."
    )

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        return ((FIRST, FIRST), *self.layers)

    def distance(self, student_KD: Tensor, teacher_KD: Tensor) -> Tensor:
        return self.beta * (student_KD - teacher_KD).square().mean(-1)
