"""Multiple choice: the one letter an answer commits to, given alone, wrapped or with its text."""

import re

from fastdistill_ray.verifiers.arithmetic import NotANumber, Number, TooLarge, is_equal
from fastdistill_ray.verifiers.cleaning import comparable, unwrap
from fastdistill_ray.verifiers.numbers import parse_number
from fastdistill_ray.verifiers.words import TAKING_BACK, words_of

MAX_CHOICE = 2_000  # characters
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ARABIC = str.maketrans("\u0627\u0623\u0628\u062c\u062f", "AABCD")
_CHINESE_MARK = re.compile(r"^\s*([A-Za-z\uff21-\uff3a])\u3001")
# Words before the letter that say no more than that it is the answer.
_LEAD = re.compile(
    r"(?:(?:so|thus|hence|therefore|then|and|clearly|indeed|i think|i believe),? )*"
    r"(?:(?:it|this|that)(?: is|'s| must be| should be) |i(?: would| will|'d|'ll)? "
    r"(?:pick|choose|select|chose|go with|say) )?(?:the |my |our |only )*"
    r"(?:(?:final|correct|right|best) )*(?:(?:answer|option|choice|letter|correct)s?\b)?"
    r"(?: is\b| would be\b| must be\b| should be\b| number\b)?(?: (?:option|choice|letter|indeed"
    r"|therefore)\b)*[ :]*",
    re.IGNORECASE,
)
_CHINESE_LEAD = re.compile(
    r"(?:\u56e0\u6b64|\u6240\u4ee5|\u6545)?[,\uff0c]?(?:\u6b63\u786e)?(?:\u672c\u9898"
    r"|\u7b54\u6848|\u9009\u9879|\u53ea\u6709|\u5e94\u8be5?|\u9009\u62e9?|\u662f"
    r"|\u4e3a)*[ :\uff1a]*"
)
# (B), [B], B., B), B: and B- mark a letter; a bare B does so only when nothing follows.
_MARKED = re.compile(
    r"(?:[(\[] ?([A-Za-z]) ?[)\]][.:]?|([A-Za-z]) ?[).:\]]|([A-Za-z]) ?-(?= ))[* \"']*"
)
_BARE = re.compile(r"([A-Za-z])(?=[ ,;!(\n]|$|[^\x00-\x7f])")
_OTHER = re.compile(
    r"^[,;/&+|]? ?(?:(?i:and|or|also)\b|[;/&+|]|, ?(?:[a-z](?![A-Za-z])))"
    r"|[(\[] ?[A-Z] ?[)\]]|\b[A-Z] ?[).:](?: |$)|(?i:\bor|\band|\bnot|,) ?\(?[A-Z]\b\)?$"
    r"|^ ?[A-Z]\b(?! [a-z])|\b(?i:option|choice|answer) \(?[A-Z]\b"
)
# `C (not D)`, `C, not D`: the letter stands, another is denied.
_EXCLUDED = re.compile(
    r"[ ,;(-]*(?:and |but )?(?:not|rather than|instead of|never) (?:option )?\(?[A-Z]\)?[ )]*\.?$"
)
_TRAILING = re.compile(
    r"(.+?)[ ,;:-]*(?:(?:\(|\b(?:option|choice|letter|answer) \(?)|, (?:so|thus|hence"
    r"|which is) \(?)([A-Z])"
    r"\)?[.! ]*",
    re.DOTALL,
)
_SEVERAL_TEXT = (
    "nor neither except unless if either or maybe perhaps possibly eliminate nope but however "
    "although both all"
)
_DENIALS = TAKING_BACK | frozenset(_SEVERAL_TEXT.split())
_CONFIRMING = re.compile(
    r"[, ]*(?:(?:is|seems|must be|would be) )?(?:(?:indeed|clearly|definitely) )?(?:the )?"
    r"(?:only |best |most |final |correct |right |true )*"
    r"(?:correct|right|best|true|answer|choice|option|one|\u9009\u9879|\u9879|\u6b63\u786e"
    r"|\u662f|\u5bf9|\u7684)*[.! ]*"
)
_TRUE = re.compile(r"[, ]*(?:is|seems|must be) (?:the )?(?:correct|right|best|true|answer)\b")
_BECAUSE = re.compile(
    r"[,;: (-]*(?:(?:because|since|as|due to|for) +|\u56e0\u4e3a)\w", re.IGNORECASE
)
_DENIED = re.compile(
    r"(?:not|no|never|except|neither)\b|[~!\u00ac\u4e0d\u975e]|\\(?:neg|lnot|sim)",
    re.IGNORECASE,
)
_DENIED_BY_SIGN = re.compile("[\u4e0d\u9519\u975e\u6216\u2717\u2718\u274c\u274e]")


class NotAChoice(Exception):
    """No letter, or text that belongs to none of the options."""


class SeveralChoices(Exception):
    """More than one letter, a letter and another option's text, or a letter that is taken back."""


def parse_choice(text: str, options: tuple[str, ...]) -> str:
    """The letter; `options` are the texts in letter order, or empty when not known."""
    if len(text) > MAX_CHOICE:
        raise NotAChoice
    if text.lstrip()[:1] in "~\u00ac!":
        raise NotAChoice
    answer = unwrap(_CHINESE_MARK.sub(r"\1. ", text)).strip("* \"'")
    letters = LETTERS[: len(options)] if options else LETTERS
    letter = _bare_letter(answer, letters)
    if letter:  # also where an option's text is another letter
        return letter
    texts = [_option_text(option, LETTERS[i]) for i, option in enumerate(options[:26])]
    same = _matching(answer, texts)
    if same:
        return LETTERS[same[0]]
    if _DENIED.match(answer):
        raise NotAChoice
    answer = answer[_lead(answer) :].strip("* \"'")
    if len(answer) == 1 and answer in "\u0627\u0623\u0628\u062c\u062f":
        answer = answer.translate(_ARABIC)
    letter = _bare_letter(answer, letters)
    if letter:
        return letter
    same = _matching(answer.strip("()\"'!"), texts)
    if same:
        return LETTERS[same[0]]
    marked, letter, rest = _split_letter(answer, texts)
    if letter not in letters:
        raise NotAChoice
    _check_rest(rest, letter, texts, is_marked=marked)
    return letter


def _bare_letter(answer: str, letters: str) -> str:
    """`C`, `(c)`, `C!`; "" when there is more or no such letter."""
    bare = answer.strip("()[]. :*!\"'").upper()
    return bare if len(bare) == 1 and bare in letters else ""


def _lead(answer: str) -> int:
    """Length of the words before the letter, 0 where a lone letter would be among them."""
    leads = (_LEAD.match(answer), _CHINESE_LEAD.match(answer))
    return max(lead.end() for lead in leads if lead)


def _split_letter(answer: str, texts: list[str]) -> tuple[bool, str, str]:
    """Whether the letter is marked as one, the letter, and what else is said."""
    trailing = _TRAILING.fullmatch(answer)
    if trailing and _says_own(trailing[1], trailing[2], texts):  # Oslo (C)
        return True, trailing[2], trailing[1].strip(" ,;:-\"'")
    marked = _MARKED.match(answer)
    match = marked or _BARE.match(answer)
    if not match:
        raise SeveralChoices if re.match(r"[A-Za-z] ?[,/;&+]", answer) else NotAChoice
    letter = next(group for group in match.groups() if group)
    if not marked and letter.islower() and answer[match.end() :].strip():
        raise NotAChoice  # `a lot`
    return bool(marked), letter.upper(), answer[match.end() :].strip()


def _says_own(text: str, letter: str, texts: list[str]) -> bool:
    own = LETTERS.index(letter)
    return own < len(texts) and _without_option(text, texts, own)[1]


def _check_rest(rest: str, letter: str, texts: list[str], *, is_marked: bool) -> None:
    """Raises unless what follows the letter says the same or says why."""
    said = rest.strip(" ,;:-.!()\"'")
    if not said or _EXCLUDED.fullmatch(rest) or _CONFIRMING.fullmatch(rest):
        return
    same = _matching(said, texts) or _matching(rest, texts)
    own = LETTERS.index(letter)
    if own in same:
        return
    if same:
        raise SeveralChoices
    without_own, has_own = _without_option(_EXCLUDED.sub("", rest), texts, own)
    is_explained = has_own or bool(_BECAUSE.match(rest)) or bool(_TRUE.match(rest))
    if _mentions_another(without_own, texts, own) or _OTHER.search(without_own):
        raise SeveralChoices
    if _DENIED_BY_SIGN.search(without_own):
        raise SeveralChoices
    denied = _DENIALS.intersection(words_of(without_own))
    if denied and not (_BECAUSE.match(rest) and not denied & {"wrong", "incorrect", "false", "or"}):
        raise SeveralChoices
    if not is_marked and not is_explained:
        raise NotAChoice


def _without_option(rest: str, texts: list[str], own: int) -> tuple[str, bool]:
    """`rest` without the first writing of the letter's own option, and whether it was there."""
    if not texts:
        return rest, False
    text = unwrap(texts[own][:MAX_CHOICE]).strip(" .")
    at = _find(text, rest)
    return (rest[: at[0]] + " " + rest[at[1] :], True) if at else (rest, False)


def _mentions_another(rest: str, texts: list[str], own: int) -> bool:
    own_text = unwrap(texts[own][:MAX_CHOICE]).casefold() if texts else ""
    for i, option in enumerate(texts):
        text = unwrap(option[:MAX_CHOICE]).strip(" .")
        is_part = text.casefold() in own_text
        is_telling = len(text) > 1 or text.isdigit()  # a letter may be a word's
        if i != own and is_telling and not is_part and _find(text, rest):
            return True
    return False


def _find(text: str, within: str) -> tuple[int, int] | None:
    if not text:
        return None
    found = re.search(rf"(?<![\w.]){re.escape(text)}(?!\w|\.\d)", within, re.IGNORECASE)
    return found.span() if found else None


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
