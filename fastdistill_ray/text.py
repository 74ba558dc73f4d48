"""What can be said of a text without a reference: its tags and boxes, how much it repeats."""

import functools
import re
from typing import NamedTuple

LOOP_WORDS, LOOP_REPEATS = 4, 3  # of the degenerate rate: k and m


def rep_n(text: str, n: int) -> float:
    """1 - different n-grams / n-grams of white-space words; 0 for fewer than n words."""
    words = text.split()
    ngrams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1.0 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


@functools.lru_cache(maxsize=4096)
def count_loops(text: str, min_words: int = LOOP_WORDS, min_repeats: int = LOOP_REPEATS) -> int:
    """Stretches where a phrase of `min_words` or more words stands `min_repeats` times in a row.

    Read from the left, the shortest phrase first; stretches do not overlap.
    """
    words = text.split()
    loops = start = 0
    while start + min_words * min_repeats <= len(words):
        end = _loop_end(words, start, min_words, min_repeats)
        loops += end > start
        start = max(end, start + 1)
    return loops


def _loop_end(words: list[str], start: int, min_words: int, min_repeats: int) -> int:
    """Where the loop that begins at `start` ends, or `start` where none begins."""
    for length in range(min_words, (len(words) - start) // min_repeats + 1):
        if words[start] != words[start + length]:
            continue
        phrase, end = words[start : start + length], start + length
        while words[end : end + length] == phrase:
            end += length
        if end - start >= length * min_repeats:
            return end
    return start


_TOKEN = re.compile(r"(?i:</?(?:think|answer)\s*>)|\\\\?(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_TAG = re.compile(r"<(/?)(think|answer)\s*>", re.IGNORECASE)

_BLANK = re.compile(r"(?:\\[,;:! ]|[\s${}~*])*+")

BOX_START = re.compile(r"(?<!\\)\\++(?:boxed|fbox)")


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


def scan(text: str) -> Scan:
    return Scan(find_tags(text), find_boxes(text))


def find_tags(text: str) -> list[Tag]:
    """All think and answer tags, in order."""
    return [
        Tag(match[2].lower(), bool(match[1]), match.start(), match.end())
        for match in _TAG.finditer(text)
    ]


def find_boxes(text: str) -> list[Box]:
    """All complete boxes in order of their ends; a box never spans a tag."""
    first = BOX_START.search(text)
    boxes: list[Box] = []
    open_braces: list[int] = []  # start of a box's content, or -1 for a plain brace
    for match in _TOKEN.finditer(text, first.start()) if first else ():
        token = match.group()
        if token[0] == "<":
            open_braces.clear()
        elif token == "{":
            open_braces.append(-1)
        elif token == "}":
            start = open_braces.pop() if open_braces else -1
            if start >= 0:
                boxes.append(Box(start, match.start()))
        elif token.endswith("{") and len(token) > 2:
            open_braces.append(match.end())
    return boxes


def is_blank(answer: str) -> bool:
    """Nothing but white space, dollar signs, braces and LaTeX spaces."""
    return _BLANK.fullmatch(answer) is not None
