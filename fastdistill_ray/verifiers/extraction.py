"""The committed answer of a completion: where it stands and its text; nothing is compared here.

One left-to-right pass with a stack finds tags and boxes, so the time is linear in the text.
"""

import re
from typing import NamedTuple

_TOKEN = re.compile(r"(?i:</?(?:think|answer)\s*>)|\\\\?(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_STATED = re.compile(
    r"####|(?i:\banswer[*_]*\s*(?:is\b|:|=))|\u7b54\u6848\s*(?:\u662f|\u4e3a|:|\uff1a)"
)
_STATED_PADDING = re.compile(r"[\s:*_]*")
# A full stop ends the statement unless a digit follows, as in 3.5.
_STATED_END = re.compile(r"\n|\.(?=\s|$)|\u3002|</?(?i:think|answer)\b")
_LAST_NUMBER = re.compile(r"(?:(?<![\w)])-)?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_BOX_START = re.compile(r"\\(?:boxed|fbox)")


class Tag(NamedTuple):
    name: str
    is_closing: bool
    start: int
    end: int


class Box(NamedTuple):
    """A complete box; `start` and `end` delimit what stands between its braces."""

    start: int
    end: int


class Scan(NamedTuple):
    tags: list[Tag]
    boxes: list[Box]


class Extraction(NamedTuple):
    """`answer` is "" when there is none; `reason` says where it was found or why there is none."""

    answer: str
    reason: str


def scan(text: str) -> Scan:
    """All think and answer tags and all complete boxes, in order; a box never spans a tag."""
    tags: list[Tag] = []
    boxes: list[Box] = []
    open_braces: list[int] = []  # start of a box's content, or -1 for a plain brace
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token[0] == "<":
            open_braces.clear()
            name = token.strip("</> \t\r\n").lower()
            tags.append(Tag(name, token[1] == "/", match.start(), match.end()))
        elif token == "{":
            open_braces.append(-1)
        elif token == "}":
            start = open_braces.pop() if open_braces else -1
            if start >= 0:
                boxes.append(Box(start, match.start()))
        elif token.endswith("{") and len(token) > 2:
            open_braces.append(match.end())
    return Scan(tags, boxes)


def is_blank(answer: str) -> bool:
    """Nothing but white space, dollar signs, braces and LaTeX spaces."""
    return not re.sub(r"\\[,;:! ]|[\s${}~*]", "", answer)


def extract_answer(
    text: str, *, stated_answers: bool, boxes_outside_answer: bool, is_cut: bool
) -> Extraction:
    """The answer by rules 1 and 2 of the contract; `is_cut`: the token limit ended the text."""
    found = scan(text)
    blocks, opened = _answer_blocks(found.tags)
    filled = [block for block in blocks if not is_blank(text[block.start : block.end])]
    if filled:
        return _from_block(text, found, filled[-1], stated_answers)
    if blocks:
        return Extraction("", "the answer block is empty")
    if boxes_outside_answer:
        # A block that was begun and cut is not an answer, and what stands before it was not meant.
        box = _last_box(text, found.boxes, Box(opened or 0, len(text)))
        if box:
            return Extraction(box, "last box")
    if opened is not None:
        return Extraction("", "the answer block is not closed")
    if stated_answers:
        return _stated(text, is_cut)
    return Extraction("", "no answer")


def last_number(text: str) -> str:
    """The last number of the text as written, "" when there is none."""
    numbers = _LAST_NUMBER.findall(text)
    return numbers[-1].rstrip(",") if numbers else ""


def _answer_blocks(tags: list[Tag]) -> tuple[list[Box], int | None]:
    """Closed answer blocks, and where a last unclosed one begins."""
    blocks: list[Box] = []
    opened: int | None = None
    for tag in tags:
        if tag.name != "answer":
            continue
        if not tag.is_closing:
            opened = tag.end
        elif opened is not None:
            blocks.append(Box(opened, tag.start))
            opened = None
    return blocks, opened


def _last_box(text: str, boxes: list[Box], within: Box) -> str:
    for box in reversed(boxes):
        inside = within.start <= box.start and box.end <= within.end
        if inside and not is_blank(text[box.start : box.end]):
            return text[box.start : box.end].strip()
    return ""


def _from_block(text: str, found: Scan, block: Box, stated_answers: bool) -> Extraction:
    box = _last_box(text, found.boxes, block)
    if box:
        return Extraction(box, "last box of the answer block")
    content = text[block.start : block.end].strip()
    if _BOX_START.search(content):
        return Extraction("", "the box in the answer block is empty or not closed")
    if stated_answers:
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
