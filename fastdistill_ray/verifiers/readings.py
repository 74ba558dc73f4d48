"""The texts that a reference and an answer are compared by: plain, and brought together."""

import contextlib
import re
from fractions import Fraction

from fastdistill_ray.verifiers.arithmetic import NotANumber, TooLarge
from fastdistill_ray.verifiers.atoms import number_of
from fastdistill_ray.verifiers.cleaning import clean, comparable, exact_notation, unwrap
from fastdistill_ray.verifiers.intervals import ALL_REALS
from fastdistill_ray.verifiers.numbers import parse_number, without_statement
from fastdistill_ray.verifiers.structures import parse_structure
from fastdistill_ray.verifiers.writings import (
    congruence,
    has_degrees,
    in_radians,
    renamed,
    same_writing,
    spaced_as_list,
    value_of_limit,
    without_condition,
)

_THOUSANDS = re.compile(r"(?<![\d,.])[1-9]\d{0,2}(?:,\d{3})+(?![\d,]*\d)")
_ZERO_ITEM = re.compile(r"(?<=\d),0\d\d(?!\d)")
RELATION = re.compile(r"[<>=]|\\(?:n?[lg]eq?|leqslant|geqslant|neq?|in)(?![A-Za-z])")
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
_OF_INTEGERS = re.compile(
    r"(?:,? ?\( ?|, ?| ?\\text\{ ?(?:for|where|with) ?\} ?)([knm]) ?\\in ?"
    r"(?:\\math(?:bb|bf) ?)?\{? ?([ZN](?: ?\^ ?\{? ?[+*] ?\}?|_\+)?) ?\}? ?\)?$"
)
_LONE_BACKSLASH = re.compile(r"(?<!\\)\\(?=[-\d])")
_EMPTY = ("none", "empty set", "the empty set", "no solution", "no solutions", "no real solutions")
_CONJUNCTION = re.compile(
    r"\\(?:text|mbox|mathrm|textrm) ?\{(\s*[,;]\s*|[^{}]*\b(?:or|and)\b[^{}]*)\}"
)
# Logical signs separate statements, `x<1 \lor x>3`; between names they are operations.
_LOGICAL = re.compile(r"\\(lor|vee|land|wedge)(?![A-Za-z])")


def contradicts_itself(answer: str) -> bool:
    r"""`2/3 \approx 5.67`: two numbers that are not near each other."""
    sides = sides_of(clean(answer))
    numbers = [number for number in map(number_of, sides) if isinstance(number, Fraction)]
    if len(numbers) < 2:
        return False
    first, last = numbers[0], numbers[-1]
    return abs(first - last) > max(abs(first), abs(last)) / 10


def brought_together(reference: str, answer: str) -> tuple[str, str]:
    """Both texts without what only one of them says beside the value: a condition, a modulus,
    another name of a variable, degrees where the other has radians.
    """
    mine, theirs = (_OF_INTEGERS.search(text) for text in (reference, answer))
    if not (mine and theirs and mine[2] != theirs[2]):
        reference, answer = (_without_membership(text) for text in (reference, answer))
    if without_condition(reference) == reference:
        answer = without_condition(answer)
    if "=" not in reference:
        answer = value_of_limit(answer)
    answer = renamed(reference, answer)
    mine, theirs = congruence(reference), congruence(answer)
    if mine and theirs:
        return _congruences(mine, theirs)
    if theirs:
        answer = theirs[1]
    elif mine and not RELATION.search(answer):
        reference = mine[1]
    if has_degrees(answer) and "\\pi" in reference:
        answer = in_radians(answer)
    elif has_degrees(reference) and "\\pi" in answer:
        reference = in_radians(reference)
    return reference, answer


def _without_membership(text: str) -> str:
    """`k\\pi, k \\in \\mathbb{Z}` without what k, which it uses, is of."""
    integers = _OF_INTEGERS.search(text)
    if not integers or integers[1] not in re.sub(r"\\[A-Za-z]+", "", text[: integers.start()]):
        return text
    return text[: integers.start()].strip()


def _congruences(reference: tuple[str, str, str], answer: tuple[str, str, str]) -> tuple[str, str]:
    """The residues, where both are integers between 0 and the modulus; 0 and 1 where the names or
    moduli differ."""
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


def sides_of(text: str) -> list[str]:
    r"""`2/3 \approx 0.67` says both, the first exactly; `x \approx 0.67` only one."""
    if "\\approx" not in text:
        return [text]
    sides = [side.strip() for side in re.split(r"\\approx(?![A-Za-z])", text)]
    return [side for side in sides if side and not re.fullmatch(r"[A-Za-z]", side)] or [text]


def readings_of(text: str) -> list[str]:
    """`1,000, 2,500` is two numbers; `1,234` among other items may be one number or two."""
    joined = _THOUSANDS.sub(lambda number: number.group().replace(",", ""), text)
    if parse_structure(joined).shape != parse_structure(text).shape:
        return [text]  # (20,100) is a pair
    if joined == text or _ZERO_ITEM.search(text):
        return [joined]
    return [joined, text]


def plain_text(text: str) -> str:
    text = same_writing(clean(_CONJUNCTION.sub(r" \1 ", spaced_as_list(text))))
    parts = _LOGICAL.split(text)[::2]
    if len(parts) > 1 and all(map(RELATION.search, parts)):
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
