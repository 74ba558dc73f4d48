"""Exact value of a literal or a short closed expression, and equality of such values.

Values are rationals; nothing is ever rounded. Literals too long for a quotient stay decimal
strings, so integers of any size compare exactly. Bounded in time and memory.
"""

import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

MAX_DIGITS = 3_000  # of a literal that becomes a quotient
MAX_BITS = 60_000  # of numerator or denominator of an intermediate value
MAX_FACTORIAL = 3_000
MAX_DEPTH = 40


class Long(NamedTuple):
    """A literal of too many digits for a quotient: sign, digits without outer zeros, exponent."""

    is_negative: bool
    digits: str
    exponent: int


Number = Fraction | Long


class NotANumber(Exception):
    """The text is not one number."""


class TooLarge(Exception):
    """A closed expression whose value would not fit the limits."""


_LITERAL = re.compile(
    r"(?P<whole>\d{1,3}(?:,\d{3})+(?![\d,])|\d{1,2}(?:,\d{2})+,\d{3}(?![\d,])|\d{1,3}(?:'\d{3})+"
    r"(?![\d'])|\d{1,3}(?: \d{3})+(?! ?[\d/])|\d+(?!,\d))?"
    r"(?:\.(?P<part>\d*))?(?:[eE](?P<exponent>[+-]?\d{1,18})(?![\w.]))?",
    re.ASCII,
)
_MIXED = re.compile(r" ?\\frac ?(?:\{ ?(\d+) ?\}|(\d)) ?(?:\{ ?(\d+) ?\}|(\d))| (\d+) ?/ ?(\d+)")
_TIMES = re.compile(r" ?(?:\*(?!\*)|\\times(?![A-Za-z])|\\cdot(?![A-Za-z])|[xX](?= ?[\d(]))")
_OVER = re.compile(r" ?(?:/|\\div(?![A-Za-z]))")
_SPACES = re.compile(" *")
_DIGIT = re.compile(r" ?(\d)", re.ASCII)
_DEGREES = re.compile(r" ?\^ ?\{? ?\\circ")
_CHOSEN = re.compile(r"\\?(max|min|gcd|lcm) ?(?:\(|\\\{)([^(){}\\]{1,200})(?:\)|\\\})")


def is_equal(first: Number, second: Number, tolerance: Fraction | None = None) -> bool:
    if tolerance and isinstance(first, Fraction) and isinstance(second, Fraction):
        return abs(first - second) <= tolerance
    if isinstance(first, Long) and isinstance(second, Fraction):
        first, second = second, first
    if isinstance(first, Fraction) and isinstance(second, Long):
        return _is_long_equal(first, second)
    return first == second


def read_literal(text: str) -> Number:
    is_signed = text[:1] in ("+", "-")
    match = _LITERAL.fullmatch(text[1:].strip() if is_signed else text)
    if not match:
        raise NotANumber
    return _literal_value(match, text[:1] == "-")


def _is_long_equal(value: Fraction, literal: Long) -> bool:
    """An expression such as 10^4000 and its digits."""
    if len(literal.digits) + abs(literal.exponent) > MAX_BITS:
        return False
    # By Decimal, because int() refuses strings of more than 4300 digits.
    size = Fraction(int(Decimal(literal.digits))) * Fraction(10) ** literal.exponent
    return value == (-size if literal.is_negative else size)


def _literal_value(match: re.Match[str], is_negative: bool) -> Number:
    whole, part = match["whole"] or "", match["part"] or ""
    if not whole and not part:
        raise NotANumber
    digits = re.sub(r"[ ,']", "", whole) + part
    exponent = int(match["exponent"] or 0) - len(part)
    digits = digits.lstrip("0")
    exponent += len(digits) - len(digits.rstrip("0"))
    digits = digits.rstrip("0")
    if not digits:
        return Fraction(0)
    if len(digits) + abs(exponent) > MAX_DIGITS:
        return Long(is_negative, digits, exponent)
    if exponent >= 0:
        value = Fraction(int(digits) * 10**exponent)
    else:
        value = Fraction(int(digits), 10**-exponent)
    return -value if is_negative else value


class Parser:
    """Recursive descent over `text`; after `sum` the rest begins at `position`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.depth = 0

    def sum(self) -> Fraction:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotANumber
        value = self._product()
        while True:
            start = self.position
            sign = self._take("+", "-")
            if not sign:
                break
            try:
                term = self._product()
            except NotANumber:
                self.position = start
                break
            value = checked(value + term if sign == "+" else value - term)
        self.depth -= 1
        return value

    def whole(self) -> Fraction:
        value = self.sum()
        if self.position < len(self.text.rstrip()):
            raise NotANumber
        return value

    def _product(self) -> Fraction:
        value = self._signed()
        while True:
            start = self.position
            try:
                if self._match(_TIMES):
                    value = checked(value * self._signed())
                elif self._match(_OVER):
                    value = checked(value / self._signed())
                elif self._peek().startswith(("(", "\\frac", "\\sqrt")):
                    value = checked(value * self._power())
                else:
                    return value
            except NotANumber:
                self.position = start
                return value

    def _signed(self) -> Fraction:
        sign = 1
        while taken := self._take("-", "+"):
            sign = -sign if taken == "-" else sign
        return sign * self._power()

    def _power(self) -> Fraction:
        base = self._postfix()
        if _DEGREES.match(self.text, self.position) or not self._take("**", "^"):
            return base
        sign = -1 if self._take("-") else 1
        exponent = sign * (self._group() if self._peek().startswith("{") else self._power())
        return _power(base, exponent)

    def _postfix(self) -> Fraction:
        value = self._atom()
        while self._peek().startswith("!") and not self._peek().startswith("!="):
            is_double = bool(self._take("!!"))  # 5!! is 5*3*1
            if not is_double:
                self._take("!")
            if value.denominator != 1 or value < 0 or self._peek().startswith("!"):
                raise NotANumber
            if value > MAX_FACTORIAL:
                raise TooLarge
            number = int(value)
            factors = range(number, 0, -2) if is_double else range(1, number + 1)
            value = Fraction(math.prod(factors))
        return value

    def _atom(self) -> Fraction:
        if self._take("|"):
            value = self.sum()
            if not self._take("|"):
                raise NotANumber
            return abs(value)
        for opening, closing in (("(", ")"), ("[", "]"), ("{", "}")):
            if self._take(opening):
                value = self.sum()
                if not self._take(closing):
                    raise NotANumber
                return value
        if self._take("\\frac"):
            return checked(self._group() / self._group())
        if self._take("\\sqrt"):
            return _root(self._group())
        if chosen := self._match(_CHOSEN):
            return _chosen(chosen[1], [Parser(item).whole() for item in chosen[2].split(",")])
        return self._number()

    def _group(self) -> Fraction:
        """What a LaTeX command takes: a braced expression or one digit."""
        if self._peek().startswith(("{", "(")):
            return self._atom()
        digit = self._match(_DIGIT)
        if not digit:
            raise NotANumber
        return Fraction(digit[1])

    def _number(self) -> Fraction:
        self._match(_SPACES)
        match = _LITERAL.match(self.text, self.position)
        if not match or not match.group():
            raise NotANumber
        value = _literal_value(match, is_negative=False)
        if isinstance(value, Long):
            raise TooLarge
        self.position = match.end()
        if self._peek()[:1] == "_":  # 12_7: a numeral of another base
            raise NotANumber
        if match["part"] is None and match["exponent"] is None:
            mixed = self._match(_MIXED)
            if mixed:
                above, below = (int(part) for part in mixed.groups() if part is not None)
                value += Fraction(above, below)
        return value

    def _peek(self) -> str:
        return self.text[self.position : self.position + 8].lstrip()

    def _take(self, *tokens: str) -> str:
        """Moves past the first of `tokens` that comes next, after white space."""
        start = self.position
        while start < len(self.text) and self.text[start] == " ":
            start += 1
        for token in tokens:
            if self.text.startswith(token, start):
                self.position = start + len(token)
                return token
        return ""

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.position)
        if match:
            self.position = match.end()
        return match


def _chosen(name: str, values: list[Fraction]) -> Fraction:
    if name in ("max", "min"):
        return max(values) if name == "max" else min(values)
    if any(value.denominator != 1 for value in values):
        raise NotANumber
    whole = [int(value) for value in values]
    return Fraction(math.gcd(*whole) if name == "gcd" else math.lcm(*whole))


def checked(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooLarge
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise NotANumber
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if base not in (0, 1, -1) and abs(exponent) * bits > MAX_BITS:
        raise TooLarge
    if base in (0, 1, -1):
        exponent = exponent % 2 + (2 if exponent > 0 else 0) if exponent >= 0 else exponent % 2 - 2
    return base ** int(exponent)


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise NotANumber
    root = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
    if root * root != value:
        raise NotANumber
    return root
