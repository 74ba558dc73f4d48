r"""Other writings of the same mathematics brought to one, as texts; nothing is compared here.

`C(n,2)` is `\binom{n}{2}`, `(1,2)U(3,4)` a union, `2n+1, n \ge 1` is `2n+1` under a condition.
"""

import re

_BASES = {
    **{"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9},
    **{"ten": 10, "eleven": 11, "twelve": 12, "sixteen": 16},
}
_BASE_NAMES = {"binary": 2, "octal": 8, "hexadecimal": 16, "hex": 16, "ternary": 3, "decimal": 10}
_WORDS_OF_BASES = "|".join(_BASES)
_ARGUMENT = r"((?:[^(),{}]|\{[^{}]*\}){1,30})"
_SAME = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"\\var(phi|epsilon|theta|rho|sigma|pi|kappa)(?![A-Za-z])", r"\\\1"),
        (r"(?<=,) ?(?:\\(?:[lc]?dots|dotsc)(?![A-Za-z])|\.{3}) ?(?=,|$)", r"\\ldots"),
        (r"\\lg(?![A-Za-z])", r"\\log_{10}"),
        (r"\\vee(?![A-Za-z])", r"\\lor"),
        (r"\\wedge(?![A-Za-z])", r"\\land"),
        (rf"(?<![A-Za-z\\])C ?\( ?{_ARGUMENT}, ?{_ARGUMENT}\)", r"\\binom{\1}{\2}"),
        (r"(?<![A-Za-z\\])(?:\{ ?\})?_\{? ?(\w) ?\}?C_\{? ?(\w) ?\}?", r"\\binom{\1}{\2}"),
        (r"(?<=\d) ?\^ ?\{? ?\\(?:mathrm|text|textrm|rm) ?\{? ?(?:th|st|nd|rd) ?\}? ?\}?$", ""),
        (r"(?<=\d) ?\^ ?\{ ?(?:th|st|nd|rd) ?\}$", ""),
        (r"(?<=\d)(?:th|st|nd|rd)$", ""),
        (r"_ ?\{ ?(?:\\(?:text|mathrm|rm) ?\{? ?)?\\?(max|min)(?: ?\})+", r"_\\\1"),
        (r"(?<=\d) (?:to|\\text ?\{ ?to ?\}) (?=\d)", ":"),
        (r"(?<=\d) ?\\text ?\{ ?to ?\} ?(?=\d)", ":"),
        (
            r"(?<=[)\]}]) ?(?:U|\\bigcup|\\text\{ ?(?:or|U) ?\}|\bor\b|\\sqcup) ?(?=[(\[])",
            r" \\cup ",
        ),
        (r"(?<=\)) ?(?=\([^()]*,[^()]*\))", ", "),
        (r"\\(?:text|mathrm|mbox) ?\{ ?mod(?:ulo)? ?\}|\\bmod(?![A-Za-z])", r"\\mod "),
        (r"\( ?\\?mod(?:ulo)?(?![A-Za-z]) *\{? ?(\w+) ?\}? ?\)", r"\\pmod{\1}"),
        (r"(?<=\w) \\?mod(?:ulo)? ?(\w+)$", r"\\pmod{\1}"),
        (r"\\mod ?\{? ?(\w+) ?\}?$", r"\\pmod{\1}"),
        (r"\\pmod ?(\w)(?!\w)", r"\\pmod{\1}"),
        (rf"(?<=\w) ?_ ?\{{? ?(?:\\text ?\{{ ?)?({_WORDS_OF_BASES})(?: ?\}})*", "_BASE"),
        (
            r"(?<=[0-9A-Fa-f]) ?,? ?\(? ?(?:\\text ?\{ ?\(?)? ?(?:in )?base[- ]"
            rf"(?:(\d{{1,2}})|({_WORDS_OF_BASES}))\)? ?\}}? ?\)?$",
            "_BASE",
        ),
        (r"(?<=[01]) ?\(? ?(?:\\text ?\{ ?\(?)? ?(?:in )?(binary)\)? ?\}? ?\)?$", "_BASE"),
    )
)
_LEAD = re.compile(
    r"(?:\\text ?\{ ?)?(?:(?:therefore|thus|hence|so|then|finally|we (?:get|have|find|obtain"
    r"|conclude)"
    r"(?: that)?|that is|i\.e\.|it follows that|the (?:solution|result|value)s? (?:is"
    r"|are))(?: ?\})?[,:]? )+"
    r"(?=[^ ])",
    re.IGNORECASE,
)
_CONDITION = re.compile(
    r"(?:[,;]? ?\\(?:text|mbox|mathrm|textrm) ?\{ ?,? ?(?:where|for|with|when|if|as|and"
    r"|such that|provided)\b.*"
    r"|[,;]? (?:where|for (?:all|any|every|each|some)|with|such that|provided(?: that)?) .*"
    r"|[,;] ?(?:\\forall ?)?([A-Za-z](?:_\w)?(?: ?, ?[A-Za-z])*) ?(?:\\in(?![A-Za-z])|\\geq?"
    r"|\\leq?|[<>]|\\neq?|>=|<=)[^,;]*"
    r"|,? ?\( ?([A-Za-z](?: ?, ?[A-Za-z])*) ?(?:\\in(?![A-Za-z])|\\geq?|\\leq?|[<>]"
    r"|\\neq?)[^()]*\))$"
)
_FOR_ALL = re.compile(r"\\forall ?([A-Za-z])[^,:]*[,:] ?")
_GAP = re.compile(r"\\q?quad(?![A-Za-z])|\\\\")
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:/\d+)?")
_BULLET = re.compile(r"^\s*(?:[-*\u2022]|\d{1,2}[.)])\s+")
_LIMIT_OF = re.compile(
    r"\\(?:lim|sum|prod|int|max|min|sup|inf|det|deg|dim|gcd|operatorname)(?![A-Za-z])"
    r"(?: ?_ ?(?:\w|\{[^{}]*\}))?(?: ?\^ ?(?:\w|\{[^{}]*\}))?[^=_^]*=(?=[^=])"
)
_CONGRUENT = re.compile(r"(?:(.*?) ?(?:\\equiv|=) ?)?([^=]*?) ?\\pmod ?\{ ?(\w+) ?\}")
_DEGREES = re.compile(
    r"(-?[\d.]+(?:/\d+)?) ?(?:\^ ?(?:\\circ|\{ ?\\circ ?\})|\u00b0|\\degrees?(?![A-Za-z]))"
)
_FUNCTION_OF = re.compile(r"([A-Za-z]) ?\( ?([A-Za-z]) ?\) ?=(?!=)")


def same_writing(text: str) -> str:
    """`text`, clean, in the one writing of what has several."""
    marks = ("...", *"\\UCbmo_^( ")
    if not any(mark in text for mark in marks) or text.isdecimal():
        return text
    lead = _LEAD.match(text)
    if lead and lead.end() < len(text):
        text = text[lead.end() :].strip(" {}") if text.startswith("\\text") else text[lead.end() :]
    for pattern, plain in _SAME:
        text = pattern.sub(_as_base, text) if plain == "_BASE" else pattern.sub(plain, text)
    return text


def _as_base(match: re.Match[str]) -> str:
    name = next(group for group in match.groups() if group)
    base = _BASES.get(name) or _BASE_NAMES.get(name) or int(name)
    return f"_{{{base}}}"


def without_condition(text: str) -> str:
    """`2n+1, n \\ge 1` and `\\forall x>0, f(x)=0` without the condition on a name they use."""
    leading = _FOR_ALL.match(text)
    if leading and _uses(text[leading.end() :], leading[1]):
        return text[leading.end() :]
    condition = None if "\\begin" in text else _CONDITION.search(text)
    if not condition or not condition.start():
        return text
    main = text[: condition.start()].strip()
    names = re.findall(
        r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", condition[1] or condition[2] or condition.group()
    )
    if re.search(r"\b(?:not|wrong|false|or|except|unless|odd|even)\b", condition.group()):
        return text
    return main if any(_uses(main, name) for name in names) else text


def _uses(text: str, name: str) -> bool:
    return name in re.sub(r"\\[A-Za-z]+", "", text)


def lines_as_list(text: str) -> str:
    """One item a line, with or without bullets, as `a, b`."""
    lines = [_BULLET.sub("", line).strip() for line in text.strip().splitlines()]
    lines = [line.rstrip(",;") for line in lines if line]
    return ", ".join(lines) if len(lines) > 1 and "\\begin" not in text else text


def spaced_as_list(text: str) -> str:
    r"""`1\quad 2\quad 3` as `1, 2, 3`."""
    items = [item.strip(" ,;") for item in _GAP.split(text)]
    if len(items) > 1 and all(_NUMBER.fullmatch(item) for item in items):
        return ", ".join(items)
    return text


def value_of_limit(text: str) -> str:
    r"""`\lim_{x \to 2} f(x) = 5` says 5."""
    match = _LIMIT_OF.match(text)
    return text[match.end() :].strip() if match and "=" not in text[match.end() :] else text


def congruence(text: str) -> tuple[str, str, str] | None:
    """What is congruent ("" when not said), to what, and the modulus."""
    match = _CONGRUENT.fullmatch(text)
    return ((match[1] or "").strip(), match[2].strip(), match[3]) if match else None


def in_radians(text: str) -> str:
    return _DEGREES.sub(r"\\frac{\1\\pi}{180}", text)


def has_degrees(text: str) -> bool:
    return _DEGREES.search(text) is not None


def renamed(reference: str, answer: str) -> str:
    r"""The answer with the reference's name of a function's variable or a free integer.

    `f(x)=x` for `f(z)=z`, `y=2x+1` for `f(x)=2x+1`, `n\pi` for `k\pi`.
    """
    expected, given = _FUNCTION_OF.match(reference), _FUNCTION_OF.match(answer)
    if expected and given and expected.groups() != given.groups():
        if expected[1].lower() == given[1].lower() and expected[1] != given[1]:
            return answer
        rest = answer[given.end() :]
        if expected[2] != given[2]:
            if _uses(rest, expected[2]) or f"{given[1]}(" in rest:
                return answer
            rest = _replaced(rest, given[2], expected[2])
        return expected.group() + rest
    if expected and not given and re.match(r"y ?=(?!=)", answer) and expected[2] != "y":
        return f"{expected.group()}{answer.split('=', 1)[1]}"
    if given and not expected and re.match(r"y ?=(?!=)", reference) and given[2] != "y":
        return f"y={answer[given.end() :]}"
    if "\\pi" in reference and "\\pi" in answer:
        mine, theirs = (set(_free_integers(text)) for text in (reference, answer))
        if len(mine - theirs) == 1 and len(theirs - mine) == 1:
            return _replaced(answer, (theirs - mine).pop(), (mine - theirs).pop())
    return answer


def _free_integers(text: str) -> list[str]:
    return re.findall(r"(?<![A-Za-z\\])[knm](?![A-Za-z_(=])|(?<=\d)[knm](?![A-Za-z_(=])", text)


def _replaced(text: str, name: str, other: str) -> str:
    return re.sub(
        rf"\\[A-Za-z]+|{name}", lambda m: m.group() if m.group()[0] == "\\" else other, text
    )
