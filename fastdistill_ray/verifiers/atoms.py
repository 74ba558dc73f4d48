"""Parts of an answer that are compared as a number, a numeral of some base, or words."""

import re

from fastdistill_ray.verifiers.arithmetic import NotANumber, Number, TooLarge
from fastdistill_ray.verifiers.cleaning import comparable, unwrap
from fastdistill_ray.verifiers.latex import NAMES
from fastdistill_ray.verifiers.numbers import parse_number
from fastdistill_ray.verifiers.structures import ASSIGNED
from fastdistill_ray.verifiers.words import DENYING, changes_value, words_of


class Unreadable(Exception):
    """The answer is not mathematics that may be parsed; says why."""


_CLOCK = re.compile(r"(\d{1,2}:\d{2}) ?([AaPp]\.?[Mm]\.?)?")
_NUMERAL = re.compile(r"\(?([0-9A-Za-z]+)\)? ?_ ?\{? ?(\d+) ?\}?")
_PAIR = re.compile(r"[(\[][^()\[\]]*,[^()\[\]]*[)\]]$")
BASE = re.compile(r"\d[A-Fa-f]*\)?_|[0-9A-Fa-f]{2,} ?_ ?\{? ?16|(?<![<>=]):")
_FUNCTION = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(NAMES)})(?![A-Za-z])")
_WORDS = re.compile(r"[^\W\d_]{2,}(?:[ '-][^\W\d_]+)*[.?!]?")
_DATED = re.compile(
    r"[A-Za-z]{3,}(?: [A-Za-z]{3,})* \d+|\d+ [A-Za-z]{3,}(?: [A-Za-z]+)* \d+"
)  # June 20
_LETTERS_OF_PRODUCTS = re.compile(r"[abcdkmnpqrstvwxyz]{2,3}")
_BARE_LETTERS = re.compile(
    r"(?<![A-Za-z\\])(?!(?<=\d)[eE][+-]?\d)[A-Za-z](?![A-Za-z])"
    r"|(?<![A-Za-z\\])[A-Za-z]{2,}(?=[_^\d(])"
)

_MAX_OR_MIN = re.compile(r"\\(max|min)(?![A-Za-z])")
_COMMAND = re.compile(r"\\[A-Za-z]+")


def label_of(item: str) -> tuple[str, ...]:
    r"""The words that say what a value is: chickens of `12\text{ chickens}`, max of `\max=5`."""
    text = _COMMAND.sub(" ", _MAX_OR_MIN.sub(r" \1 ", unwrap(item)))
    return tuple(word for word in words_of(text) if len(word) > 2)


def without_same_name(reference: str, answer: str) -> tuple[str, str]:
    """`x=5` and `5` compare by value, and so do `x=5` and `x=6`; `y=2x` and `x=2y` do not."""
    named, given = ASSIGNED.match(reference), ASSIGNED.match(answer)
    if named and given and comparable(named.group()) != comparable(given.group()):
        return reference, answer
    # An equation between two expressions, 2x=3y, has no name to drop.
    if (named or "=" not in reference) and (given or "=" not in answer):
        return (
            reference[named.end() :] if named else reference,
            answer[given.end() :] if given else answer,
        )
    return reference, answer


def number_of(text: str) -> Number | None:
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


def is_same_numeral(reference: str, answer: str) -> bool:
    """`2A_{16}` is `2a_16`, `3:30 PM` is 3:30 where nobody said which half of the day."""
    mine, theirs = _NUMERAL.fullmatch(reference), _NUMERAL.fullmatch(answer)
    if mine and theirs:
        return mine[2] == theirs[2] and mine[1].casefold() == theirs[1].casefold()
    one, other = (_CLOCK.fullmatch(unwrap(text)) for text in (reference, answer))
    return bool(one and other and one[1] == other[1] and not (one[2] and other[2]))


def is_same_word(reference: str, answer: str) -> bool:
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


def is_word(text: str) -> bool:
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
