"""Words beside a value: what they are worth, which may be left out, which take the value back.

Whoever reads a value asks here before a word is left out: one that changes what is said never is.
"""

import re
from fractions import Fraction

WORD = re.compile(r"[^\W\d_]+")
_SCALE_WORDS = {
    12: "dozen dozens \u6253",
    20: "score scores",
    144: "gross grosses",
    10: "tens \u5341",
    100: "hundred hundreds \u767e",
    10**3: "thousand thousands k \u5343 \ucc9c",
    10**4: "myriad myriads \u4e07 \u842c \ub9cc",
    10**5: "lakh lakhs lac lacs",
    10**6: "million millions mln mn mio M",
    10**7: "crore crores",
    10**8: "\u4ebf \u5104 \uc5b5",
    10**9: "billion billions bn bln mrd",
    10**12: "trillion trillions tn trn \u5146",
    10**15: "quadrillion quadrillions",
}
SCALES = {word: value for value, words in _SCALE_WORDS.items() for word in words.split()}
METRIC = ("\u514b", "\u7c73", "\u74e6", "\u5361")  # after a thousand: kilogram, kilometre, kilowatt
_PART_WORDS = {
    2: "half halves",
    3: "third thirds",
    4: "quarter quarters fourth fourths",
    5: "fifth fifths",
    6: "sixth sixths",
    7: "seventh sevenths",
    8: "eighth eighths",
    9: "ninth ninths",
    10: "tenth tenths",
    12: "twelfth twelfths",
    16: "sixteenth sixteenths",
    20: "twentieth twentieths",
    100: "hundredth hundredths",
    1000: "thousandth thousandths",
    10**6: "millionth millionths",
}
PARTS = {word: Fraction(1, below) for below, words in _PART_WORDS.items() for word in words.split()}
_ONES_TEXT = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
_ONES = _ONES_TEXT.split()
_TENS_TEXT = "twenty thirty forty fifty sixty seventy eighty ninety"
_TENS = _TENS_TEXT.split()
_NUMERALS = {
    **{word: value for value, word in enumerate(_ONES)},
    **{word: 10 * value for value, word in enumerate(_TENS, 2)},
}
_OPERATIONS_TEXT = (
    "or and nor but plus minus add added subtract subtracted less least most more fewer "
    "greater larger bigger smaller higher lower times over divided multiplied squared cubed "
    "factorial doubled tripled halved quadrupled double triple twice thrice mod modulo pi "
    "infinity infinite sin cos tan log ln exp sqrt root power exponent reciprocal inverse "
    "negated negative remainder between through until above below under beyond within without "
    "except excluding besides instead versus vs either neither both otherwise alternatively "
    "base bases binary octal hexadecimal ternary multiple multiples respectively perhaps "
    "maybe possibly probably presumably supposedly allegedly about around approximately "
    "approx roughly circa nearly almost close near exceeding exceeds minimum maximum unless "
    "if when whenever though although however unlike whereas so repeating recurring"
)
_OPERATIONS = frozenset(_OPERATIONS_TEXT.split())
_TAKING_BACK_TEXT = (
    "not never no none cannot wont isnt wasnt arent doesnt wrong incorrect false untrue invalid "
    "mistaken impossible unlikely rejected eliminated excluded"
)
TAKING_BACK = frozenset(_TAKING_BACK_TEXT.split())
_DOUBTS_TEXT = (
    "nobody cant dont didnt couldnt shouldnt wouldnt incorrectly falsely mistake error erroneous "
    "unknown undefined undetermined nonsense refuted disproved doubtful dubious unsure uncertain "
    "guess guessing guessed joke kidding ruled discarded dismissed refute lambda def return print "
    "import low high any every anything nothing too hardly barely could might may can think "
    "thinks believe believes suppose assume estimate estimated why"
)
# Scales, bounds and denials of other languages; 5 millones is not 5.
_FOREIGN_TEXT = (
    "mil mill mille mila mill\u00f3n millon millones milliard milliards milliarde milliarden "
    "millionen milh\u00e3o milh\u00f5es tausend hundert dutzend ribu juta milyon "
    "ngh\u00ecn tri\u1ec7u \u0623\u0644\u0641 "
    "\u0442\u044b\u0441\u044f\u0447\u0430 \u0442\u044b\u0441\u044f\u0447\u0438 "
    "\u0442\u044b\u0441\u044f\u0447 \u0442\u044b\u0441 "
    "\u043c\u0438\u043b\u043b\u0438\u043e\u043d "
    "\u043c\u0438\u043b\u043b\u0438\u043e\u043d\u0430 "
    "\u043c\u0438\u043b\u043b\u0438\u043e\u043d\u043e\u0432 \u043c\u043b\u043d "
    "\u043c\u0438\u043b\u043b\u0438\u0430\u0440\u0434 "
    "\u043c\u0438\u043b\u043b\u0438\u0430\u0440\u0434\u043e\u0432 "
    "\u043c\u043b\u0440\u0434 "
    "menos moins m\u00e1s mindestens h\u00f6chstens wenigstens weniger mehr almeno "
    "ungef\u00e4hr etwa aproximadamente environ nicht kein keine "
    "\u043d\u0435 \u043d\u0435\u0442 \u043c\u0435\u043d\u0435\u0435 "
    "\u0431\u043e\u043b\u0435\u0435 \u043e\u043a\u043e\u043b\u043e"
)
_DENIALS = TAKING_BACK | frozenset((*_DOUBTS_TEXT.split(), *_FOREIGN_TEXT.split()))
_VERBS_TEXT = "is was are were be been will would shall should must has have had do"
_VERBS = frozenset(_VERBS_TEXT.split())
_SECOND_VALUES = frozenset((*_NUMERALS, *SCALES, *PARTS)) - {"k", "M"}
NOT_UNITS = _OPERATIONS | _DENIALS | _VERBS | _SECOND_VALUES
BESIDE_VERBS = NOT_UNITS - _VERBS
# Names of what a value is: `Remainder: 5`, `The base is 3 cm`.
_NAMES_TEXT = "remainder root power base exponent multiple multiples inverse reciprocal"
_NAMES = frozenset(_NAMES_TEXT.split())
BEFORE_VALUES = BESIDE_VERBS - _NAMES - frozenset(("minimum", "maximum"))
# What may stand in a sentence before or after its one number without changing it.
_BEFORE_TEXT = "so and but when both"
_BEFORE = BESIDE_VERBS - _NAMES - frozenset(_BEFORE_TEXT.split())
_AFTER_TEXT = "more times over and but so"
_AFTER = BESIDE_VERBS - frozenset(_AFTER_TEXT.split())
DENYING = _OPERATIONS | _DENIALS
_CHINESE_DENIES_TEXT = (
    "\u4e0d\u662f|\u4e0d\u5bf9|\u4e0d\u6b63|\u4e0d\u5230|[\u6216\u975e\u9519\u8bef\u7ea6\u500d]"
    "|\u5de6\u53f3|\u4ee5[\u4e0a\u4e0b]"
    "|[\u5927\u5c0f\u591a\u5c11]\u4e8e|\u81f3[\u5c11\u591a]|\u8d85\u8fc7|\u8fdb\u5236"
    "|\u53ef\u80fd|\u5927\u6982|\u51e0|\u534a(?![\u5f84\u5713\u5706\u7403])|[\u8d1f\u8ca0]"
    "|\u96f6\u4e0b|\u672a\u6ee1|\u672a\u6e80"
)
_CHINESE_DENIES = re.compile(_CHINESE_DENIES_TEXT)
_CHINESE_CHANGES = re.compile(
    _CHINESE_DENIES_TEXT + "|[\u4e0d\u6ca1\u65e0\u672a]|\u4ee5[\u5185\u5916]"
)
_UP_TO = re.compile(r"\bup to\b", re.IGNORECASE)
_SPLIT = re.compile(r"[ -]+")
_DIGITS = {
    digit: value
    for value, digit in enumerate("\u96f6\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d")
}
_DIGITS |= {"\u3007": 0, "\u4e24": 2}
_PLACES = {"\u5341": 10, "\u767e": 100, "\u5343": 1000}
_CHINESE_NUMERAL = re.compile(
    f"[{''.join(_DIGITS)}{''.join(_PLACES)}]+(?:\u4e07[{''.join(_DIGITS)}{''.join(_PLACES)}]*)?"
)


def words_of(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(text.replace("'", ""))]


def changes_value(text: str, others: frozenset[str] = NOT_UNITS) -> bool:
    """Whether a word here takes back, bounds, multiplies or repeats the value beside it."""
    return bool(others.intersection(words_of(text)) or _CHINESE_CHANGES.search(text))


def is_of_sentence(before: str, after: str) -> bool:
    """Whether a sentence that says this around its one number states that number."""
    if _BEFORE.intersection(words_of(before)) or _AFTER.intersection(words_of(after)):
        return False
    return not (_UP_TO.search(before) or _CHINESE_DENIES.search(before + after))


def read_numeral(text: str) -> tuple[Fraction, str] | None:
    """The value of the words that `text` begins with, and what follows them; None: it does not.

    `forty-two apples`, `three and a half`, `two thirds`, `a hundred and five`, and in Chinese up to
    millions.
    """
    chinese = _CHINESE_NUMERAL.match(text)
    if chinese:
        value = _chinese_value(chinese.group())
        return None if value is None else (value, text[chinese.end() :].strip())
    # The longest beginning that is a numeral as a whole.
    ends = [match.end() for match in re.finditer(r"[A-Za-z]+", text[:120])]
    for end in reversed(ends):
        value = _english_value(_SPLIT.split(text[:end].lower().strip()))
        if value is not None:
            return value, text[end:].strip()
    return None


def _english_value(words: list[str]) -> Fraction | None:
    if not words:
        return None
    if "and" in words:
        at = len(words) - words[::-1].index("and") - 1
        part = _part(words[at + 1 :])
        if part is not None and at:
            whole = _whole(words[:at])
            return None if whole is None else whole + part
    part = _part(words)
    if part is not None:
        return part
    whole = _whole(words)
    return None if whole is None else Fraction(whole)


def _part(words: list[str]) -> Fraction | None:
    """`a half`, `two thirds`, `half`."""
    if not words or words[-1] not in PARTS:
        return None
    if len(words) == 1:
        return PARTS[words[0]] if words[0] in ("half", "quarter") else None
    count = 1 if words[:-1] in (["a"], ["an"]) else _whole(words[:-1])
    return None if count is None else count * PARTS[words[-1]]


def _whole(words: list[str]) -> int | None:
    total = current = 0
    before = ""  # kind of the word before: "", one, ten, hundred, scale, and
    for word in words:
        if word in ("a", "an") and before == "" and len(words) > 1:
            current, before = 1, "one"
        elif word in _NUMERALS and before != "one":
            value = _NUMERALS[word]
            if before == "ten" and not 0 < value < 10:
                return None
            current, before = current + value, "ten" if value >= 20 else "one"
        elif word == "hundred" and before in ("one", "ten") and 0 < current < 100:
            current, before = current * 100, "hundred"
        elif word in ("dozen", "score", "gross") and len(words) > 1 and before == "one":
            current, before = current * SCALES[word], "one"
        elif word in ("thousand", "million", "billion") and before and before != "and":
            if not current or (total and SCALES[word] >= total):
                return None
            total, current, before = total + current * SCALES[word], 0, "scale"
        elif word == "and" and before in ("hundred", "scale"):
            before = "and"
        else:
            return None
    return None if before in ("", "and") else total + current


def _chinese_value(text: str) -> Fraction | None:
    if all(character in _DIGITS for character in text):
        return Fraction(int("".join(str(_DIGITS[character]) for character in text)))
    above, ten_thousand, rest = text.partition("\u4e07")
    high, low = _chinese_section(above), _chinese_section(rest) if rest else 0
    if high is None or low is None:
        return None
    return Fraction(high * 10_000 + low if ten_thousand else high)


def _chinese_section(text: str) -> int | None:
    total = digit = 0
    is_digit = False
    for character in text:
        if character in _PLACES:
            total += (digit if is_digit else 1) * _PLACES[character]
            digit, is_digit = 0, False
        elif is_digit and digit:
            return None
        else:
            digit, is_digit = _DIGITS[character], True
    return total + digit
