"""Multiple choice: the one letter an answer commits to, given alone, wrapped or with its text."""

import re

from fastdistill_ray.verifiers.cleaning import comparable, unwrap
from fastdistill_ray.verifiers.numbers import NotANumber, Number, TooLarge, is_equal, parse_number

MAX_CHOICE = 2_000  # characters
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CHINESE_MARK = re.compile(
    r"^\s*(?:\u9009\u62e9?|\u7b54\u6848)?\s*[:\uff1a]?\s*([A-Za-z\uff21-\uff3a])\u3001"
)
_LEAD = re.compile(
    r"(?:the |my )?(?:(?:final|correct|right|best) )*(?:answer|option|choice)\b(?: is\b)?[ :]*"
    r"|(?:\u7b54\u6848\s*(?:\u662f|\u4e3a)?|\u9009\u62e9?)[ :]*",
    re.IGNORECASE,
)
# (B), [B], B., B), B: and B- mark a letter; a bare B does so only when nothing follows.
_MARKED = re.compile(
    r"(?:[(\[] ?([A-Za-z]) ?[)\]][.:]?|([A-Za-z]) ?[).:\]]|([A-Za-z]) ?-(?= ))[* ]*"
)
_BARE = re.compile(r"([A-Za-z])(?: |$)")
_OTHER = re.compile(
    r"^[,;/&+|]? ?(?:(?i:and|or|also|not|but)\b|[,;/&+|])"
    r"|[(\[] ?[A-Z] ?[)\]]|\b[A-Z] ?[).:](?: |$)|(?i:\bor|\band|,) ?\(?[A-Z]\b\)?$"
)


class NotAChoice(Exception):
    """No letter, or text that belongs to none of the options."""


class SeveralChoices(Exception):
    """More than one letter, or a letter and another option's text."""


def parse_choice(text: str, options: tuple[str, ...]) -> str:
    """The letter; `options` are the texts in letter order, or empty when not known."""
    if len(text) > MAX_CHOICE:
        raise NotAChoice
    answer = unwrap(_CHINESE_MARK.sub(r"\1. ", text)).strip("* ")
    answer = _LEAD.sub("", answer, count=1) if _LEAD.match(answer) else answer
    letters = LETTERS[: len(options)] if options else LETTERS
    texts = [_option_text(option, LETTERS[i]) for i, option in enumerate(options[:26])]
    bare = answer.strip("()[]. :*")
    if len(bare) == 1 and bare.upper() in letters:
        return bare.upper()
    same = _matching(answer, texts)
    if same:
        return LETTERS[same[0]]
    marked, letter, rest = _split_letter(answer)
    if letter not in letters:
        raise NotAChoice
    same = _matching(rest, texts)
    if same and letter in [LETTERS[i] for i in same]:
        return letter
    if same or _OTHER.search(rest):
        raise SeveralChoices
    if not marked:
        raise NotAChoice
    return letter


def _split_letter(answer: str) -> tuple[bool, str, str]:
    marked = _MARKED.match(answer)
    match = marked or _BARE.match(answer)
    if not match:
        raise SeveralChoices if re.match(r"[A-Za-z] ?[,/;&+]", answer) else NotAChoice
    letter = next(group for group in match.groups() if group)
    return bool(marked), letter.upper(), answer[match.end() :].strip()


def _option_text(option: str, letter: str) -> str:
    """The option without a mark of its own letter in front, as in `A)5`."""
    marked = _MARKED.match(option)
    if marked and next(group for group in marked.groups() if group).upper() == letter:
        return option[marked.end() :] or option
    return option


def _matching(answer: str, texts: list[str]) -> list[int]:
    """Positions of the options that read like the answer, else of those of equal value."""
    if not answer:
        return []
    form = comparable(answer).casefold()
    same = [i for i, text in enumerate(texts) if comparable(text[:MAX_CHOICE]).casefold() == form]
    if same:
        return same
    try:
        value = parse_number(answer)
    except (NotANumber, TooLarge):
        return []
    return [i for i, text in enumerate(texts) if _has_value(text, value)]


def _has_value(text: str, value: Number) -> bool:
    try:
        return is_equal(parse_number(text), value)
    except (NotANumber, TooLarge):
        return False
