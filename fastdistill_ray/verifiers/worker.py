"""The process that parses with sympy: `python -m fastdistill_ray.verifiers.worker LIMIT BYTES`."""

import logging
import re
import sys
from typing import Any, cast

from latex2sympy2_extended import NormalizationConfig
from math_verify import parse, verify
from math_verify.parser import LatexExtractionConfig
from sympy import (
    Abs,
    Basic,
    Expr,
    I,
    Limit,
    MatrixBase,
    N,
    Pow,
    Product,
    Rational,
    Sum,
    Symbol,
    log,
)
from sympy.core.function import AppliedUndef

from fastdistill_ray.verifiers.serving import serve_forever

RECYCLE_AFTER = 4_000  # answers: sympy's caches grow
# sympy imports and fills its tables at first use, about a second, which children inherit.
_WARM_UP = (
    (r"\frac{x}{2}+\sqrt{3}", r"\frac12x+3^{1/2}"),
    ("10", "2x^2-18"),
    (r"\sin 3x", r"\cos x+1+2i"),
    (r"(3,\infty)", "x>3"),
    (r"\frac{1}{x+1}", r"\frac{x}{x^2-1}"),
    ("y=2x+1", "y=e^x"),
)
_CONFIG = [
    LatexExtractionConfig(
        boxed_match_priority=-1,
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
        ),
    )
]


def parse_latex(text: str) -> list:
    """Parsed by latex2sympy's grammar only; the reader of plain expressions would evaluate code."""
    found = parse(f"${text}$", _CONFIG, fallback_mode="no_fallback", parsing_timeout=0)
    return [
        _with_plain_symbols(one)
        for one in found
        if not isinstance(one, str) and _names_in(text) <= _names_of(one)
    ]


def _names_in(text: str) -> set[str]:
    """The letters that stand for names in a text of `names.Names`."""
    plain = re.sub(r"\\(?:begin|end)\{[a-z]+\}|\\[A-Za-z]+", " ", text)
    return set(re.findall(r"[A-Za-z]", plain)) - {"e", "i"}


def _names_of(expression: Any) -> set[str]:
    """The names that were read; where one is missing the grammar has lost a part of the text."""
    if not isinstance(expression, Basic):
        parts = expression.flat() if isinstance(expression, MatrixBase) else []
        return set().union(*map(_names_of, parts))
    symbols = {name.name for name in expression.atoms(Symbol)}
    return symbols | {str(call.func) for call in expression.atoms(AppliedUndef)}


def _with_plain_symbols(expression: Any) -> Any:
    """i is the imaginary unit; of other names latex2sympy assumes what else stands in the text."""
    if not isinstance(expression, Basic):
        return expression
    names = expression.atoms(Symbol)
    if all(name.is_real and name.name != "i" for name in names):
        return expression
    plain = {name: I if name.name == "i" else Symbol(name.name, real=True) for name in names}
    return expression.xreplace(plain)


def compare(reference: str, answer: str, tolerance: str | None = None) -> str:
    """equal, different, bad_reference or bad_answer."""
    expected, given = parse_latex(reference), parse_latex(answer)
    if not given:
        return "bad_answer"
    if not expected:
        return "bad_reference"
    if tolerance is not None and _is_within(expected[0], given[0], tolerance):
        return "equal"
    expected, given = _evaluated(expected), _evaluated(given)
    if _is_same(expected, given):
        return "equal"
    positive = _positive(expected[0], given[0])
    if positive and _is_same(*([one[0].xreplace(positive)] for one in (expected, given))):
        return "equal"
    return "different"


def _is_same(expected: list, given: list) -> bool:
    is_same = verify(
        expected, given, numeric_precision=30, allow_set_relation_comp=True, timeout_seconds=0
    )
    return is_same and not _is_only_close(expected[0], given[0])


def _evaluated(found: list) -> list:
    """Sums, products and limits computed; `latex.BOMB` has refused large ones."""
    return [
        one.doit() if isinstance(one, Basic) and one.has(Sum, Product, Limit) else one
        for one in found
    ]


def _positive(first: Any, second: Any) -> dict[Symbol, Symbol]:
    r"""Symbols that a root or logarithm demands to be positive: \sqrt{1/m} is 1/\sqrt{m}.

    None of a square under a root or a modulus, where the sign is what matters.
    """
    if not (isinstance(first, Expr) and isinstance(second, Expr)):
        return {}
    demanded, free = set(), set()
    for call in (*first.atoms(Pow, log, Abs), *second.atoms(Pow, log, Abs)):
        if isinstance(call, Pow) and 2 * call.exp not in (1, -1):
            continue
        inside = cast(Any, call.args[0])
        is_single = not isinstance(call, Abs) and all(
            power.is_integer and power.is_odd and (base.is_Symbol or base.is_positive)
            for base, power in inside.as_powers_dict().items()
        )
        names = inside.free_symbols
        if is_single:
            demanded |= names
        else:
            free |= names
    return {name: Symbol(name.name, positive=True) for name in demanded - free}


def _is_within(first: Any, second: Any, tolerance: str) -> bool:
    if not (isinstance(first, Expr) and isinstance(second, Expr)):
        return False
    distance = N(abs(first - second), 30)
    # The last digits of the difference are those of rounding to 30 digits.
    return bool(distance.is_Float and distance <= Rational(tolerance) * (1 + Rational(1, 10**20)))


def _is_only_close(first: Any, second: Any) -> bool:
    """Two tiny constants that math-verify takes for equal because both are almost 0."""
    if not (isinstance(first, Basic) and isinstance(second, Basic)):
        return False
    if first.free_symbols or second.free_symbols:
        return False
    try:
        ratio = N(cast(Any, first) / second, 30)
    except TypeError:
        return False
    return bool(ratio.is_number and ratio.is_finite and abs(ratio - 1) > 1e-20)


def main() -> None:
    logging.disable(logging.WARNING)
    for reference, answer in _WARM_UP:
        compare(reference, answer)
    serve_forever(
        lambda asked: compare(asked["reference"], asked["answer"], asked["tolerance"]),
        time_limit=float(sys.argv[1]),
        memory_bytes=int(sys.argv[2]),
        recycle_after=RECYCLE_AFTER,
    )


if __name__ == "__main__":
    main()
