"""Whether a completion keeps the paper's format: think, answer, box."""

from typing import Literal, NamedTuple

from pydantic import Field

from fastdistill_ray.knobs import Knobs
from fastdistill_ray.text import Tag, is_blank, scan


class FormatKnobs(Knobs):
    """One <think>..</think>, then one <answer>..</answer>, and a box after </think>."""

    mode: Literal["strict", "lenient", "parts"] = Field(
        default="strict",
        description="strict: nothing but white space around the two blocks; lenient: other text "
        "may stand around them; parts: one third for each of think, answer, box.",
    )

    empty_think: bool = Field(
        default=False, description="Also a <think> block with nothing in it keeps the format."
    )


class FormatCheck(NamedTuple):
    """Parts of the template a completion keeps; `whole` is all of them as the mode demands."""

    think: bool
    answer: bool
    box: bool
    whole: bool


def check_format(
    text: str, mode: Literal["strict", "lenient", "parts"], *, empty_think: bool = False
) -> FormatCheck:
    """One <think> block, filled unless `empty_think`, then one <answer> block, and a filled box
    after </think>."""
    found = scan(text)
    think = [tag for tag in found.tags if tag.name == "think"]
    answer = [tag for tag in found.tags if tag.name == "answer"]
    has_think, has_answer = _is_one_block(think), _is_one_block(answer)
    if has_think and not empty_think:
        has_think = bool(text[think[0].end : think[1].start].strip())
    if has_think and has_answer and answer[0].start < think[1].end:
        has_answer = False
    reasoning_end = max((tag.end for tag in think if tag.is_closing), default=0)
    has_box = any(
        box.start >= reasoning_end and not is_blank(text[box.start : box.end])
        for box in found.boxes
    )
    is_whole = has_think and has_answer and has_box
    if is_whole and mode == "strict":
        outside = (
            text[: think[0].start] + text[think[1].end : answer[0].start] + text[answer[1].end :]
        )
        is_whole = not outside.strip()
    return FormatCheck(has_think, has_answer, has_box, is_whole)


def _is_one_block(tags: list[Tag]) -> bool:
    return [tag.is_closing for tag in tags] == [False, True]


def format_score(text: str, knobs: FormatKnobs) -> float:
    """1 or 0; with mode parts a third for each part."""
    check = check_format(text, knobs.mode, empty_think=knobs.empty_think)
    if knobs.mode == "parts":
        return (check.think + check.answer + check.box) / 3
    return float(check.whole)
