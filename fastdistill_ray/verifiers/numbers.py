"""Exact value of an answer that is one number: literals, units, short closed expressions.

Values are rationals; nothing is ever rounded. Literals too long for a quotient stay decimal
strings, so integers of any size compare exactly. Bounded in time and memory.
"""

import functools
import re
from fractions import Fraction

from fastdistill_ray.verifiers.arithmetic import (
    NotANumber,
    Number,
    Parser,
    checked,
    is_equal,
    read_literal,
)
from fastdistill_ray.verifiers.cleaning import exact_notation, unwrap
from fastdistill_ray.verifiers.words import (
    BEFORE_VALUES,
    METRIC,
    PARTS,
    SCALES,
    WORD,
    changes_value,
    is_of_sentence,
    read_numeral,
)

MAX_EXPRESSION = 400  # characters of an expression; a plain literal may be longer
_CURRENCY = re.compile(
    r"[\u20ac\u00a3\u00a5\u20b9\u20a9\u00a2\u20bd\u0e3f]"
    r"|^(?:US|USD|EUR|GBP|INR|AUD|CAD|NZD|SGD|CHF|JPY|SEK|NOK|DKK|PLN|BRL|KRW|MXN|ZAR|NT|HK|CNY|RMB"
    r"|RM|Rs\.?) ?(?=[-+.\d])"
    r"|\\(?:euro|pounds|EUR|textsterling|texteuro|textdollar|yen|cent)(?![A-Za-z]) ?(?:\{\})?"
)
# `$5K`, `5K dollars`, `5 grand`; a bare 5K may be kelvins or thousands, 5 MM millimetres.
_OF_MONEY = re.compile(
    r"((?:\$|[\u20ac\u00a3\u00a5\u20b9]) ?[\d,.]*\d) ?(K|B|T|MM)(?![A-Za-z])"
    r"(?= *(?:$|[A-Za-z]{2}|[.,)}]))"
    r"|(\d) ?(K|B|T|MM|grand)(?= ?(?:dollars?|euros?|pounds?|bucks|USD|EUR|GBP)\b)"
    r"|(\d) ?(grand)(?=[\s.}]*$)"
)
_BY_LETTER = {
    **{"K": " thousand", "grand": " thousand", "MM": " million"},
    **{"B": " billion", "T": " trillion"},
}
_BARE_LETTERS = re.compile(r"\d(?:K| ?MM)(?![A-Za-z])")
_LABEL = re.compile(r"[A-Za-z][A-Za-z ]{0,40}:(?=[ \d-])")
_AND_FRACTION = re.compile(r"(?<=\d) +(?:and|&) +(?=\d+ ?/ ?\d|\\frac(?![A-Za-z]))")
# A statement up to its number, such as "She has" or "There are a total of".
_STATEMENT = re.compile(
    r"(?:[A-Za-z][A-Za-z']* ){0,7}(?:is|are|was|were|equals?|has|have|had|gets?|costs?|needs?"
    r"|takes?|exactly|total of)[ :]+(?:exactly |a total of )?(?=[-+.(\\]?\d|\\)",
    re.IGNORECASE,
)
_DOLLARS = re.compile(r"(?<![A-Za-z])(?:US|AU|A|CA|C|NZ|HK|S|NT|R)\\?\$")
_EQUALS = re.compile(r"==?|\\approx(?![A-Za-z])|\\equals")
_LEFT_SIDE = re.compile(r"[^,;<>\u2260]*")
_COMPARISON = re.compile(r"[<>]|\\(?:n?[lg]eq?|leqslant|geqslant|neq?|pm|mp|to|in|not)(?![A-Za-z])")
_TAIL = re.compile(
    r"(?:[^\W\d_]|[ /.()'%\u00b0-]|\\(?:Omega|mu)(?![A-Za-z])|\\%|\\degrees?|\\cdot"
    r"|\^ ?\{? ?\\circ ?\}?|\\circ"
    r"|\^ ?(?:-?[1-4]|\{ ?-?[1-4] ?\})|, ?(?=[^\W\d_]))*"
)
_UNIT_LETTERS = frozenset("mghslLAVWJNKCFTPdt")
# `42 dollars and 50 cents`, `3 euros 20 cents`.
_AND_CENTS = re.compile(
    r"(\$? ?[\d,]+) ?(?:dollars?|euros?|pounds?|bucks?|USD|EUR)?,? (?:and )?(\d{1,2}) ?(?:cents?"
    r"|pence|c)",
    re.IGNORECASE,
)
# `4 squared`, `half of 10`: operations in words between or beside literals.
_SPOKEN = tuple(
    (re.compile(rf"^{pattern}$", re.IGNORECASE), written)
    for pattern, written in (
        (r"half (?:a |of a )?(dozen|hundred|thousand|million|billion)", r"0.5 \1"),
        (r"([\d.,]+) squared", r"(\1)^2"),
        (r"([\d.,]+) cubed", r"(\1)^3"),
        (r"([\d.,]+) factorial", r"(\1)!"),
        (r"(?:double|twice) ([\d.,]+)", r"2*(\1)"),
        (r"(?:triple|thrice) ([\d.,]+)", r"3*(\1)"),
        (r"(?:half of|one half of|a half of) ([\d.,]+)", r"(\1)/2"),
        (r"([\d.,]+) (?:over|per|divided by|out of) ([\d.,]+)", r"(\1)/(\2)"),
        (r"([\d.,]+) (?:times|multiplied by) ([\d.,]+)", r"(\1)*(\2)"),
        (r"([\d.,]+) plus ([\d.,]+)", r"(\1)+(\2)"),
        (r"([\d.,]+) minus ([\d.,]+)", r"(\1)-(\2)"),
        (r"(?:(?:minus|negative) |[\u8d1f\u8ca0])(\d[\d.,]*)", r"-\1"),
        (r"(?:the )?square root of ([\d.,]+)", r"\\sqrt{\1}"),
    )
)
_SCIENTIFIC = re.compile(r"(?<=\d) ?[eE] ?\{ ?([+-]?\d{1,4}) ?\}")
_WHOLE_AND_PART = re.compile(r"(\d+) and ([a-z]+ [a-z]+)", re.IGNORECASE)
# The letter of an option in front of its value, `(B) 42`.
_OPTION = re.compile(
    r"(?:\\(?:textbf|mathbf|text|textrm|mathrm|bold|boldsymbol|bf) ?\{ ?)?(?:\([A-H]\)"
    r"|[A-H][).]) ?\}?"
    r"(?:[ ~]|\\[ ,;:!])*(?=[-+.(\\$]?\d|\\[a-z])"
)
_OPTION_OF_TEXT = re.compile(
    r"(?:\\(?:textbf|mathbf|text|textrm|mathrm|bold|boldsymbol|bf) ?\{ ?)?(?=\(?([A-H]))"
    r"(?:\([A-H]\)|[A-H][).]) ?\}?(?:(?:[ ~]|\\[ ,;:!])+|(?=\d|\\[a-z]))(?=[^ ])"
)
_FRACTION_UNIT = re.compile(
    r"\\frac ?\{([^{}\d]*(?:\^ ?\{? ?[1-4] ?\}?)?)\} ?\{([^{}\d]*(?:\^ ?\{? ?[1-4] ?\}?)?)\}$"
)
_BRACKET_UNIT = re.compile(r"\[ ?([A-Za-z][A-Za-z/^23 ]*)\]$")
_SQUARE_UNIT = re.compile(r"(?<=[A-Za-z])[23](?![\w.])")
_DANGLING = re.compile(r"(?:^[-/.]|[-/(]|\\cdot) *$|^-(?![A-Za-z])")
_LOOSE_THOUSANDS = re.compile(r"(?!\d+(?:, \d+)+$)\d{1,3}(?: ?, ?\d{3})+(?!\d)")
_COMMA_ZEROS = re.compile(r"-?\d{1,3},00", re.ASCII)
_SENTENCE_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.,/-])-?\d[\d,]*(?:\.\d+)?(?:/\d+)?(?![\d/^!_*=+]| ?[*=+^<>])%?"
)


def parse_number(text: str) -> Number:
    """Units, currency, separators, percent and `x =` are ignored; an expression has its value.

    Raises NotANumber, or TooLarge for a closed expression beyond the limits.
    """
    if len(text) > MAX_EXPRESSION:
        return read_literal(text.strip(" \t\r\n$."))
    return _short_number(text)


@functools.lru_cache(maxsize=65536)
def _short_number(text: str) -> Number:
    text = _OF_MONEY.sub(_scaled, _DOLLARS.sub("$", text))
    if _BARE_LETTERS.search(text):
        raise NotANumber
    text = _CURRENCY.sub("", unwrap(text)).strip()
    try:
        return read_literal(text)
    except NotANumber:
        text = exact_notation(_AND_FRACTION.sub(" ", _SCIENTIFIC.sub(r"e\1", text)))
        text = _spoken(without_statement(text))
        return _value_with_unit(_right_side(text))


def _scaled(money: re.Match[str]) -> str:
    value, letter = (group for group in money.groups() if group)
    return value + _BY_LETTER[letter]


def sentence_number(text: str) -> Number:
    """The one number of a sentence, `John spends $42 on food`; raises NotANumber.

    Nothing in the sentence may deny, bound or change it.
    """
    if len(text) > MAX_EXPRESSION:
        raise NotANumber
    text = unwrap(_DOLLARS.sub("$", text))
    found = list(_SENTENCE_NUMBER.finditer(text))
    if len(found) != 1 or "?" in text or _BARE_LETTERS.search(text):
        raise NotANumber
    before, after = text[: found[0].start()], text[found[0].end() :]
    around = before + after
    if not re.fullmatch(r"[^\W\d_]*(?:[^\W\d_]|[ \n'\"$%,.!()/\u20ac\u00a3-])*", around):
        raise NotANumber
    words = WORD.findall(around.replace("'", ""))
    if not words or any(len(word) == 1 and word not in "aIA" and word.isascii() for word in words):
        raise NotANumber
    if not is_of_sentence(before, after):
        raise NotANumber
    value = read_literal(found[0].group().rstrip("%,")) if "/" not in found[0].group() else None
    scaled = _scale(after.strip())
    if value is None or scaled[0] != 1:
        return _short_number(found[0].group() + " " + (after.strip().split() or [""])[0])
    return value


def without_option(text: str, reference: str = "") -> str:
    """`(B) 42` is 42: the letter of an option stands before its value, and in no reference."""
    option = (_OPTION_OF_TEXT if reference else _OPTION).match(text.strip())
    if not option or (reference and option[1] in reference):
        return text
    return text.strip()[option.end() :]


def join_thousands(text: str) -> str:
    """`1,234, 567` and `42,00` where one number is asked."""
    if _COMMA_ZEROS.fullmatch(text):
        return text.removesuffix(",00")
    return re.sub(r"[ ,]", "", text) if _LOOSE_THOUSANDS.fullmatch(text) else text


def _spoken(text: str) -> str:
    both = _WHOLE_AND_PART.fullmatch(text)
    if both and (part := read_numeral(both[2])) and not part[1] and part[0] < 1:
        return f"({both[1]}+{part[0]})"
    cents = _AND_CENTS.fullmatch(text)
    if cents:
        return f"{cents[1]}.{cents[2]:0>2}"
    for pattern, written in _SPOKEN:
        text = pattern.sub(written, text)
    return text


def without_statement(text: str) -> str:
    """`She has 5 apples` is 5 apples; refuses words that take back what is said."""
    statement = _STATEMENT.match(text)
    if not statement:
        return text
    if changes_value(statement.group(), BEFORE_VALUES):
        raise NotANumber
    return text[statement.end() :]


def is_several_numbers(text: str) -> bool:
    """More than one number stands in the text, so that no single one is committed."""
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", unwrap(text[:MAX_EXPRESSION]))
    return len(re.findall(r"\d+(?:\.\d+)?", plain)) > 1


def _right_side(text: str) -> str:
    """An equation's right side; its left must not commit to anything else."""
    label = _LABEL.match(text)
    if label:
        if changes_value(label.group(), BEFORE_VALUES):
            raise NotANumber
        text = text[label.end() :].strip()
    if _COMPARISON.search(text):
        raise NotANumber
    *left, right = _EQUALS.split(text)
    for side in left:
        if not _LEFT_SIDE.fullmatch(re.sub(r"(?<=\d),(?=\d{3})", "", side)):
            raise NotANumber
        if _is_another_literal(side.strip(), right.strip()):
            raise NotANumber  # 41 = 42 commits to neither
        if changes_value(side, frozenset(("or", "and", "not", "nor", "but", "if"))):
            raise NotANumber
    right = right.strip()
    if len(left) == 1 and re.fullmatch(r"[A-Za-z ]+", right) and re.search(r"\d", left[0]):
        if changes_value(right):
            raise NotANumber
        return left[0].strip()  # 42 = x, 42 = total
    return right


def _is_another_literal(side: str, right: str) -> bool:
    try:
        return not is_equal(read_literal(side), read_literal(right))
    except NotANumber:
        return False


def _value_with_unit(text: str) -> Number:
    parser = Parser(text)
    try:
        value = parser.sum()
        tail = text[parser.position :].strip()
    except ZeroDivisionError as error:
        raise NotANumber from error
    except NotANumber:
        spoken = read_numeral(text)
        if spoken is None:
            raise
        value, tail = spoken
    tail = _without_same(tail, value)
    factor, tail = _scale(tail)
    _check_unit(tail)
    return checked(value * factor)


def _without_same(tail: str, value: Fraction) -> str:
    """`forty-two (42)` and `12 (twelve)` say one number twice."""
    inside = re.match(r"\( ?([\w -]+?) ?\)$", tail)
    if inside:
        again = read_numeral(inside[1])
        digits = Fraction(int(inside[1])) if inside[1].isdecimal() else None
        if digits == value or (again and again == (value, "")):
            return ""
    return tail


def _scale(tail: str) -> tuple[Fraction, str]:
    """What the words that `tail` begins with multiply by: `dozen`, `million`, `tenths`."""
    factor = Fraction(1)
    while tail:
        word = WORD.match(tail)
        name = word.group() if word else ""
        if name[:1] in SCALES and not name[:1].isascii() and name[1:2] not in METRIC:
            name = name[:1]  # Chinese words are not spaced
        by = SCALES.get(name) or SCALES.get(name.lower() if len(name) > 1 else "")
        part = PARTS.get(name.lower())
        if by is None and (part is None or factor != 1):
            break
        factor *= by or part or 1
        tail = tail[len(name) :].strip()
        if part:
            break
    return min(factor, Fraction(10) ** 100), tail


def _check_unit(tail: str) -> None:
    tail = _BRACKET_UNIT.sub(r" \1", _FRACTION_UNIT.sub(r" \1/\2", tail)).strip()
    tail = _SQUARE_UNIT.sub("", re.sub(r"\{ ?([A-Za-z]+) ?\}", r"\1", tail))
    words = WORD.findall(tail)
    if not _TAIL.fullmatch(tail) or len(words) > 8 or _DANGLING.search(tail):
        raise NotANumber
    if changes_value(tail):
        raise NotANumber
    for word in words:
        is_variable = len(word) == 1 and word.isascii() and word not in _UNIT_LETTERS
        if is_variable or set(word) <= set("xyz"):
            raise NotANumber
