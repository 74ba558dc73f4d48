"""The teacher's distribution, and each part of the student on the teacher's own states: LIT.

L = alpha CE + (1 - alpha) T^2 KL(p, q) + beta times the sum over pairs of blocks of the mean of
(S(t) - t')^2 over the width, at every token (arXiv 1810.01937): S is the student's part
from behind the pair before to this pair's block, t what the teacher has where that part begins, and
t' what it has where the part ends. So no part waits for those before it. The first one begins with
the student's own embeddings.

Departures: the paper trains the blocks alone, with the teacher's own first and last layers, and the
distribution once more at the end; here everything is trained from the first step on, and
`student.init.layers` can begin it with the teacher's layers. Its (1 - beta) / beta is the weight
beta here, small for the same reason as in `projected`; its alpha .95 is of an image's label.
"""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from fastdistill_ray.objectives.contract import Needs, Tensor
from fastdistill_ray.objectives.hidden import OfBlocks


class Lit(OfBlocks):
    label: ClassVar[str] = "LIT"
    described: ClassVar[str] = "LIT"
    colour: ClassVar[str] = "#a05195"

    kind: Literal["lit"] = "lit"
    beta: float = Field(default=0.01, gt=0, description="Weight of the distance of the parts.")

    @field_validator("layers")
    @classmethod
    def _in_order(cls, layers: list[tuple[int, int]]) -> list[tuple[int, int]]:
        for side in (0, 1):
            blocks = [pair[side] for pair in layers]
            if sorted(set(blocks)) != blocks:
                raise ValueError(f"{blocks} are no parts one after the other; let them rise")
        return layers

    @property
    def needs(self) -> Needs:
        return super().needs._replace(fed=True)

    def distance(self, student_KD: Tensor, teacher_KD: Tensor) -> Tensor:
        return self.beta * (student_KD - teacher_KD).square().mean(-1)
