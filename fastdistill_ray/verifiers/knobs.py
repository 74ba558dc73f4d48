"""How completions are judged, from a recipe."""

from pydantic import Field

from fastdistill_ray.knobs import Knobs


class VerifierKnobs(Knobs):
    time_limit: float = Field(default=1.0, gt=0, description="CPU seconds per answer.")
    memory_limit_gib: float = Field(
        default=2.0, gt=0, description="Most address space of a judging worker."
    )
    stated_answers: bool = Field(
        default=True,
        description="Without a block or a box, accept 'the answer is ...' and '#### ...'.",
    )
    unboxed_blocks: bool = Field(
        default=True, description="In an <answer> block without a box, accept the block's text."
    )
    boxes_outside_answer: bool = Field(
        default=True,
        description="Without an <answer> block, accept the last complete box of the text.",
    )
    several_boxes: bool = Field(
        default=False,
        description="Boxes at the end with nothing but punctuation or 'and' between them are the "
        "items of one list, where the answer is of kind list.",
    )
    last_number: bool = Field(
        default=False, description="Without any of these, the last number (evaluation only)."
    )
