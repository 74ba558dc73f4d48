r"""Identity of expressions by their value at one point of a finite field: exact, and both ways.

Sums, products, quotients and powers of variables, rationals, pi, e, i and roots of rationals. Each
name stands for a fixed point modulo a prime P, i and the roots of small primes for their roots
modulo P. Two such expressions are the same function exactly when their values agree, up to a chance
of about 2^-270. Whatever could be read in two ways, or is anything else, has no fingerprint.
"""

import functools
import hashlib
import math
import re
from fractions import Fraction
from typing import NamedTuple

_PRIMES = [2, *(n for n in range(3, 200, 2) if all(n % d for d in range(3, 15, 2) if d < n))]
# P = 1 modulo 8 and modulo all small primes, so that -1 and they are squares modulo P.
P = 1 + 25 * 4 * math.prod(_PRIMES)
MAX_POWER = 100_000
MAX_BITS = 4_000  # of a rational that is known exactly
MAX_DEPTH = 40
_NAME = re.compile(r"([A-Za-z])(?:_(?:(\w)|\{ ?(\w+) ?\}))?(?!['_])")
_GREEK = re.compile(
    r"\\(alpha|beta|gamma|delta|epsilon|theta|lambda|mu|rho|sigma|tau|phi|omega"
    r"|pi)(?![A-Za-z])(?!_)"
)
_NUMBER = re.compile(r"\d+(?![.,]?\d|_)", re.ASCII)
_TIMES = re.compile(r"\*|\\cdot(?![A-Za-z])|\\times(?![A-Za-z])")
_OVER = re.compile(r"/|\\div(?![A-Za-z])")
_FACTOR = re.compile(r"[A-Za-z({\[]|\\(?!cdot|times|div)")
_PLAIN_FRACTION = re.compile(r"\\frac ?(?:\{ ?\d+ ?\}|\d) ?(?:\{ ?\d+ ?\}|\d)")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4}")
_FUNCTIONS = frozenset("fghpFGHP")
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class NoFingerprint(Exception):
    """The text is outside of what is read here."""


class Value(NamedTuple):
    """`exact` is None when the value is no rational, or a large one."""

    point: int
    exact: Fraction | None = None


def is_identical(first: str, second: str) -> bool | None:
    """None when one of the texts has no fingerprint."""
    one, other = fingerprint(first), fingerprint(second)
    return None if one is None or other is None else one == other


@functools.lru_cache(maxsize=16384)
def fingerprint(text: str) -> int | None:
    if _WORD.search(text):
        return None
    reader = _Reader(text)
    try:
        value = reader.sum()
        return value.point if reader.is_at_end() else None
    except NoFingerprint:
        return None


@functools.lru_cache(maxsize=4096)
def _point(name: str) -> int:
    return int.from_bytes(hashlib.sha512(name.encode()).digest(), "big") % P


@functools.cache
def _no_square() -> int:
    """The smallest number that is no square modulo P; products of small primes are squares."""
    larger = range(_PRIMES[-1] + 1, 10_000)
    return next(n for n in larger if pow(n, (P - 1) // 2, P) == P - 1)


@functools.lru_cache(maxsize=256)
def _root(square: int) -> int:
    """A square root modulo P of -1 or a small prime, by the method of Tonelli and Shanks."""
    odd, twos = P - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    step = pow(_no_square(), odd, P)
    root, rest = pow(square, (odd + 1) // 2, P), pow(square, odd, P)
    while rest != 1:
        order, power = 0, rest
        while power != 1:
            order, power = order + 1, power * power % P
        factor = pow(step, 1 << (twos - order - 1), P)
        root, step, twos = root * factor % P, factor * factor % P, order
        rest = rest * step % P
    return root


def _rational(exact: Fraction) -> Value:
    point = exact.numerator * pow(exact.denominator, -1, P) % P
    bits = max(exact.numerator.bit_length(), exact.denominator.bit_length())
    return Value(point, exact if bits <= MAX_BITS else None)


def _square_root(value: Value) -> Value:
    if value.exact is None:
        raise NoFingerprint
    below = value.exact.denominator
    left = value.exact.numerator * below
    outside, point = 1, 1
    if left < 0:
        left, point = -left, _root(-1 % P)
    for prime in _PRIMES:
        while left and left % (prime * prime) == 0:
            left, outside = left // (prime * prime), outside * prime
        if left and left % prime == 0:
            left, point = left // prime, point * _root(prime) % P
    whole = math.isqrt(left)
    if whole * whole != left:
        raise NoFingerprint  # the root of a larger prime
    factor = _rational(Fraction(outside * whole, below))
    return factor if point == 1 else Value(factor.point * point % P)


def _power(base: Value, exponent: Fraction) -> Value:
    if exponent.denominator == 2:
        return _power(_square_root(base), exponent * 2)
    if exponent.denominator != 1 or abs(exponent) > MAX_POWER:
        raise NoFingerprint
    number = int(exponent)
    if number < 0 and base.point == 0:
        raise NoFingerprint
    exact = base.exact
    if exact is not None:
        bits = max(exact.numerator.bit_length(), exact.denominator.bit_length())
        exact = exact**number if bits * abs(number) <= MAX_BITS else None
    return Value(pow(base.point, number, P), exact)


def _product(first: Value, second: Value) -> Value:
    if first.exact is not None and second.exact is not None:
        return _rational(first.exact * second.exact)
    return Value(first.point * second.point % P)


def _sum(first: Value, second: Value) -> Value:
    if first.exact is not None and second.exact is not None:
        return _rational(first.exact + second.exact)
    return Value((first.point + second.point) % P)


class _Reader:
    """Recursive descent over LaTeX as `expressions.to_latex` writes it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.depth = 0

    def is_at_end(self) -> bool:
        return not self._rest()

    def sum(self) -> Value:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NoFingerprint
        value = self._term()
        while self._rest()[:1] in ("+", "-") and self._rest():
            value = _sum(value, self._term())
        self.depth -= 1
        return value

    def _term(self) -> Value:
        """A product with its signs; a product after a slash has no agreed reading."""
        is_negative = False
        while self._rest()[:1] in ("+", "-") and self._rest():
            is_negative ^= self.text[self.position] == "-"
            self.position += 1
        value, is_divided = self._factor(), False
        while rest := self._rest():
            if match := _TIMES.match(rest):
                self.position += match.end()
                value = _product(value, self._factor())
            elif match := _OVER.match(rest):
                self.position += match.end()
                value = _product(value, _power(self._factor(), Fraction(-1)))
                is_divided = True
            elif _FACTOR.match(rest):
                if is_divided:
                    raise NoFingerprint
                value = _product(value, self._factor())
            else:
                break
        return _product(value, _rational(Fraction(-1))) if is_negative else value

    def _factor(self) -> Value:
        value = self._atom()
        if self._rest()[:1] != "^":
            return value
        self.position += 1
        rest = self._rest()
        exponent = self._group() if rest[:1] in ("{", "(") else self._digit()
        if exponent.exact is None or self._rest()[:1] == "^":
            raise NoFingerprint
        return _power(value, exponent.exact)

    def _atom(self) -> Value:
        rest = self._rest()
        if rest[:1] in _CLOSING:
            return self._group()
        if rest.startswith("\\frac"):
            self.position += 5
            above, below = self._argument(), self._argument()
            return _product(above, _power(below, Fraction(-1)))
        if rest.startswith("\\sqrt"):
            self.position += 5
            return _square_root(self._argument())
        if match := _NUMBER.match(rest):
            if len(match.group()) > 300 or _PLAIN_FRACTION.match(rest[match.end() :].lstrip()):
                raise NoFingerprint  # the latter is a mixed number or a product
            self.position += match.end()
            return _rational(Fraction(int(match.group())))
        return self._named(rest)

    def _named(self, rest: str) -> Value:
        if match := _GREEK.match(rest):
            self.position += match.end()
            return Value(_point(match.group()))
        match = _NAME.match(rest)
        if not match:
            raise NoFingerprint
        self.position += match.end()
        name = match[1] + (match[2] or match[3] or "")
        if name == "i":
            return Value(_root(-1 % P))
        if match[1] in _FUNCTIONS and self._rest()[:1] == "(":
            raise NoFingerprint
        return Value(_point(name if name == match[1] else f"{match[1]}_{name[1:]}"))

    def _argument(self) -> Value:
        """What a command takes: a braced expression, one digit or one name."""
        rest = self._rest()
        if rest[:1] == "{":
            return self._group()
        if rest[:1].isdigit():
            return self._digit()
        if rest[:1] in ("(", "["):
            raise NoFingerprint
        return self._named(rest)

    def _digit(self) -> Value:
        rest = self._rest()
        if not (rest[:1].isascii() and rest[:1].isdigit()):
            raise NoFingerprint
        self.position += 1
        return _rational(Fraction(int(rest[0])))

    def _group(self) -> Value:
        closing = _CLOSING[self._rest()[0]]
        self.position += 1
        value = self.sum()
        if self._rest()[:1] != closing:
            raise NoFingerprint
        self.position += 1
        return value

    def _rest(self) -> str:
        """The text that follows, white space passed over."""
        while self.text[self.position : self.position + 1] == " ":
            self.position += 1
        return self.text[self.position :]
