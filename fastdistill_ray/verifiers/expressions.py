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
from fastdistill_ray.verifiers.intervals import ALL_REALS, INEQUALITY, LESS, MORE, as_range
from fastdistill_ray.verifiers.latex import BOMB, NAMES, depth, to_latex
from fastdistill_ray.verifiers.names import Lost, Names
from fastdistill_ray.verifiers.numbers import (
    NotANumber,
    Number,
    TooLarge,
    is_equal,
    parse_number,
    without_statement,
)
from fastdistill_ray.verifiers.words import DENYING, changes_value
from fastdistill_ray.verifiers.writings import (
    congruence,
    has_degrees,
    in_radians,
    lines_as_list,
    renamed,
    same_writing,
    spaced_as_list,
    value_of_limit,
    without_condition,
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
    r"|[A-Za-z](?:_\w|_\{[^{}=]{1,12}\}|_\\(?:max|min)|'+|\([A-Za-z](?:,[A-Za-z])*\))*"
    r"|\\frac ?\{ ?d ?[A-Za-z] ?\} ?\{ ?d ?[A-Za-z] ?\}|d[A-Za-z]/d[A-Za-z]"
    r"|[A-Z]{1,2} ?[:/] ?[A-Z]{1,2}|[a-z] ?: ?[a-z]"
    r"|\\(?:alpha|beta|gamma|theta|lambda|mu|rho|phi|omega|angle ?[A-Z]{1,3})) ?= ?(?=[^=])"
)
_NESTED = re.compile(r"\[ ?\[([^\[\]]*)\](?: ?, ?\[([^\[\]]*)\])* ?\]")
_CASES = re.compile(r"\\begin\{cases\}(.*)\\end\{cases\}", re.DOTALL)
_CLOCK = re.compile(r"(\d{1,2}:\d{2}) ?([AaPp]\.?[Mm]\.?)?")
_NUMERAL = re.compile(r"\(?([0-9A-Za-z]+)\)? ?_ ?\{? ?(\d+) ?\}?")
_LABELLED = re.compile(r"(?:\\text ?\{ ?)?[A-Z][A-Za-z]+ ?: ?\}? ?(?=[^ ])")
_UNIT_POWER = re.compile(
    r"(?:\\(?:text|mbox|mathrm|textrm) ?\{ ?([A-Za-z. ]+?) ?\} ?)"
    r"\^ ?\{? ?(\d) ?\}? ?\$?$"
)
_MARKED_EXPONENT = re.compile(r"\^ ?\{ ?\( ?\w ?\) ?\}")  # f^{(3)} is a derivative
_CLOSED_INFINITY = re.compile(r"\[ ?[-+]? ?\\infty|\\infty ?\]")
_SMALL_SUM = re.compile(
    r"\\(?:sum|prod) ?_ ?\{ ?[a-z] ?= ?-?\w{1,3} ?\} ?\^ ?(?:\w|\{ ?(?:[a-z]|\d{1,3}) ?\})"
    r"|\\lim ?_ ?\{ ?[a-z] ?\\to ?-?(?:\w{1,3}|\\infty) ?\}"
)
_THOUSANDS = re.compile(r"(?<![\d,.])[1-9]\d{0,2}(?:,\d{3})+(?![\d,]*\d)")
_ZERO_ITEM = re.compile(r"(?<=\d),0\d\d(?!\d)")
_PAIR = re.compile(r"[(\[][^()\[\]]*,[^()\[\]]*[)\]]$")
_POINT = re.compile(r"[A-Z] ?=? ?(?=\((?=[^()]*\d)[^()]*,[^()]*\)$)")
_BASE = re.compile(r"\d[A-Fa-f]*\)?_|[0-9A-Fa-f]{2,} ?_ ?\{? ?16|(?<![<>=]):")
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
        (r"\\(?:mathrm|text|mathit) ?\{ ?([ie]) ?\}(?!\^[23])", r"\1"),
    )
)
_MATRIX = re.compile(r"\\begin\{[a-zA-Z]?matrix\}.*?\\end", re.DOTALL)
_LONE_BACKSLASH = re.compile(r"(?<!\\)\\(?=[-\d])")
# After a space a unit, before which 5 is the value: `5 m`, but not 5m or 5 x.
_UNIT_AFTER_NUMBER = re.compile(r"\d (?:[A-Za-z/]{2,}|[msghL])(?:\^\{?[23]\}?)?$")
_MATRIX_CELLS = re.compile(r"\\begin\{([pb]?matrix)\}(.*)\\end\{\1\}", re.DOTALL)
_FUNCTION = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(NAMES)})(?![A-Za-z])")
_EMPTY = ("none", "empty set", "the empty set", "no solution", "no solutions", "no real solutions")
_CONJUNCTION = re.compile(
    r"\\(?:text|mbox|mathrm|textrm) ?\{(\s*[,;]\s*|[^{}]*\b(?:or|and)\b[^{}]*)\}"
)
# Logical signs separate statements, `x<1 \lor x>3`; between names they are operations.
_LOGICAL = re.compile(r"\\(lor|vee|land|wedge)(?![A-Za-z])")
_BOTH_ROOTS = re.compile(r"_\{ ?1 ?, ?2 ?\} ?=")
_SIGNS = re.compile(r"\\(pm|mp)(?![A-Za-z])")
_BOTH = ({"pm": "+", "mp": "-"}, {"pm": "-", "mp": "+"})
_WORDS = re.compile(r"[^\W\d_]{2,}(?:[ '-][^\W\d_]+)*[.?!]?")
_DATED = re.compile(
    r"[A-Za-z]{3,}(?: [A-Za-z]{3,})* \d+|\d+ [A-Za-z]{3,}(?: [A-Za-z]+)* \d+"
)  # June 20
_LETTERS_OF_PRODUCTS = re.compile(r"[abcdkmnpqrstvwxyz]{2,3}")
_BARE_LETTERS = re.compile(
    r"(?<![A-Za-z\\])(?!(?<=\d)[eE][+-]?\d)[A-Za-z](?![A-Za-z])"
    r"|(?<![A-Za-z\\])[A-Za-z]{2,}(?=[_^\d(])"
)


def is_equal_expression(reference: str, answer: str, by: Means) -> bool:
    """Raises Unreadable when the answer is no mathematics, TimeoutError when it takes too long."""
    if len(answer) > MAX_ANSWER or len(reference) > MAX_ANSWER:
        raise Unreadable("too long to parse")
    if _unit_powers(reference, answer) or _contradicts_itself(answer):
        return False
    mine, theirs = _MEMBER.match(reference), _MEMBER.match(answer)
    if mine and theirs and mine[0] != theirs[0] and mine[0].lower() == theirs[0].lower():
        return False  # X is another name than x
    sides = [
        _brought_together(side, _sides(_plain(answer))[0]) for side in _sides(_plain(reference))
    ]
    return any(
        _is_equal(expected, given, by)
        for mine, theirs in sides
        for expected, given in itertools.product(_readings(mine), _readings(theirs))
    )


def _unit_powers(reference: str, answer: str) -> bool:
    """Whether both end in one unit to different powers: cm^2 and cm^3."""
    mine, theirs = _UNIT_POWER.search(reference), _UNIT_POWER.search(answer)
    return bool(mine and theirs and mine[1] and mine[1] == theirs[1] and mine[2] != theirs[2])


def _contradicts_itself(answer: str) -> bool:
    r"""`2/3 \approx 5.67`: two numbers that are not near each other."""
    sides = _sides(clean(answer))
    numbers = [number for number in map(_number, sides) if isinstance(number, Fraction)]
    if len(numbers) < 2:
        return False
    first, last = numbers[0], numbers[-1]
    return abs(first - last) > max(abs(first), abs(last)) / 10


def _brought_together(reference: str, answer: str) -> tuple[str, str]:
    """Both texts without what only one of them says beside the value: a condition, a modulus,
    another name of a variable, degrees where the other has radians.
    """
    if without_condition(reference) == reference:
        answer = without_condition(answer)
    if "=" not in reference:
        answer = value_of_limit(answer)
    answer = renamed(reference, answer)
    mine, theirs = congruence(reference), congruence(answer)
    if mine and theirs:
        return _congruences(mine, theirs) or (reference, answer)
    if theirs:
        answer = theirs[1]
    elif mine and not _RELATION.search(answer):
        reference = mine[1]
    if has_degrees(answer) and "\\pi" in reference:
        answer = in_radians(answer)
    elif has_degrees(reference) and "\\pi" in answer:
        reference = in_radians(reference)
    return reference, answer


def _congruences(
    reference: tuple[str, str, str], answer: tuple[str, str, str]
) -> tuple[str, str] | None:
    """Of the same name and modulus: the residues, where both are integers."""
    (name, residue, modulus), (other, given, given_modulus) = reference, answer
    if comparable(modulus) != comparable(given_modulus) or comparable(name) != comparable(other):
        return "0", "1"
    if not modulus.isdecimal() or int(modulus) == 0:
        return residue, given
    try:
        values = [Fraction(parse_number(one)) for one in (residue, given)]  # type: ignore[arg-type]
    except (NotANumber, TooLarge, TypeError):
        return residue, given
    return str(values[0] % int(modulus)), str(values[1] % int(modulus))


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
    expected, given = (_readings(_plain(lines_as_list(text))) for text in (reference, answer))
    return any(_is_equal_list(one, other, by) for one, other in itertools.product(expected, given))


def _is_equal_list(reference: str, answer: str, by: Means) -> bool:
    expected, given = (_as_list(parse_structure(text)) for text in (reference, answer))
    if expected.shape == given.shape and expected.shape in ("tuple", "matrix"):
        is_same_shape = expected.shape == "tuple" or expected.brackets == given.brackets
        return is_same_shape and _is_same_sequence(expected.items, given.items, by)
    if "matrix" in (expected.shape, given.shape):
        return False
    if {"[)", "(]"} & {expected.brackets, given.brackets}:  # a half-open interval is no list
        return False
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
    text = same_writing(clean(_CONJUNCTION.sub(r" \1 ", spaced_as_list(text))))
    parts = _LOGICAL.split(text)[::2]
    if len(parts) > 1 and all(map(_RELATION.search, parts)):
        text = _LOGICAL.sub(lambda sign: " or " if sign[1] in ("lor", "vee") else " and ", text)
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
    if _NESTED.fullmatch(body):  # [[1,2],[3,4]]
        lists = re.findall(r"\[([^\[\]]+)\]", body)
        cells = [cell.strip() for row in lists for cell in row.split(",")]
        return Structure("matrix", str([len(row.split(",")) for row in lists]), cells)
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
    if _CLOSED_INFINITY.search(answer) and not _CLOSED_INFINITY.search(reference):
        return False
    chain, other = _chain(reference), _chain(answer)
    if chain and other:
        return chain[0] == other[0] and _is_same_sequence(chain[1], other[1], by)
    pieces = _pieces(reference), _pieces(answer)
    if pieces[0] and pieces[1]:
        return _is_same_pieces(pieces[0], pieces[1], by)
    as_named = _is_same_solution(reference, answer, by)
    if as_named is not None:
        return as_named
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
    if {expected.shape, given.shape} == {"matrix", "tuple"}:
        rows = expected.brackets if expected.shape == "matrix" else given.brackets
        is_vector = "," not in rows or set(rows) <= set("[]1, ")
        return is_vector and _is_same_sequence(expected.items, given.items, by)
    if "matrix" in (expected.shape, given.shape):
        is_computed = "\\begin" in reference and "\\begin" in answer  # as in 2 \begin{pmatrix}
        return is_computed and _ask(reference, answer, by)
    if {expected.shape, given.shape} <= {"list", "set"}:
        return _is_same_collection(expected, given, by)
    if expected.shape == given.shape == "union":
        return _is_same_collection(expected, given, by) or _ask(reference, answer, by)
    if {expected.shape, given.shape} == {"list", "union"}:
        return _is_same_collection(expected, given, by)
    if {expected.shape, given.shape} == {"tuple", "list"}:
        named = answer if given.shape == "tuple" else reference
        if re.match(r"\([A-Za-z][^=]*\) ?=", named):  # (x,y)=(1,2) for 1,2
            return _is_same_sequence(expected.items, given.items, by)
    if _RELATION.search(reference) or _RELATION.search(answer):
        is_assigned = _ASSIGNED.match(reference) or _ASSIGNED.match(answer)
        return not is_assigned and _ask(reference, answer, by)
    one, other = sorted((expected, given), key=lambda structure: len(structure.items))
    if r"\emptyset" in (reference, answer):
        return False
    if one.shape in ("set", "atom") and len(other.items) == 1:
        return _is_equal(one.items[0], other.items[0], by)
    return False


def _chain(text: str) -> tuple[list[str], list[str]] | None:
    """Signs and sides of `a < b \\le c`, read so that it rises; None: no such chain."""
    pieces = INEQUALITY.split(text)
    sides, signs = [piece.strip() for piece in pieces[::2]], pieces[1::2]
    if (
        len(signs) < 2
        or not all(sides)
        or any(re.search(r" (?:and|or) |,", side) for side in sides)
    ):
        return None
    if all(sign in MORE for sign in signs):
        return [MORE[sign] for sign in reversed(signs)], sides[::-1]
    if all(sign in LESS for sign in signs):
        return [LESS[sign] for sign in signs], sides
    return None


def _pieces(text: str) -> list[tuple[str, str]] | None:
    """Values and conditions of a function given by cases."""
    body = re.sub(r"^[A-Za-z] ?\( ?[A-Za-z] ?\) ?= ?", "", text)
    cases = _CASES.fullmatch(body)
    rows = [row.strip() for row in cases[1].split("\\\\") if row.strip()] if cases else []
    if not rows or any(row.count("&") != 1 for row in rows):
        return None
    pairs = [row.split("&") for row in rows]
    return [(value.strip(" ,"), _condition(condition)) for value, condition in pairs]


def _condition(text: str) -> str:
    text = re.sub(r"\\(?:text|mbox|mathrm) ?\{([^{}]*)\}", r" \1 ", text)
    return clean(re.sub(r"\b(?:if|for|when|where)\b", " ", text))


def _is_same_pieces(
    reference: list[tuple[str, str]], answer: list[tuple[str, str]], by: Means
) -> bool:
    if len(reference) != len(answer):
        return False
    remaining = list(reference)
    for value, condition in answer:
        match = next(
            (
                one
                for one in remaining
                if _is_equal(one[1], condition, by) and _is_equal(one[0], value, by)
            ),
            None,
        )
        if match is None:
            return False
        remaining.remove(match)
    return True


def _solutions(text: str) -> list[dict[str, str]] | None:
    """`x=1, y=2 or x=3, y=4` as names and values of each solution."""
    cases = _CASES.fullmatch(text)
    if cases:
        text = ", ".join(row.strip(" ,") for row in cases[1].replace("&", "").split("\\\\"))
    found = []
    for part in _split(text, (";", "or")):
        names: dict[str, str] = {}
        for item in _split(part, (",", "and")):
            named = _ASSIGNED.match(item)
            value = item[named.end() :].strip() if named else ""
            if not named or not value or "=" in value:
                return None
            name = comparable(named.group().rstrip("= "))
            if name in names:
                found.append(names)
                names = {}
            names[name] = value
        found.append(names)
    return found if len(found) > 1 or len(found[0]) > 1 else None


def _is_same_solution(reference: str, answer: str, by: Means) -> bool | None:
    """None when neither names its values, or both in one form that is compared as a list."""
    mine, theirs = _solutions(reference), _solutions(answer)
    if mine is None and theirs is None and not _BOTH_ROOTS.search(reference + answer):
        return None
    if mine and theirs and {*mine[0]} == {*theirs[0]} and len(mine[0]) > 1:
        names = sorted(mine[0])
        if any({*one} != {*names} for one in (*mine, *theirs)):
            return False
        tuples = [[[one[name] for name in names] for one in side] for side in (mine, theirs)]
        return _is_same_tuples(tuples[0], tuples[1], by)
    expected, given = _roots(mine, reference), _roots(theirs, answer)
    if expected and given and expected[0] == given[0]:
        lists = [_expanded(Structure("list", "", side[1])) for side in (expected, given)]
        return _is_same_collection(lists[0], lists[1], by)
    unnamed = _tuples(answer if mine else reference)
    named = mine or theirs
    if unnamed is None or named is None or (mine and theirs) or len(named[0]) < 2:
        return None
    names = sorted(named[0])
    if any({*one} != {*names} for one in named):
        return False
    values = [[one[name] for name in names] for one in named]
    return _is_same_tuples(values, unnamed, by) if mine else _is_same_tuples(unnamed, values, by)


def _roots(solutions: list[dict[str, str]] | None, text: str) -> tuple[str, list[str]] | None:
    """The name and all values of `x_1=2, x_2=7`, `x=2 or x=7` and `x_{1,2}=...`."""
    if solutions is None:
        named = _ASSIGNED.match(text)
        items = _split(text[named.end() :], (",", "or", "and")) if named else []
        solutions = (
            [{comparable(named.group().rstrip("= ")): item} for item in items] if named else []
        )
    pairs = [pair for one in solutions for pair in one.items()]
    bases = {re.sub(r"_?\{?\d(?:,\d)*\}?$", "", name) for name, _ in pairs}
    is_one = len(bases) == 1 and all(_ASSIGNED.match(value) is None for _, value in pairs)
    return (bases.pop(), [value for _, value in pairs]) if is_one else None


def _tuples(text: str) -> list[list[str]] | None:
    """The items of `(1,2)` or of each of `(1,2), (3,4)`."""
    structure = parse_structure(text)
    parts = structure.items if structure.shape in ("list", "set") else [text]
    found = [parse_structure(part) for part in parts]
    if any(one.shape != "tuple" or one.brackets != "()" for one in found):
        return None
    return [one.items for one in found]


def _is_same_tuples(reference: list[list[str]], answer: list[list[str]], by: Means) -> bool:
    expected, given = (
        Structure("list", "", [f"({','.join(items)})" for items in side])
        for side in (reference, answer)
    )
    return _is_same_collection(expected, given, by)


def _expanded(structure: Structure) -> Structure:
    """`a \\pm b` is the list of both."""
    if structure.shape not in ("atom", "list", "set") or not any(
        map(_SIGNS.search, structure.items)
    ):
        return structure
    items = []
    for item in structure.items:
        if _SIGNS.search(item):
            items += [_SIGNS.sub(lambda sign, both=both: both[sign[1]], item) for both in _BOTH]
        else:
            items.append(item)
    return Structure("set" if structure.shape == "set" else "list", "", items)


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
    if not any(":" in item for item in expected):
        given = [_LABELLED.sub("", item, count=1) for item in given]
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
        return _is_same_numeral(reference, answer)
    expected, given = _number(reference), _number(answer)
    if expected is not None and given is None and _UNIT_AFTER_NUMBER.search(answer):
        with contextlib.suppress(NotANumber, TooLarge):
            given = parse_number(answer)
    if expected is not None and given is not None:
        return is_equal(expected, given, by.tolerance)
    if _is_word(reference) or _is_word(answer):
        return _is_same_word(reference, answer)
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


def _is_same_numeral(reference: str, answer: str) -> bool:
    """`2A_{16}` is `2a_16`, `3:30 PM` is 3:30 where nobody said which half of the day."""
    mine, theirs = _NUMERAL.fullmatch(reference), _NUMERAL.fullmatch(answer)
    if mine and theirs:
        return mine[2] == theirs[2] and mine[1].casefold() == theirs[1].casefold()
    one, other = (_CLOCK.fullmatch(unwrap(text)) for text in (reference, answer))
    return bool(one and other and one[1] == other[1] and not (one[2] and other[2]))


def _is_same_word(reference: str, answer: str) -> bool:
    expected, given = _word(reference), _word(answer)
    if expected == given:
        return _is_spoken(expected) or unwrap(reference).strip(".()") == unwrap(answer).strip(".()")
    rest = re.fullmatch(
        rf"{re.escape(expected)} (?:is|are|was|has|had|will|wins?|won|comes?|came|gets?|got"
        rf"|finish(?:es|ed)|runs?|ran)"
        r"\b ?(.*)",
        unwrap(answer).casefold(),
    )
    return bool(rest and len(expected) > 2 and not changes_value(rest[1], DENYING))


def _is_spoken(word: str) -> bool:
    """Of short words the case may mean something: Fd is a product, No a word."""
    return len(word) > 3 or re.search("[aeiouy]", word) is not None or not word.isascii()


def _word(text: str) -> str:
    text = re.sub(r"^\((.*)\)$", r"\1", comparable(text).rstrip(".?!")).casefold()
    return re.sub(r"^(?:the|an?) (?=\w{3})", "", text)


def _is_word(text: str) -> bool:
    """Words are compared as words: `on` is not `no`, although o times n is n times o."""
    text = unwrap(text)
    if re.fullmatch(r"\(?[A-Z]\)?", text):
        return text[0] == "("
    if _DATED.fullmatch(text):
        return True
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
    if BOMB.search(_SMALL_SUM.sub("", question)):
        raise Unreadable("refused: too large to evaluate, or a sum, product or integral")
    if BOMB.search(_SMALL_SUM.sub("", to_latex(reference))):
        return False
    has_marks = _MARKED_EXPONENT.search(question) or _MARKED_EXPONENT.search(to_latex(reference))
    same = None if has_marks else is_identical(to_latex(reference), question)
    if same or (same is False and not by.tolerance):
        return same
    names = Names()
    try:
        given = names.replaced(question)
    except Lost as error:
        raise Unreadable(f"not read: {error}") from error
    try:
        expected = names.replaced(to_latex(reference))
    except Lost:
        return False
    verdict = by.ask(expected, given)
    if verdict == "bad_answer":
        raise Unreadable("not an expression")
    if verdict == "bad_reference":
        return False
    if verdict not in ("equal", "different"):
        raise ChildProcessError(verdict)
    return verdict == "equal"
