r"""Plain writing such as 2*sqrt(3)*x^10 as LaTeX for latex2sympy, and what it must not be given."""

import re

from fastdistill_ray.verifiers.words import changes_value

_TEXT_UNIT = re.compile(
    r"(?<=[\w)}]) ?(?:\\(?:text|mathrm|mbox|textrm) ?\{[^{}]*\}(?:\^(?:\d|\{\d\}))?|\\%|%)$"
    r"|(?<=[\d)}]) (?:(?:square|sq|cubic) )?(?:[cmk]m|ft|in|inch(?:es)?|feet|units?|miles|yards"
    r"|(?:kilo|centi)?meters|degrees|radians|seconds|minutes|hours)(?:\^(?:\d|\{\d\}))?$"
)
NAMES = (
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "arcsin",
    "arccos",
    "arctan",
    "log",
    "ln",
    "exp",
)
_TRIGONOMETRIC = re.compile(r"(?<![A-Za-z])(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_DEGREE_SIGN = re.compile(r"\^ ?(?:\\circ|\{ ?\\circ ?\})|\u00b0|\\degrees?(?![A-Za-z])")
_DEGREES = re.compile(rf"(\d+(?:\.\d+)?) ?(?:{_DEGREE_SIGN.pattern})")
# The arguments of \frac\pi2 and \frac{a}\pi, which the grammar reads only with braces.
_GREEK = r"(\\(?:pi|theta|alpha|beta|gamma|delta|lambda|mu|phi|omega|sigma|rho|tau)(?![A-Za-z]))"
_FIRST_ARGUMENT = re.compile(rf"\\frac ?{_GREEK}")
_SECOND_ARGUMENT = re.compile(rf"(\\frac ?(?:\{{[^{{}}]*\}}|\w)) ?{_GREEK}")
BOMB = re.compile(
    r"\\(?:sum|prod|int|iint|oint|lim)(?![A-Za-z])|\d{3,} ?(?:!|\))!|\^\{?\s*-?\d{5,}|!\s*!"
    r"|\d\^\{?\s*\(?\d+\s*\^\{?\s*\(?\d|\^\{?\s*\d+!"
)
_BRACKETS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}


def depth(text: str) -> int:
    level = deepest = 0
    for character in text:
        level += _BRACKETS.get(character, 0)
        deepest = max(deepest, level)
    return deepest


def to_latex(text: str) -> str:
    text = _TEXT_UNIT.sub(_kept_unless_unit, text)
    if _TRIGONOMETRIC.search(text):
        text = _DEGREES.sub(r"(\\frac{\1 \\pi}{180})", text)
    text = _DEGREE_SIGN.sub("", text)
    text = re.sub(r"\\log ?_ ?(?:e(?![A-Za-z])|\{ ?e ?\})", r"\\ln ", text)
    text = _FIRST_ARGUMENT.sub(r"\\frac{\1}", text)
    text = _SECOND_ARGUMENT.sub(r"\1{\2}", text)
    text = re.sub(r"(?<![\\A-Za-z])sqrt ?\(", r"\\sqrt(", text)
    text = re.sub(r"\\sqrt ?\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi ", text)
    text = re.sub(r"(?<![\\A-Za-z])(?:infinity|inf|oo)(?![A-Za-z])", r"\\infty ", text)
    names = "|".join(NAMES)
    text = re.sub(rf"(?<![\\A-Za-z])({names})(?![A-Za-z])", r"\\\1 ", text)
    text = re.sub(r"\\(sin|cos|tan|cot|sec|csc) ?\^ ?(\d)", r"\\\1^{\2} ", text)
    text = re.sub(r"\\sqrt ?(\[\d+\]) ?(\w)", r"\\sqrt\1{\2}", text)
    text = text.replace("**", "^").replace("*", r" \cdot ")
    text = text.replace("<=", r"\le ").replace(">=", r"\ge ")
    text = re.sub(r"\^ ?\(([^()]*)\)", r"^{\1}", text)
    text = re.sub(r"\^ ?(-?\d{2,}|-\d)", r"^{\1}", text)
    return re.sub(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])", _exact_decimal, text)


def _kept_unless_unit(match: re.Match[str]) -> str:
    """Words that change what stands before them are no unit."""
    words = match.group()
    return words if changes_value(words) or re.search(r"\d[^}\d]|\d{2}", words) else ""


def _exact_decimal(match: re.Match[str]) -> str:
    """A decimal as the fraction it is: sympy's floats would be compared after rounding."""
    digits = (match[1] + match[2]).lstrip("0") or "0"
    return rf"\frac{{{digits}}}{{1{'0' * len(match[2])}}}"
