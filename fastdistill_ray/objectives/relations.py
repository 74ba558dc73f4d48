"""The teacher's distribution and how its tokens relate to each other: MiniLMv2 on its texts.

L = alpha CE + (1 - alpha) T^2 KL(p, q) + beta times the sum, over the queries, keys and values of a
block of each model, of KL(R of the teacher, R of the student), with R = softmax(X X^T / sqrt(d)) of
a token's X, split into A heads of d numbers, and the mean over heads (arXiv 2012.15828, section 3).
Both models may have any width and any number of heads: they are split anew into `relation_heads`,
never head by head, so that grouped keys and values need no copies.

Departures: the paper has the relations alone, which leave the blocks above and the head untrained;
here the distribution trains these. A decoder's token sees none after it, so a row of R is of the
tokens before, and rows are those of the trained tokens: of their own text and as much of the
prompts' ends as both models read, the whole prompt where it is one. X is what the projection gives,
as the paper's is; rotary positions and norms of queries and keys come after it and are left out.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fastdistill_ray.objectives.contract import (
    Divergence,
    LossBatch,
    Needs,
    Outputs,
    Relations,
    Term,
)
from fastdistill_ray.objectives.distribution import FromDistribution
from fastdistill_ray.objectives.hidden import Block


class MiniLmV2(FromDistribution):
    label: ClassVar[str] = "MiniLMv2"
    described: ClassVar[str] = "MiniLMv2"
    colour: ClassVar[str] = "#2f6f4f"
    terms: ClassVar[dict[str, str]] = {
        **FromDistribution.terms,
        "relations": "Distance of relations",
    }
    divergence: ClassVar[Divergence] = "forward_kl"

    kind: Literal["minilmv2"] = "minilmv2"
    layers: Annotated[list[tuple[Block, Block]], Field(min_length=1, max_length=1)] = Field(
        description="One pair: a block of the student and one of the teacher, from 0, whose "
        "queries, keys and values are related.",
    )
    relation_heads: int = Field(
        default=16,
        ge=1,
        description="Heads that queries, keys and values of both models are split into; it divides "
        "the widths of all of them.",
    )
    beta: float = Field(default=1.0, gt=0, description="Weight of the relations.")

    @property
    def needs(self) -> Needs:
        relations = Relations(self.layers[0], self.relation_heads)
        return super().needs._replace(relations=relations)

    def __call__(self, outputs: Outputs, batch: LossBatch) -> list[Term]:
        values_K = self.beta * sum(outputs.relations)
        return [*super().__call__(outputs, batch), self._term("relations", values_K, batch, 1.0)]
