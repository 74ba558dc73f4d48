r"""Inequalities, set builders and the words for all reals, written as intervals and their unions.

`-1 \le x < 3` is `[-1,3)`; texts are clean, and nothing is compared here.
"""

import itertools
import re
from fractions import Fraction
from typing import NamedTuple

from fastdistill_ray.verifiers.arithmetic import NotANumber, TooLarge
from fastdistill_ray.verifiers.cleaning import unwrap
from fastdistill_ray.verifiers.numbers import parse_number


class Range(NamedTuple):
    """`text` is a union of intervals; `variable` is "" when only a set was named."""

    variable: str
    text: str


class Bound(NamedTuple):
    variable: str
    is_lower: bool
    bracket: str
    value: str


_INFINITY = r"\infty"
ALL_REALS = rf"(-{_INFINITY},{_INFINITY})"
_ALL_WORDS = re.compile(
    r"(?:the set of |any |every )?(?:all |the )*(?:real numbers?|reals)(?: [a-z])?", re.IGNORECASE
)
_VARIABLE = re.compile(r"\\?[A-Za-z]+|[A-Za-z]_\w")
INEQUALITY = re.compile(r"(<=|>=|<|>|\\(?:leqslant|geqslant|leq?|geq?|lt|gt|neq?)(?![A-Za-z]))")
_BUILDER = re.compile(
    r"\\\{ ?([A-Za-z])(?: ?\\in ?\(-\\infty ?, ?\\infty\))? ?(?:[:|]|\\(?:mid|vert)(?![A-Za-z])) ?"
    r"(.*)\\\}"
)
_WITHOUT = re.compile(r"\(-\\infty,\\infty\) ?(?:\\setminus|\\backslash|-|\\) ?\\\{(.*)\\\}")
_WITHOUT_RANGE = re.compile(
    r"\(-\\infty,\\infty\) ?(?:\\setminus|\\backslash|-"
    r"|\\) ?([\[(])([^,\[\]()]+),([^,\[\]()]+)([\])])"
)
_EXCEPT = re.compile(
    r"(?:the set of |any |every )?(?:all |the )*(?:real numbers?|reals)(?: [a-z])?,? (?:except"
    r"|other than|but"
    r"|excluding|without)(?: for)? (?:[a-z] ?= ?)?(.+)",
    re.IGNORECASE,
)
_OR = re.compile(r" (?:or|\\lor|\\vee) | ?\\cup(?![A-Za-z]) ?")
_AND = re.compile(r" (?:and|\\land|\\wedge) ")
LESS = {"<": "(", "<=": "[", r"\lt": "(", r"\le": "[", r"\leq": "[", r"\leqslant": "["}
MORE = {">": "(", ">=": "[", r"\gt": "(", r"\ge": "[", r"\geq": "[", r"\geqslant": "["}


def as_range(text: str) -> Range | None:
    """None when the text is no such writing; an interval itself is none either."""
    if _ALL_WORDS.fullmatch(text):
        return Range("", ALL_REALS)
    without = _WITHOUT.fullmatch(text)
    if without:
        return _without_points("", without[1].split(","))
    gap = _WITHOUT_RANGE.fullmatch(text)
    if gap:
        low, high = ")" if gap[1] == "[" else "]", "(" if gap[4] == "]" else "["
        below, above = (
            f"(-{_INFINITY},{gap[2].strip()}{low}",
            f"{high}{gap[3].strip()},{_INFINITY})",
        )
        return Range("", rf"{below} \cup {above}")
    besides = _EXCEPT.fullmatch(unwrap(text)) if "real" in text else None
    if besides:
        return _without_points("", re.split(r",? and |, ?", besides[1]))
    builder = _BUILDER.fullmatch(text)
    body = builder[2].strip() if builder else text
    if not INEQUALITY.search(body):
        return None
    parts = [_one_range(part.strip()) for part in _OR.split(body)]
    ranges = [part for part in parts if part is not None]
    names = {part.variable for part in ranges}
    if len(ranges) < len(parts) or len(names) != 1 or (builder and names != {builder[1]}):
        return None
    name = "" if builder else names.pop()
    return Range(name, r" \cup ".join(part.text for part in ranges))


def _one_range(text: str) -> Range | None:
    pieces = INEQUALITY.split(text)
    if len(pieces) == 3 and pieces[1].startswith(r"\ne") and _VARIABLE.fullmatch(pieces[0].strip()):
        return _without_points(pieces[0].strip(), pieces[2].split(","))
    bounds: list[Bound] = []
    for part in _AND.split(text):
        found = _bounds(INEQUALITY.split(part))
        if not found:
            return None
        bounds += found
    lower = [bound for bound in bounds if bound.is_lower]
    upper = [bound for bound in bounds if not bound.is_lower]
    if len(lower) > 1 or len(upper) > 1 or len({bound.variable for bound in bounds}) != 1:
        return None
    start = f"{lower[0].bracket}{lower[0].value}" if lower else f"(-{_INFINITY}"
    end = f"{upper[0].value}{']' if upper[0].bracket == '[' else ')'}" if upper else _INFINITY + ")"
    return Range(bounds[0].variable, f"{start},{end}")


def _bounds(pieces: list[str]) -> list[Bound]:
    """`a < x`, `x < b`, `a < x < b` and the same with other signs; [] for anything else."""
    sides, signs = [piece.strip() for piece in pieces[::2]], pieces[1::2]
    if not all(sides) or len(signs) not in (1, 2):
        return []
    if not (all(sign in LESS for sign in signs) or all(sign in MORE for sign in signs)):
        return []
    names = [i for i, side in enumerate(sides) if _VARIABLE.fullmatch(side) and _is_name(side)]
    if len(names) != 1 or (len(signs) == 2 and names != [1]):
        return []
    at = names[0]
    bounds = []
    for i, sign in enumerate(signs):
        is_before = i < at  # the value stands before the variable
        value = sides[i] if is_before else sides[i + 1]
        bracket = LESS.get(sign) or MORE[sign]
        if "," in value or re.search(rf"(?<![A-Za-z\\]){re.escape(sides[at])}(?![A-Za-z])", value):
            return []
        bounds.append(Bound(sides[at], is_before == (sign in LESS), bracket, value))
    return bounds


def _is_name(side: str) -> bool:
    return side not in (r"\pi", _INFINITY, "e", "i") and (len(side) == 1 or side[:1] == "\\")


def _without_points(variable: str, points: list[str]) -> Range | None:
    values: list[Fraction] = []
    for point in points:
        try:
            value = parse_number(point)
        except (NotANumber, TooLarge):
            return None
        if not isinstance(value, Fraction):
            return None
        values.append(value)
    ends = [f"-{_INFINITY}", *map(str, sorted(values)), _INFINITY]
    pairs = itertools.pairwise(ends)
    return Range(variable, r" \cup ".join(f"({low},{high})" for low, high in pairs))
