r"""What a clean text of mathematics is made of: tuples, sets, lists, matrices, named solutions.

Nothing is compared here.
"""

import re
from typing import NamedTuple

from fastdistill_ray.verifiers.cleaning import clean, comparable
from fastdistill_ray.verifiers.intervals import INEQUALITY, LESS, MORE


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
MEMBER = re.compile(r"[A-Za-z] ?\\in(?![A-Za-z]) ?")
ASSIGNED = re.compile(
    r"(?:\([A-Za-z](?:_\w)?(?: ?, ?[A-Za-z](?:_\w)?)+\)"
    r"|[A-Za-z](?:_\w|_\{[^{}=]{1,12}\}|_\\(?:max|min)|'+|\([A-Za-z](?:,[A-Za-z])*\))*"
    r"|\\frac ?\{ ?d ?[A-Za-z] ?\} ?\{ ?d ?[A-Za-z] ?\}|d[A-Za-z]/d[A-Za-z]"
    r"|[A-Z]{1,2} ?[:/] ?[A-Z]{1,2}|[a-z] ?: ?[a-z]"
    r"|\\(?:alpha|beta|gamma|theta|lambda|mu|rho|phi|omega|angle ?[A-Z]{1,3})) ?= ?(?=[^=])"
)
_NESTED = re.compile(r"\[ ?\[([^\[\]]*)\](?: ?, ?\[([^\[\]]*)\])* ?\]")
_CASES = re.compile(r"\\begin\{cases\}(.*)\\end\{cases\}", re.DOTALL)
_POINT = re.compile(r"[A-Z] ?=? ?(?=\((?=[^()]*\d)[^()]*,[^()]*\)$)")
_MATRIX_CELLS = re.compile(r"\\begin\{([pb]?matrix)\}(.*)\\end\{\1\}", re.DOTALL)
_SIGNS = re.compile(r"\\(pm|mp)(?![A-Za-z])")
_BOTH = ({"pm": "+", "mp": "-"}, {"pm": "-", "mp": "+"})


def as_list(structure: Structure) -> Structure:
    if structure.shape == "tuple" and structure.brackets == "[]":
        return structure._replace(shape="list")
    if structure.shape == "atom" and re.fullmatch(r"\[.*\]", structure.items[0]):
        return Structure("list", "", [structure.items[0][1:-1]])
    return structure


def parse_structure(text: str) -> Structure:
    """`text` is clean. (a,b) is a tuple or open interval, [a,b] closed, {a,b} a set, a,b a list."""
    text = MEMBER.sub("", text, count=1) if MEMBER.match(text) else text
    unions = _split(text, ("\\cup",))
    if len(unions) > 1:
        return Structure("union", "", unions)
    items = _split(text, (",", ";", "or", "and"))
    if len(items) > 1:
        return Structure("list", "", items)
    after = ASSIGNED.match(text) or _POINT.match(text)
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


def chain_of(text: str) -> tuple[list[str], list[str]] | None:
    """Signs and sides of `a < b \\le c`, read so that it rises; None: no such chain."""
    pieces = INEQUALITY.split(text)
    sides, signs = [piece.strip() for piece in pieces[::2]], pieces[1::2]
    if (
        len(signs) < 2
        or text.startswith("\\{")
        or not all(sides)
        or any(re.search(r" (?:and|or) |,", side) for side in sides)
    ):
        return None
    if all(sign in MORE for sign in signs):
        return [MORE[sign] for sign in reversed(signs)], sides[::-1]
    if all(sign in LESS for sign in signs):
        return [LESS[sign] for sign in signs], sides
    return None


def pieces_of(text: str) -> list[tuple[str, str]] | None:
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


def solutions_of(text: str) -> list[dict[str, str]] | None:
    """`x=1, y=2 or x=3, y=4` as names and values of each solution."""
    cases = _CASES.fullmatch(text)
    if cases:
        text = ", ".join(row.strip(" ,") for row in cases[1].replace("&", "").split("\\\\"))
    found = []
    for part in _split(text, (";", "or")):
        names: dict[str, str] = {}
        for item in _split(part, (",", "and")):
            named = ASSIGNED.match(item)
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


def roots_of(solutions: list[dict[str, str]] | None, text: str) -> tuple[str, list[str]] | None:
    """The name and all values of `x_1=2, x_2=7`, `x=2 or x=7` and `x_{1,2}=...`."""
    if solutions is None:
        named = ASSIGNED.match(text)
        items = _split(text[named.end() :], (",", "or", "and")) if named else []
        solutions = (
            [{comparable(named.group().rstrip("= ")): item} for item in items] if named else []
        )
    pairs = [pair for one in solutions for pair in one.items()]
    bases = {re.sub(r"_?\{?\d(?:,\d)*\}?$", "", name) for name, _ in pairs}
    is_one = len(bases) == 1 and all(ASSIGNED.match(value) is None for _, value in pairs)
    return (bases.pop(), [value for _, value in pairs]) if is_one else None


def tuples_of(text: str) -> list[list[str]] | None:
    """The items of `(1,2)` or of each of `(1,2), (3,4)`."""
    structure = parse_structure(text)
    parts = structure.items if structure.shape in ("list", "set") else [text]
    found = [parse_structure(part) for part in parts]
    if any(one.shape != "tuple" or one.brackets != "()" for one in found):
        return None
    return [one.items for one in found]


def expanded(structure: Structure) -> Structure:
    """`a \\pm b` is the list of both, and so is `(\\pm 3, 0)`."""
    signs = [sign[1] for item in structure.items for sign in _SIGNS.finditer(item)]
    if structure.shape == "tuple" and structure.brackets == "()" and signs == ["pm"]:
        points = [[_SIGNS.sub(sign, item) for item in structure.items] for sign in "+-"]
        return Structure("list", "", [f"({','.join(point)})" for point in points])
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
