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

from fastdistill_ray.verifiers.arithmetic import NotANumber, TooLarge, is_equal
from fastdistill_ray.verifiers.atoms import (
    BASE,
    Unreadable,
    is_same_numeral,
    is_same_word,
    is_word,
    label_of,
    number_of,
    without_same_name,
)
from fastdistill_ray.verifiers.cleaning import comparable
from fastdistill_ray.verifiers.fingerprints import is_identical
from fastdistill_ray.verifiers.intervals import as_range
from fastdistill_ray.verifiers.latex import BOMB, depth, to_latex
from fastdistill_ray.verifiers.names import Lost, Names
from fastdistill_ray.verifiers.numbers import parse_number
from fastdistill_ray.verifiers.readings import (
    RELATION,
    brought_together,
    contradicts_itself,
    plain_text,
    readings_of,
    sides_of,
)
from fastdistill_ray.verifiers.structures import (
    ASSIGNED,
    MEMBER,
    Structure,
    as_list,
    chain_of,
    expanded,
    parse_structure,
    pieces_of,
    roots_of,
    solutions_of,
    tuples_of,
)
from fastdistill_ray.verifiers.units import are_other_units
from fastdistill_ray.verifiers.writings import lines_as_list

MAX_ANSWER = 600  # characters
MAX_ITEMS = 64  # of a list
MAX_BRACES = 30  # nested


class Means(NamedTuple):
    """`ask` is the sympy process; numbers at most `tolerance` apart are equal, None: exact."""

    ask: Callable[[str, str], str]
    tolerance: Fraction | None = None


_LABELLED = re.compile(r"(?:\\text ?\{ ?)?[A-Z][A-Za-z]+ ?: ?\}? ?(?=[^ ])")
_MARKED_EXPONENT = re.compile(r"\^ ?\{ ?\( ?\w ?\) ?\}")  # f^{(3)} is a derivative
_CLOSED_INFINITY = re.compile(r"\[ ?[-+]? ?\\infty|\\infty ?\]")
_SMALL_SUM = re.compile(
    r"\\(?:sum|prod) ?_ ?\{ ?[a-z] ?= ?-?\w{1,3} ?\} ?\^ ?(?:\w|\{ ?(?:[a-z]|\d{1,3}) ?\})"
    r"|\\lim ?_ ?\{ ?[a-z] ?\\to ?-?(?:\w{1,3}|\\infty) ?\}"
)
# After a space a unit, before which 5 is the value: `5 m`, but not 5m or 5 x.
_UNIT_AFTER_NUMBER = re.compile(r"\d (?:[A-Za-z/]{2,}|[msghL])(?:\^\{?[23]\}?)?$")
_BOTH_ROOTS = re.compile(r"_\{ ?1 ?, ?2 ?\} ?=")


def is_equal_expression(reference: str, answer: str, by: Means) -> bool:
    """Raises Unreadable when the answer is no mathematics, TimeoutError when it takes too long."""
    if len(answer) > MAX_ANSWER or len(reference) > MAX_ANSWER:
        raise Unreadable("too long to parse")
    given = plain_text(answer)
    if not given:
        raise Unreadable("nothing of it is mathematics")
    if are_other_units(reference, answer) or contradicts_itself(answer):
        return False
    mine, theirs = MEMBER.match(reference), MEMBER.match(answer)
    if mine and theirs and mine[0] != theirs[0] and mine[0].lower() == theirs[0].lower():
        return False  # X is another name than x
    side = sides_of(given)[0]
    sides = [brought_together(expected, side) for expected in sides_of(plain_text(reference))]
    return any(
        _is_equal(expected, said, by)
        for mine, theirs in sides
        for expected, said in itertools.product(readings_of(mine), readings_of(theirs))
    )


def is_equal_list(reference: str, answer: str, by: Means) -> bool:
    """Kind list: square brackets, braces or none mean a list without order; () has an order."""
    if len(answer) > MAX_ANSWER or len(reference) > MAX_ANSWER:
        raise Unreadable("too long to parse")
    expected, given = (readings_of(plain_text(lines_as_list(text))) for text in (reference, answer))
    return any(_is_equal_list(one, other, by) for one, other in itertools.product(expected, given))


def _is_equal_list(reference: str, answer: str, by: Means) -> bool:
    expected, given = (as_list(parse_structure(text)) for text in (reference, answer))
    if expected.shape == given.shape and expected.shape in ("tuple", "matrix"):
        is_same_shape = expected.shape == "tuple" or expected.brackets == given.brackets
        return is_same_shape and _is_same_sequence(expected.items, given.items, by)
    if "matrix" in (expected.shape, given.shape):
        return False
    if {"[)", "(]"} & {expected.brackets, given.brackets}:  # a half-open interval is no list
        return False
    return _is_same_collection(expected, given, by)


def _is_equal(reference: str, answer: str, by: Means) -> bool:
    if comparable(reference) == comparable(answer):
        return True
    if _CLOSED_INFINITY.search(answer) and not _CLOSED_INFINITY.search(reference):
        return False
    chain, other = chain_of(reference), chain_of(answer)
    if chain and other:
        return chain[0] == other[0] and _is_same_sequence(chain[1], other[1], by)
    pieces = pieces_of(reference), pieces_of(answer)
    if pieces[0] and pieces[1]:
        return _is_same_pieces(pieces[0], pieces[1], by)
    as_named = _is_same_solution(reference, answer, by)
    if as_named is not None:
        return as_named
    if number_of(reference) is not None and number_of(answer) is not None:
        return _is_equal_atom(reference, answer, by)
    ranges = _as_ranges(reference, answer)
    if ranges is None:
        return False
    if ranges != (reference, answer):
        return _is_equal(*ranges, by)
    expected, given = (expanded(parse_structure(text)) for text in (reference, answer))
    if expected.shape == given.shape == "atom":
        return _is_equal_atom(reference, answer, by)
    if expected.shape == given.shape and expected.shape in ("tuple", "matrix"):
        same_brackets = expected.brackets == given.brackets
        return same_brackets and _is_same_sequence(expected.items, given.items, by)
    if {expected.shape, given.shape} == {"set", "tuple"}:  # {(1,2)} for (1,2)
        members = expected.items if expected.shape == "set" else given.items
        other = answer if expected.shape == "set" else reference
        return len(members) == 1 and _is_equal(members[0], other, by)
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
    if RELATION.search(reference) or RELATION.search(answer):
        is_assigned = ASSIGNED.match(reference) or ASSIGNED.match(answer)
        return not is_assigned and _ask(reference, answer, by)
    one, other = sorted((expected, given), key=lambda structure: len(structure.items))
    if r"\emptyset" in (reference, answer):
        return False
    if one.shape in ("set", "atom") and len(other.items) == 1:
        return _is_equal(one.items[0], other.items[0], by)
    return False


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


def _is_same_solution(reference: str, answer: str, by: Means) -> bool | None:
    """None when neither names its values, or both in one form that is compared as a list."""
    mine, theirs = solutions_of(reference), solutions_of(answer)
    if mine is None and theirs is None and not _BOTH_ROOTS.search(reference + answer):
        return None
    if mine and theirs and {*mine[0]} == {*theirs[0]} and len(mine[0]) > 1:
        names = sorted(mine[0])
        if any({*one} != {*names} for one in (*mine, *theirs)):
            return False
        tuples = [[[one[name] for name in names] for one in side] for side in (mine, theirs)]
        return _is_same_tuples(tuples[0], tuples[1], by)
    expected, given = roots_of(mine, reference), roots_of(theirs, answer)
    if expected and given and expected[0] == given[0]:
        lists = [expanded(Structure("list", "", side[1])) for side in (expected, given)]
        return _is_same_collection(lists[0], lists[1], by)
    if mine and not theirs and len(mine) == 1 and not expected:
        listed = parse_structure(answer)
        is_unnamed = not any(map(ASSIGNED.match, listed.items))
        if listed.shape in ("list", "set") and len(listed.items) > 1 and is_unnamed:
            return _is_same_sequence(list(mine[0].values()), listed.items, by)
    unnamed = tuples_of(answer if mine else reference)
    named = mine or theirs
    if unnamed is None or named is None or (mine and theirs) or len(named[0]) < 2:
        return None
    names = sorted(named[0])
    if any({*one} != {*names} for one in named):
        return False
    values = [[one[name] for name in names] for one in named]
    return _is_same_tuples(values, unnamed, by) if mine else _is_same_tuples(unnamed, values, by)


def _is_same_tuples(reference: list[list[str]], answer: list[list[str]], by: Means) -> bool:
    expected, given = (
        Structure("list", "", [f"({','.join(items)})" for items in side])
        for side in (reference, answer)
    )
    return _is_same_collection(expected, given, by)


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
    """Same members in any order; how often one occurs counts in lists, not in sets.

    Members with words of their own, `5 boys, 6 girls`, are compared by them.
    """
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
    mine, theirs = ({label_of(item): item for item in side} for side in (expected, given))
    if () not in mine and mine.keys() == theirs.keys() and 1 < len(mine) == len(expected):
        return all(_is_equal(item, theirs[label], by) for label, item in mine.items())
    numbers = [number_of(item) for item in (*expected, *given)]
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
    reference, answer = without_same_name(reference, answer)
    if comparable(reference) == comparable(answer):
        return True
    # A numeral of another base and a ratio are only what they are written as.
    if BASE.search(reference) or BASE.search(answer):
        return is_same_numeral(reference, answer)
    expected, given = number_of(reference), number_of(answer)
    if expected is not None and given is None and _UNIT_AFTER_NUMBER.search(answer):
        with contextlib.suppress(NotANumber, TooLarge):
            given = parse_number(answer)
    if expected is not None and given is not None:
        return is_equal(expected, given, by.tolerance)
    if is_word(reference) or is_word(answer):
        return is_same_word(reference, answer)
    return _ask(reference, answer, by)


def _ask(reference: str, answer: str, by: Means) -> bool:
    asked, question = to_latex(reference), to_latex(answer)
    if len(re.findall(r"[{(\[]", question)) > MAX_BRACES * 4 or depth(question) > MAX_BRACES:
        raise Unreadable("nested too deeply")
    if BOMB.search(_SMALL_SUM.sub("", question)):
        raise Unreadable("refused: too large to evaluate, or a sum, product or integral")
    if BOMB.search(_SMALL_SUM.sub("", asked)):
        return False
    has_marks = _MARKED_EXPONENT.search(question) or _MARKED_EXPONENT.search(asked)
    same = None if has_marks else is_identical(asked, question)
    if same or (same is False and not by.tolerance):
        return same
    names = Names()
    try:
        given = names.replaced(question)
    except Lost as error:
        raise Unreadable(f"not read: {error}") from error
    try:
        expected = names.replaced(asked)
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
