"""Mathematical equality: tuples, intervals, sets, lists and unions by own rules, their parts by
exact value, as words, or, when nothing else decides, by a sympy process.

`Means.ask(reference, answer)` returns a verdict of `worker.compare`, or raises TimeoutError.
"""

import contextlib
import itertools
import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from fastdistill_ray.verifiers.cleaning import clean, comparable, exact_notation, unwrap
from fastdistill_ray.verifiers.fingerprints import is_identical
from fastdistill_ray.verifiers.intervals import ALL_REALS, as_range
from fastdistill_ray.verifiers.latex import BOMB, NAMES, depth, to_latex
from fastdistill_ray.verifiers.numbers import (
    NotANumber,
    Number,
    TooLarge,
    is_equal,
    parse_number,
    without_statement,
)

MAX_ANSWER = 600  # characters
MAX_ITEMS = 64  # of a list
MAX_BRACES = 30  # nested


class Means(NamedTuple):
    """`ask` is the sympy process; numbers at most `tolerance` apart are equal, None: exact."""

    ask: Callable[[str, str], str]
    tolerance: Fraction | None = None


class Unreadable(Exception):
    """The answer is not mathematics that may be parsed; says why."""


class Structure(NamedTuple):
    """shape: atom, tuple (brackets say which), set, list, union or matrix (brackets: its rows'
    lengths); an atom is its only item.
    """

    shape: str
    brackets: str
    items: list[str]


_OPENERS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}
_PIECE = re.compile(
    r"\\(?:[{}|]|cup(?![A-Za-z])|pm(?![A-Za-z])|[A-Za-z]+|.)"
    r"|(?<=[ }\d])(?:or|and)(?= )|[()\[\]{},;]|.",
    re.DOTALL,
)
_MEMBER = re.compile(r"[A-Za-z] ?\\in(?![A-Za-z]) ?")
_ASSIGNED = re.compile(
    r"(?:\([A-Za-z](?:_\w)?(?: ?, ?[A-Za-z](?:_\w)?)+\)"
    r"|[A-Za-z](?:_\w|'|\([A-Za-z](?:,[A-Za-z])*\))?) ?= ?(?=[^=])"
)
_THOUSANDS = re.compile(r"(?<![\d,.])[1-9]\d{0,2}(?:,\d{3})+(?![\d,]*\d)")
_ZERO_ITEM = re.compile(r"(?<=\d),0\d\d(?!\d)")
_PAIR = re.compile(r"[(\[][^()\[\]]*,[^()\[\]]*[)\]]$")
_POINT = re.compile(r"[A-Z] ?=? ?(?=\([^()]*,[^()]*\)$)")
_BASE = re.compile(r"\d_|(?<![<>=]):")
_RELATION = re.compile(r"[<>=]|\\(?:n?[lg]eq?|leqslant|geqslant|neq?|in)(?![A-Za-z])")
_SYNONYMS = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (
            r"\\(?:mathbb|mathbf|Bbb) ?(?:\{ ?R ?\}|R(?![A-Za-z]))|\u211d",
            ALL_REALS.replace("\\", r"\\"),
        ),
        (r"\\varnothing(?![A-Za-z])|\\\{ *\\\}", r"\\emptyset"),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\langle(?![A-Za-z])", "("),
        (r"\\rangle(?![A-Za-z])", ")"),
        (r"\\[lr]vert(?![A-Za-z])", "|"),
        (r"\\colon(?![A-Za-z])", ":"),
        # Data sets lost spaces: \pir is \pi r.
        (r"\\(pi|theta|alpha|beta|phi|ln|cdot|times)(?=[A-Za-z])", r"\\\1 "),
        (r"\\(sin|cos|tan|log)(?=[A-Za-gi-z])", r"\\\1 "),
        (r"\\(?:lor|vee)(?![A-Za-z])", " or "),
        (r"\\(?:land|wedge)(?![A-Za-z])", " and "),
        (r"\\(?:mathrm|text|mathit) ?\{ ?([ie]) ?\}(?!\^[23])", r"\1"),
    )
)
_MATRIX = re.compile(r"\\begin\{[a-zA-Z]?matrix\}.*?\\end", re.DOTALL)
_LONE_BACKSLASH = re.compile(r"(?<!\\)\\(?=[-\d])")
# After a space a unit, before which 5 is the value: `5 m`, but not 5m or 5 x.
_UNIT_AFTER_NUMBER = re.compile(r"\d (?:[A-Za-z/]{2,}|[msghL])(?:\^\{?[23]\}?)?$")
_MATRIX_CELLS = re.compile(r"\\begin\{([pb]?matrix)\}(.*)\\end\{\1\}", re.DOTALL)
_FUNCTION = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(NAMES)})(?![A-Za-z])")
_EMPTY = ("empty set", "the empty set", "no solution", "no solutions", "no real solutions")
_CONJUNCTION = re.compile(r"\\(?:text|mbox|mathrm|textrm) ?\{\s*(,?\s*(?:or|and)|[,;])\s*\}")
_SIGNS = re.compile(r"\\(pm|mp)(?![A-Za-z])")
_BOTH = ({"pm": "+", "mp": "-"}, {"pm": "-", "mp": "+"})
_WORDS = re.compile(r"[^\W\d_]{2,}(?:[ '-][^\W\d_]+)*[.?!]?")
_LETTERS_OF_PRODUCTS = re.compile(r"[abcdkmnpqrstvwxyz]{2,3}")
_BARE_LETTERS = re.compile(
    r"(?<![A-Za-z\\])(?!(?<=\d)[eE][+-]?\d)[A-Za-z](?![A-Za-z])|(?<![A-Za-z\\])[A-Za-z]{2,}(?=[_^\d(])"
)


def is_equal_expression(reference: str, answer: str, by: Means) -> bool:
    """Raises Unreadable when the answer is no mathematics, TimeoutError when it takes too long."""
    if len(answer) > MAX_ANSWER or len(reference) > MAX_ANSWER:
        raise Unreadable("too long to parse")
    expected = [reading for side in _sides(_plain(reference)) for reading in _readings(side)]
    pairs = itertools.product(expected, _readings(_sides(_plain(answer))[0]))
    return any(_is_equal(*pair, by) for pair in pairs)


def _sides(text: str) -> list[str]:
    r"""`2/3 \approx 0.67` says both, the first exactly; `x \approx 0.67` only one."""
    if "\\approx" not in text:
        return [text]
    sides = [side.strip() for side in re.split(r"\\approx(?![A-Za-z])", text)]
    return [side for side in sides if side and not re.fullmatch(r"[A-Za-z]", side)] or [text]


def is_equal_list(reference: str, answer: str, by: Means) -> bool:
    """Kind list: square brackets, braces or none mean a list without order; () has an order."""
    if len(answer) > MAX_ANSWER or len(reference) > MAX_ANSWER:
        raise Unreadable("too long to parse")
    pairs = itertools.product(_readings(_plain(reference)), _readings(_plain(answer)))
    return any(_is_equal_list(*pair, by) for pair in pairs)


def _is_equal_list(reference: str, answer: str, by: Means) -> bool:
    expected, given = (_as_list(parse_structure(text)) for text in (reference, answer))
    if expected.shape == "tuple" and given.shape == "tuple":
        return _is_same_sequence(expected.items, given.items, by)
    return _is_same_collection(expected, given, by)


def _readings(text: str) -> list[str]:
    """`1,000, 2,500` is two numbers; `1,234` among other items may be one number or two."""
    joined = _THOUSANDS.sub(lambda number: number.group().replace(",", ""), text)
    if parse_structure(joined).shape != parse_structure(text).shape:
        return [text]  # (20,100) is a pair
    if joined == text or _ZERO_ITEM.search(text):
        return [joined]
    return [joined, text]


def _plain(text: str) -> str:
    text = clean(_CONJUNCTION.sub(r" \1 ", text))
    for pattern, plain in _SYNONYMS:
        text = pattern.sub(plain, text)
    # A row end that lost one of its backslashes on the way through JSON.
    text = _MATRIX.sub(lambda matrix: _LONE_BACKSLASH.sub(r"\\\\", matrix.group()), text)
    if unwrap(text).lower() in _EMPTY:
        return r"\emptyset"
    with contextlib.suppress(NotANumber):
        text = without_statement(text)
    return exact_notation(text)


def _as_list(structure: Structure) -> Structure:
    if structure.shape == "tuple" and structure.brackets == "[]":
        return structure._replace(shape="list")
    if structure.shape == "atom" and re.fullmatch(r"\[.*\]", structure.items[0]):
        return Structure("list", "", [structure.items[0][1:-1]])
    return structure


def parse_structure(text: str) -> Structure:
    """`text` is clean. (a,b) is a tuple or open interval, [a,b] closed, {a,b} a set, a,b a list."""
    text = _MEMBER.sub("", text, count=1) if _MEMBER.match(text) else text
    unions = _split(text, ("\\cup",))
    if len(unions) > 1:
        return Structure("union", "", unions)
    items = _split(text, (",", ";", "or", "and"))
    if len(items) > 1:
        return Structure("list", "", items)
    after = _ASSIGNED.match(text) or _POINT.match(text)
    body = text[after.end() :] if after else text
    matrix = _MATRIX_CELLS.fullmatch(body)
    if matrix and "\\begin" not in matrix[2]:
        rows = [row.split("&") for row in matrix[2].strip().removesuffix("\\\\").split("\\\\")]
        cells = [cell.strip() for row in rows for cell in row]
        return Structure("matrix", str([len(row) for row in rows]), cells)
    for opening, closing in (("\\{", "\\}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")):
        if body.startswith(opening) and body.endswith(closing) and _encloses(body):
            inside = _split(body[len(opening) : -len(closing)], (",", ";"))
            if opening == "\\{" and not re.search(r"[|:]|\\mid", body):
                return Structure("set", "", inside)
            if len(inside) > 1:
                return Structure("tuple", opening + closing, inside)
    return Structure("atom", "", [text])


def _split(text: str, separators: tuple[str, ...]) -> list[str]:
    """Parts of `text` between separators that stand outside all brackets."""
    parts, depth, start = [], 0, 0
    for match in _PIECE.finditer(text):
        piece = match.group()
        depth += _OPENERS.get(piece.lstrip("\\"), 0)
        if depth == 0 and piece in separators:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    parts.append(text[start:].strip())
    return [part for part in parts if part] if len(parts) > 1 else parts


def _encloses(text: str) -> bool:
    """The bracket that opens the text is closed at its very end."""
    depth = 0
    for match in _PIECE.finditer(text):
        depth += _OPENERS.get(match.group().lstrip("\\"), 0)
        if depth == 0:
            return match.end() == len(text)
    return False


def _is_equal(reference: str, answer: str, by: Means) -> bool:
    if comparable(reference) == comparable(answer):
        return True
    if _number(reference) is not None and _number(answer) is not None:
        return _is_equal_atom(reference, answer, by)
    ranges = _as_ranges(reference, answer)
    if ranges is None:
        return False
    if ranges != (reference, answer):
        return _is_equal(*ranges, by)
    expected, given = (_expanded(parse_structure(text)) for text in (reference, answer))
    if expected.shape == given.shape == "atom":
        return _is_equal_atom(reference, answer, by)
    if expected.shape == given.shape and expected.shape in ("tuple", "matrix"):
        same_brackets = expected.brackets == given.brackets
        return same_brackets and _is_same_sequence(expected.items, given.items, by)
    if "matrix" in (expected.shape, given.shape):
        is_computed = "\\begin" in reference and "\\begin" in answer  # as in 2 \begin{pmatrix}
        return is_computed and _ask(reference, answer, by)
    if {expected.shape, given.shape} <= {"list", "set"}:
        return _is_same_collection(expected, given, by)
    if expected.shape == given.shape == "union":
        return _is_same_collection(expected, given, by) or _ask(reference, answer, by)
    if {expected.shape, given.shape} == {"list", "union"}:
        return _is_same_collection(expected, given, by)
    if _RELATION.search(reference) or _RELATION.search(answer):
        is_assigned = _ASSIGNED.match(reference) or _ASSIGNED.match(answer)
        return not is_assigned and _ask(reference, answer, by)
    one, other = sorted((expected, given), key=lambda structure: len(structure.items))
    if r"\emptyset" in (reference, answer):
        return False
    if one.shape in ("set", "atom") and len(other.items) == 1:
        return _is_equal(one.items[0], other.items[0], by)
    return False


def _expanded(structure: Structure) -> Structure:
    """`a \\pm b` is the list of both."""
    if structure.shape not in ("atom", "list") or not any(map(_SIGNS.search, structure.items)):
        return structure
    items = []
    for item in structure.items:
        if _SIGNS.search(item):
            items += [_SIGNS.sub(lambda sign, both=both: both[sign[1]], item) for both in _BOTH]
        else:
            items.append(item)
    return Structure("list", "", items)


def _as_ranges(reference: str, answer: str) -> tuple[str, str] | None:
    """Inequalities as intervals, other texts as they are; None when the variables differ."""
    expected, given = as_range(reference), as_range(answer)
    names = {part.variable for part in (expected, given) if part and part.variable}
    if len(names) > 1:
        return None
    return expected.text if expected else reference, given.text if given else answer


def _is_same_sequence(reference: list[str], answer: list[str], by: Means) -> bool:
    if len(reference) != len(answer):
        return False
    return all(_is_equal(r, a, by) for r, a in zip(reference, answer, strict=True))


def _is_same_collection(reference: Structure, answer: Structure, by: Means) -> bool:
    """Same members in any order; how often one occurs counts in lists, not in sets."""
    expected, given = reference.items, answer.items
    if max(len(expected), len(given)) > MAX_ITEMS:
        raise Unreadable("too many items")
    if reference.shape == answer.shape == "set":
        expected = list({comparable(item): item for item in expected}.values())
        given = list({comparable(item): item for item in given}.values())
    if len(expected) != len(given):
        return False
    numbers = [_number(item) for item in (*expected, *given)]
    values = [number for number in numbers if isinstance(number, Fraction)]
    if by.tolerance and len(values) == len(numbers):
        pairs = zip(sorted(values[: len(given)]), sorted(values[len(given) :]), strict=True)
        return all(is_equal(one, other, by.tolerance) for one, other in pairs)
    remaining = list(expected)
    for item in given:
        # Equal writings first, so that sympy is asked only about the rest.
        ordered = sorted(remaining, key=lambda other: comparable(other) != comparable(item))
        match = next((other for other in ordered if _is_equal(other, item, by)), None)
        if match is None:
            return False
        remaining.remove(match)
    return True


def _is_equal_atom(reference: str, answer: str, by: Means) -> bool:
    reference, answer = _without_same_name(reference, answer)
    if comparable(reference) == comparable(answer):
        return True
    # A numeral of another base and a ratio are only what they are written as.
    if _BASE.search(reference) or _BASE.search(answer):
        return False
    expected, given = _number(reference), _number(answer)
    if expected is not None and given is None and _UNIT_AFTER_NUMBER.search(answer):
        with contextlib.suppress(NotANumber, TooLarge):
            given = parse_number(answer)
    if expected is not None and given is not None:
        return is_equal(expected, given, by.tolerance)
    if _is_word(reference) or _is_word(answer):
        return _word(reference) == _word(answer)
    return _ask(reference, answer, by)


def _without_same_name(reference: str, answer: str) -> tuple[str, str]:
    """`x=5` and `5` compare by value, and so do `x=5` and `x=6`; `y=2x` and `x=2y` do not."""
    named, given = _ASSIGNED.match(reference), _ASSIGNED.match(answer)
    if named and given and comparable(named.group()) != comparable(given.group()):
        return reference, answer
    # An equation between two expressions, 2x=3y, has no name to drop.
    if (named or "=" not in reference) and (given or "=" not in answer):
        return (
            reference[named.end() :] if named else reference,
            answer[given.end() :] if given else answer,
        )
    return reference, answer


def _number(text: str) -> Number | None:
    """The exact value, None when there is none; here a letter is a variable, not a unit."""
    if _PAIR.match(text) or _BARE_LETTERS.search(
        re.sub(r"\\(?:text|mathrm|mbox) ?\{[^{}]*\}", "", text)
    ):
        return None
    try:
        return parse_number(text)
    except NotANumber:
        return None
    except TooLarge as error:
        raise Unreadable("too large to evaluate") from error


def _word(text: str) -> str:
    return re.sub(r"^\((.*)\)$", r"\1", comparable(text).rstrip(".?!")).casefold()


def _is_word(text: str) -> bool:
    """Words are compared as words: `on` is not `no`, although o times n is n times o."""
    text = unwrap(text)
    if re.fullmatch(r"\(?[A-Z]\)?", text):
        return text[0] == "("
    if (
        not _WORDS.fullmatch(text)
        or _FUNCTION.search(text)
        or text.lower() in ("pi", "inf", "infinity", "oo")
    ):
        return False
    return not _LETTERS_OF_PRODUCTS.fullmatch(text) or text in ("by", "my")


def _ask(reference: str, answer: str, by: Means) -> bool:
    question = to_latex(answer)
    if len(re.findall(r"[{(\[]", question)) > MAX_BRACES * 4 or depth(question) > MAX_BRACES:
        raise Unreadable("nested too deeply")
    if BOMB.search(question):
        raise Unreadable("refused: too large to evaluate, or a sum, product or integral")
    if BOMB.search(to_latex(reference)):
        return False
    same = is_identical(to_latex(reference), question)
    if same or (same is False and not by.tolerance):
        return same
    verdict = by.ask(to_latex(reference), question)
    if verdict == "bad_answer":
        raise Unreadable("not an expression")
    if verdict == "bad_reference":
        return False
    if verdict not in ("equal", "different"):
        raise ChildProcessError(verdict)
    return verdict == "equal"
