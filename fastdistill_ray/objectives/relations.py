"""The teacher's distribution and how its tokens relate to each other: MiniLM on its texts.

L = alpha CE + (1 - alpha) T^2 KL(p, q) + beta times a sum of KL(R of the teacher, R of the student)
over relations R of a block of each model, softmax(scale X Y^T) in each of some heads, the mean over
heads. MiniLM (arXiv 2002.10957, section 3): attention as it is computed, and the values related to
themselves, in the models' own heads, of which both have as many. MiniLMv2 (arXiv 2012.15828,
section 3): queries, keys and values each related to themselves, split anew into `relation_heads`,
never head by head, so that models may have any widths and heads, and grouped keys need no copies.

Departures: the papers have the relations alone, which leave the blocks above and the head
untrained; here the distribution trains these. A decoder's token sees none after it, so a row of R
is of the tokens up to it, and rows are those of the trained tokens: of their own text and as much
of the prompts' ends as both models read, the whole prompt where it is one; MiniLM's attention is
that to these, made to sum to 1. MiniLMv2's X is what a projection gives, as in the paper, whose
models know positions from their embeddings: rotary ones, and norms of queries and keys, come after
it and are left out; MiniLM has both. MiniLM's teacher assistants are other recipes.
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


class FromRelations(FromDistribution):
    """What both kinds share; each has `kind` and `num_heads`."""

    terms: ClassVar[dict[str, str]] = {
        **FromDistribution.terms,
        "relations": "Distance of relations",
    }
    divergence: ClassVar[Divergence] = "forward_kl"

    layers: Annotated[list[tuple[Block, Block]], Field(min_length=1, max_length=1)] = Field(
        description="One pair: a block of the student and one of the teacher, from 0, whose "
        "queries, keys and values are related.",
    )
    beta: float = Field(default=1.0, gt=0, description="Weight of the relations.")

    @property
    def num_heads(self) -> int:
        """As `Relations` has it."""
        raise NotImplementedError

    @property
    def needs(self) -> Needs:
        return super().needs._replace(relations=Relations(self.layers[0], self.num_heads))

    def __call__(self, outputs: Outputs, batch: LossBatch) -> list[Term]:
        values_K = self.beta * sum(outputs.relations)
        return [*super().__call__(outputs, batch), self._term("relations", values_K, batch, 1.0)]


class MiniLm(FromRelations):
    label: ClassVar[str] = "MiniLM"
    described: ClassVar[str] = "MiniLM"
    colour: ClassVar[str] = "#3d9a8b"

    kind: Literal["minilm"] = "minilm"

    @property
    def num_heads(self) -> int:
        return 0


class MiniLmV2(FromRelations):
    label: ClassVar[str] = "MiniLMv2"
    described: ClassVar[str] = "MiniLMv2"
    colour: ClassVar[str] = "#2f6f4f"

    kind: Literal["minilmv2"] = "minilmv2"
    relation_heads: int = Field(
        default=16,
        ge=1,
        description="Heads that queries, keys and values of both models are split into; it divides "
        "the widths of all of them.",
    )

    @property
    def num_heads(self) -> int:
        return self.relation_heads
