"""The committed answer of a completion: where it stands and its text; nothing is compared here.

One left-to-right pass with a stack finds tags and boxes, so the time is linear in the text.
"""

import re
from typing import NamedTuple

from fastdistill_ray.text import _BOX_START, Box, find_boxes, is_blank

_ANSWER_TAG = re.compile(r"<(/?)(?i:answer)\s*>")

_STATED = re.compile(
    r"####|(?i:\banswers?[*_]*\s*(?:is\b|are\b|:|=))|\u7b54\u6848\s*(?:\u662f|\u4e3a|:|\uff1a)"
)
_STATED_PADDING = re.compile(r"[\s:*_]*")
# A full stop ends the statement unless a digit follows, as in 3.5.
_STATED_END = re.compile(r"\n|\.(?=\s|$)|\u3002|</?(?i:think|answer)\b")
_LAST_NUMBER = re.compile(r"(?:(?<![\w)])-)?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
# The same words at the beginning of a box or block lead to the answer.
_STATED_LEAD = re.compile(
    r"(?:\\text\s*\{\s*)?(?:(?:so|thus|hence|therefore),?\s+)?(?:(?:the|my|our)\s+)?"
    r"(?:(?:final|correct|right)\s+)*answers?\s*(?:is\b|are\b|:|=)\s*:?\s*\}?",
    re.IGNORECASE,
)
_PLAIN_BOX = re.compile(r"\\boxed\{([^{}<\\]*)\}")


class Extraction(NamedTuple):
    """`answer` is "" when there is none; `reason` says where it was found or why there is none."""

    answer: str
    reason: str


class Rules(NamedTuple):
    """Where an answer may stand besides in a box of an answer block."""

    unboxed_blocks: bool
    boxes_outside_answer: bool
    stated_answers: bool


def extract_answer(text: str, rules: Rules, *, is_cut: bool) -> Extraction:
    """The answer by rules 1 and 2 of the contract; `is_cut`: the token limit ended the text."""
    found = _find_answer(text, rules, is_cut)
    lead = None if found.answer[:1].isdigit() else _STATED_LEAD.match(found.answer)
    return found._replace(answer=_after_lead(found.answer, lead.end())) if lead else found


def _find_answer(text: str, rules: Rules, is_cut: bool) -> Extraction:
    blocks, opened = _answer_blocks(text)
    filled = [
        content for content in (text[b.start : b.end] for b in blocks) if not is_blank(content)
    ]
    if filled:
        return _from_block(filled[-1].strip(), rules)
    if blocks:
        return Extraction("", "the answer block is empty")
    if rules.boxes_outside_answer:
        # A block that was begun and cut is not an answer, and what stands before it was not meant.
        box = _last_box(text[opened or 0 :])
        if box:
            return Extraction(box, "last box")
    if opened is not None:
        return Extraction("", "the answer block is not closed")
    if rules.stated_answers:
        return _stated(text, is_cut)
    return Extraction("", "no answer")


def _after_lead(answer: str, start: int) -> str:
    """`The answer is 42` inside a box or block is 42."""
    rest = answer[start:].strip()
    if rest.endswith("}") and rest.count("}") > rest.count("{"):
        rest = rest[:-1]
    return answer if is_blank(rest) else rest


def last_number(text: str) -> str:
    """The last number of the text as written, "" when there is none."""
    numbers = _LAST_NUMBER.findall(text)
    return numbers[-1].rstrip(",") if numbers else ""


def _answer_blocks(text: str) -> tuple[list[Box], int | None]:
    """Closed answer blocks, and where a last unclosed one begins."""
    blocks: list[Box] = []
    opened: int | None = None
    for match in _ANSWER_TAG.finditer(text):
        if not match[1]:
            opened = match.end()
        elif opened is not None:
            blocks.append(Box(opened, match.start()))
            opened = None
    return blocks, opened


def _last_box(text: str) -> str:
    if plain := _PLAIN_BOX.fullmatch(text):  # most answers; a third faster than the walk
        return "" if is_blank(plain[1]) else plain[1].strip()
    for box in reversed(find_boxes(text)):
        if not is_blank(text[box.start : box.end]):
            return text[box.start : box.end].strip()
    return ""


def _from_block(content: str, rules: Rules) -> Extraction:
    box = _last_box(content)
    if box:
        return Extraction(box, "last box of the answer block")
    if _BOX_START.search(content):
        return Extraction("", "the box in the answer block is empty or not closed")
    if not rules.unboxed_blocks:
        return Extraction("", "the answer block has no box")
    if rules.stated_answers:
        stated = _stated(content, is_cut=False)
        if stated.answer:
            return stated
    return Extraction(content, "answer block")


def _stated(text: str, is_cut: bool) -> Extraction:
    """The last stated answer; one that the end of a cut text ends is not complete."""
    last: re.Match[str] | None = None
    for match in _STATED.finditer(text):
        last = match
    if last is None:
        return Extraction("", "no answer")
    padding = _STATED_PADDING.match(text, last.end())
    start = padding.end() if padding else last.end()
    stop = _STATED_END.search(text, start)
    if stop is None and is_cut:
        return Extraction("", "the stated answer is cut")
    answer = text[start : stop.start() if stop else len(text)].strip(" \t\r\n*_")
    if is_blank(answer) or _BOX_START.search(answer):
        return Extraction("", "the stated answer is empty")
    return Extraction(answer, "stated answer")
