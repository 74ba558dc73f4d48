"""Random answers whose truth is known by how they are made: a value is drawn, then written.

Values are quotients, surds, polynomials and collections of quotients; nothing of the verifier is
used. A writing may be right or a near miss; `mutated` spoils one so that nobody knows.
"""

import math
import random
import re
from fractions import Fraction
from typing import NamedTuple

Rng = random.Random
HOSTILE = (
    *(
        "{",
        "}",
        "\\",
        "$",
        "^",
        "_",
        "(",
        ")",
        "[",
        "]",
        "/",
        "!",
        "%",
        ",",
        ".",
        "-",
        "=",
        "<",
        ">",
    ),
    *("9", "0", "e", "x", "\u00b2", "\uff14", "\u0664", "\u221a", "\u00bd", "\u200b", "\x00", "\n"),
    *(r"\boxed{", r"\text{", r"\frac", r"\sqrt", "</answer>", "<answer>", "<think>", "####"),
    *(
        "9^9^9^9",
        "!!",
        r"\cup",
        r"\pm",
        " or ",
        " and ",
        "verdict: correct",
        r"\begin{pmatrix}",
        "&",
    ),
)

_LITERAL = re.compile(r" *[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})? *", re.ASCII)


class Case(NamedTuple):
    """`is_right` is None when nobody knows."""

    kind: str
    reference: str
    response: str
    is_right: bool | None
    options: tuple[str, ...] = ()


def draw_case(rng: Rng) -> Case:
    return rng.choice(MAKERS)(rng)


def draw_spoilt(rng: Rng) -> Case:
    """A spoilt answer to a reference that no spoiling can make, so `correct` is always false."""
    case = draw_case(rng)
    reference = {"number": "7300000000019", "math": r"\frac{7300019}{\pi}", "choice": "J"}
    options = tuple(f"option {i} of ten" for i in range(10)) if case.kind == "choice" else ()
    wanted = reference.get(case.kind, "[7300000000019, 7300000000021]")
    return Case(case.kind, wanted, mutated(case.response, rng), False, options)


def mutated(text: str, rng: Rng) -> str:
    for _ in range(rng.randint(1, 4)):
        at, end = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
        edit = rng.randrange(5)
        if edit == 0:
            text = text[:at] + text[min(end, at + 3) :]
        elif edit == 1:
            text = text[:at] + rng.choice(HOSTILE) + text[at:]
        elif edit == 2:
            text = text[:at] + rng.choice(HOSTILE) * rng.randint(2, 300) + text[at:]
        elif edit == 3:
            text = text[:end] + text[at:end] + text[end:]
        else:
            text = text[end:] + text[:at]
    return text


def committed(answer: str, decoy: str, rng: Rng) -> str:
    """A response that commits to `answer` by the contract, whatever the decoy says."""
    box, false_box = rf"\boxed{{{answer}}}", rf"\boxed{{{decoy}}}"
    return rng.choice(
        (
            box,
            f"<think>{false_box}</think>\n<answer>{box}</answer>",
            f"<think>{decoy}</think>\n<answer>{answer}</answer>",
            f"<answer>{decoy}</answer> no: <answer>\n{box}\n</answer> {false_box}",
            f"First {false_box}, but then later {box}.",
            f"Thus $${box}$$ and \\boxed{{}}",
            f"{{ {{ {box} \\boxed{{{decoy}",
            f"The answer is {decoy}. Correct! So it is {box}",
            f"#### {decoy}\n#### {answer}",
            f"The answer is {decoy}. No. The final answer is: ${answer}$.",
        )
    )


def _case(kind: str, reference: str, answer: str, decoy: str, is_right: bool, rng: Rng) -> Case:
    return Case(kind, reference, committed(answer, decoy, rng), is_right)


def _number(rng: Rng) -> Case:
    value = draw_quotient(rng)
    other = value if rng.random() < 0.5 else near_miss(value, rng)
    kind = rng.choice(("number", "number", "math"))
    writing = write_quotient(other, rng)
    if kind == "number":
        writing = _decorated(writing, rng)
    decoy = write_quotient(near_miss(value, rng), rng)
    return _case(kind, write_plain(value), writing, decoy, other == value, rng)


def draw_quotient(rng: Rng) -> Fraction:
    size = 10 ** rng.randint(1, 9)
    above = rng.randint(-size, size)
    below = rng.choice((1, 1, 1, 2, 4, 5, 8, 10, 100, 1000, 3, 7, 12, rng.randint(2, 99)))
    return Fraction(above, below)


def near_miss(value: Fraction, rng: Rng) -> Fraction:
    others = [value + 1, value - 1, -value, value * 10, value / 10, value * 100, value + value]
    others += [value + Fraction(1, 10**6), value + Fraction(1, 3)]
    others += [1 / value] if value else []
    return rng.choice([other for other in others if other != value])


def write_plain(value: Fraction) -> str:
    below = value.denominator
    if below != 1 and 10**9 % below == 0:
        return _decimal(value)
    return str(value)


def _decimal(value: Fraction) -> str:
    """Exact, for denominators that divide 10^9."""
    digits = str(abs(value.numerator) * (10**9 // value.denominator)).rjust(10, "0")
    text = f"{digits[:-9]}.{digits[-9:].rstrip('0')}"
    return ("-" if value < 0 else "") + text.rstrip(".")


def write_quotient(value: Fraction, rng: Rng) -> str:
    sign, size = ("-" if value < 0 else ""), abs(value)
    scale = rng.randint(1, 9)
    above, below = size.numerator * scale, size.denominator * scale
    forms = [
        rf"{sign}\frac{{{above}}}{{{below}}}",
        rf"\dfrac{{{sign}{above}}}{{{below}}}",
        rf"\frac{{{above}}}{{{sign}{below}}}",
        f"{sign}{above}/{below}",
        f"{sign}({above}) / ({below})",
        rf"{sign}{above} \div {below}",
        rf"{sign}{size.numerator} \cdot {size.denominator}^{{-1}}",
    ]
    if size.denominator == 1:
        forms += [*_integers(size.numerator, sign, rng)] * 2
    elif size > 1:
        whole, rest = divmod(size, 1)
        forms += [rf"{sign}{whole}\frac{{{rest.numerator}}}{{{rest.denominator}}}"]
        forms += [f"{sign}{whole} {rest.numerator}/{rest.denominator}"]
    if 10**9 % size.denominator == 0:
        plain = _decimal(size)
        forms += [sign + plain, f"{sign}{plain}{'' if '.' in plain else '.'}00"]
        forms += [rf"{sign}{_decimal(size)} \times 10^{{0}}", f"{sign}0{plain}"]
        exponent = rng.randint(1, 4)
        if 10**9 % (size / 10**exponent).denominator == 0:
            forms.append(rf"{sign}{_decimal(size / 10**exponent)} \times 10^{{{exponent}}}")
            forms.append(f"{sign}{_decimal(size / 10**exponent)}e{exponent}")
    return rng.choice(forms)


def _integers(size: int, sign: str, rng: Rng) -> list[str]:
    separated = f"{size:,}"
    part = rng.randint(0, size)
    forms = [sign + separated.replace(",", mark) for mark in (",", "{,}", r"\,", " ", r",\!")]
    forms += [sign + str(size), sign + str(size).translate({48 + d: 0xFF10 + d for d in range(10)})]
    forms += ["\u2212" + str(size)] if sign else ["+" + str(size)]
    forms += [f"{sign}({part} + {size - part})", rf"{sign}\sqrt{{{size * size}}}"]
    factor = next((d for d in (2, 3, 5, 7, 11) if size % d == 0), 1)
    return [*forms, rf"{sign}{size // factor} \times {factor}"]


def _decorated(writing: str, rng: Rng) -> str:
    """What a number may carry by the contract."""
    return rng.choice(
        (
            writing,
            writing,
            f"${writing}$",
            f"x = {writing}",
            rf"{writing}\text{{ cm}}",
            rf"{writing}\%",
            f"{writing} dollars",
            f"{writing}.",
            rf"\text{{Total: }}{writing}",
            f"**{writing}**" if "*" not in writing else writing,
            rf"{writing} \text{{ m}}^2",
            f"({writing})",
        )
    )


def _surd(rng: Rng) -> Case:
    """a + b sqrt(n), n square-free: two are equal exactly when a, b and n are."""
    n = rng.choice((2, 3, 5, 6, 7, 10, 11))
    a, b = (
        Fraction(rng.randint(-9, 9), rng.randint(1, 4)),
        Fraction(rng.randint(1, 9), rng.randint(1, 5)),
    )
    other = (a, b, n)
    if rng.random() < 0.5:
        other = rng.choice(
            ((a + 1, b, n), (a, -b, n), (a, b + 1, n), (a, b, n + 1 if n != 3 else 5))
        )
        if other[2] in (4, 8, 12):
            other = (a, b, 13)
    answer = _write_surd(*other, rng)
    return _case("math", _write_surd(a, b, n, rng), answer, str(a), other == (a, b, n), rng)


def _write_surd(a: Fraction, b: Fraction, n: int, rng: Rng) -> str:
    scale = rng.randint(1, 3)
    root = rng.choice((rf"\sqrt{{{n}}}", rf"{{{n}}}^{{1/2}}", rf"\frac{{{n}}}{{\sqrt{{{n}}}}}"))
    if scale > 1:
        b, root = b / scale, rf"\sqrt{{{n * scale * scale}}}"
    part = rf"\frac{{{abs(b.numerator)}{root}}}{{{b.denominator}}}"
    if rng.random() < 0.5:
        part = rf"\frac{{{abs(b.numerator)}}}{{{b.denominator}}} \cdot {root}"
    sign = "-" if b < 0 else "+"
    return rng.choice(
        (f"{_latex(a)} {sign} {part}", f"{'-' if b < 0 else ''}{part} + ({_latex(a)})")
    )


def _latex(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value)
    return rf"{'-' if value < 0 else ''}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def _polynomial(rng: Rng) -> Case:
    """Coefficients, the constant first, decide."""
    variable = rng.choice("xynt")
    given = [rng.randint(-9, 9) for _ in range(rng.randint(1, 3))] + [rng.randint(1, 9)]
    other, letter = list(given), variable
    if rng.random() < 0.5:
        other[rng.randrange(len(other))] += rng.choice((-2, -1, 1, 2))
        if other == given or not any(other[1:]):
            other[-1] += 3
        if rng.random() < 0.2:
            other, letter = list(given), "z"
    answer = _write_polynomial(other, letter, rng)
    is_right = (other, letter) == (given, variable)
    return _case("math", _write_polynomial(given, variable, rng), answer, "0", is_right, rng)


def _write_polynomial(coefficients: list[int], variable: str, rng: Rng) -> str:
    if rng.random() < 0.3:
        text = f"{coefficients[-1]}{variable}{coefficients[-2]:+d}"
        for coefficient in reversed(coefficients[:-2]):
            text = f"{variable}({text}){coefficient:+d}"
        return text
    powers = ["", variable, f"{variable}^2", rf"{variable}^{{3}}"]
    terms = [f"{c:+d}{powers[i]}" for i, c in enumerate(coefficients) if c]
    rng.shuffle(terms)
    joiner = rng.choice(("", " "))
    return joiner.join(terms).removeprefix("+")


def _collection(rng: Rng) -> Case:
    """Order counts in tuples only, brackets in intervals, and how often in lists."""
    values = rng.sample(range(-20, 60), rng.randint(2, 4))
    shape = rng.choice(("tuple", "interval", "list", "set"))
    if shape == "interval":
        values = sorted(values)[:2]
    others, is_right = list(values), True
    change = rng.randrange(5)
    if change == 0:
        others, is_right = others[::-1], shape in ("list", "set")
    elif change == 1:
        others[rng.randrange(len(others))] += 100
        is_right = False
    elif change == 2 and shape != "interval":
        others, is_right = [*others, 99], False
    written = [write_plain(Fraction(value)) for value in values]
    given = [
        rng.choice((str(v), f"{2 * v}/2", f"{v}.0", rf"\frac{{{3 * v}}}{{3}}")) for v in others
    ]
    if shape == "interval":
        opening, closing = rng.choice("(["), rng.choice(")]")
        shown = opening + closing if rng.random() < 0.7 else rng.choice(("[]", "[)", "(]", "()"))
        is_right = is_right and shown == opening + closing
        reference = f"{opening}{', '.join(written)}{closing}"
        return _case(
            "math", reference, f"{shown[0]}{','.join(given)}{shown[1]}", "1", is_right, rng
        )
    if shape == "tuple":
        return _case("math", f"({','.join(written)})", f"({', '.join(given)})", "1", is_right, rng)
    kind = rng.choice(("list", "math"))
    braces = rng.choice(((r"\{", r"\}"), ("", "")))
    answer = f"{braces[0]}{', '.join(given)}{braces[1]}"
    reference = ", ".join(written) if shape == "list" else rf"\{{{','.join(written)}\}}"
    return _case(kind, reference, answer, "1", is_right, rng)


def _choice(rng: Rng) -> Case:
    options = tuple(rng.sample(("Paris", "London", "42", "0.5", "x + 1", "none of these"), 5))
    right, given = rng.randrange(5), rng.randrange(5)
    letter, text = "ABCDE"[given], options[given]
    forms = [letter, f"({letter})", letter.lower(), f"{letter}.", rf"\text{{{letter}}}"]
    forms += [f"**{letter}**", f"{letter}. {text}", f"({letter}) {text}", text, f"Option {letter}"]
    form = rng.choice(forms)
    response = committed(form, "ABCDE"[(given + 1) % 5], rng)
    return Case("choice", "ABCDE"[right], response, right == given, options)


def _hedged(rng: Rng) -> Case:
    """The right value beside another is no committed answer."""
    value = draw_quotient(rng)
    right, other = write_plain(value), write_plain(near_miss(value, rng))
    pair = [right, other]
    rng.shuffle(pair)
    joiner = rng.choice((" or ", ", ", " and ", r"\text{ or }", "; ", r" \text{ and } ", " to "))
    kind = rng.choice(("number", "math"))
    return _case(kind, right, joiner.join(pair), right, False, rng)


def _no_answer(rng: Rng) -> Case:
    value = draw_quotient(rng)
    right = write_plain(value)
    response = rng.choice(
        (
            rf"\boxed{{{right}",
            rf"<think>\boxed{{{right}}}</think><answer></answer>",
            rf"<think>\boxed{{{right}}}</think><answer>\boxed{{{right}</answer>",
            f"I think {right}",
            f"So the total is {right}. Thus \\boxed{{}}",
            f"The answer is not {right}.",
            rf"\boxed{{\text{{not }}{right}}}",
            f"verdict: correct ({right})",
            rf"\boxed{{correct}} {right}",
            f'<answer>{{"verdict": "correct", "answer": {right}}}</answer>',
        )
    )
    return Case("number", right, response, False)


SCALES = {"dozen": 12, "thousand": 1000, "k": 1000, "lakh": 10**5, "million": 10**6}
SCALES |= {"crore": 10**7, "\u4e07": 10**4, "\u4ebf": 10**8}
ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def _scaled(rng: Rng) -> Case:
    """A word of scale multiplies and is no unit."""
    count, (word, scale) = rng.randint(2, 99), rng.choice(list(SCALES.items()))
    reference = rng.choice((count, count * scale, count * scale, count * scale + 1))
    space = " " if word.isascii() and len(word) > 1 else ""
    answer = f"{count}{space}{word}"
    decoy = str(reference) if reference != count * scale else str(reference + 7)
    return _case("number", str(reference), answer, decoy, reference == count * scale, rng)


def _in_words(rng: Rng) -> Case:
    hundreds, tens, ones = rng.randint(1, 9), rng.randint(2, 9), rng.randint(1, 9)
    joint = rng.choice((" and ", " "))
    words = f"{ONES[hundreds]} hundred{joint}{TENS[tens - 2]}{rng.choice('- ')}{ONES[ones]}"
    value = 100 * hundreds + 10 * tens + ones
    reference = rng.choice((value, value, 100 * hundreds, 10 * tens + ones, ones))
    return _case("number", str(reference), words, str(value + 1), reference == value, rng)


def _changed_by_words(rng: Rng) -> Case:
    """The right number with a word that takes it back, bounds it or makes another number of it."""
    right = str(rng.randint(2, 9999))
    answer = rng.choice(
        (
            *(f"not {right}", f"{right} is wrong", f"fewer than {right}", f"below {right}"),
            *(f"at least {right}", f"{right} or {int(right) + 1}", f"{right} cannot be right"),
            *(f"{right} minus 1", f"twice {right}", f"{right}!!", f"{right}\\cdot", f"{right}-"),
            *(f"lambda: {right}", f"{right}_{{8}}", f"{right} in base 8", f"{right} dozen"),
            *(f"\u4e0d\u662f{right}", f"{right}\u4ee5\u4e0a", f"1/{right}", f"{right}\\pi"),
        )
    )
    return Case(rng.choice(("number", "math")), right, rf"\boxed{{{answer}}}", False)


def _stated_choice(rng: Rng) -> Case:
    """A choice in the wordings of models, taken back or not."""
    right, given = rng.choice("ABCD"), rng.choice("ABCD")
    other = rng.choice([letter for letter in "ABCD" if letter != given])
    agreeing = (
        *("option {0} is correct.", "The correct answer is ({0}).", "I choose {0}.", "\u9009{0}"),
        *("Answer: {0}", "{0}", "**Final Answer**\n{0}", "\\boxed{{{0}}}, not {1}"),
        *("<answer>{0} (not {1})</answer>", "\u7b54\u6848\u662f{0}", "so the answer is {0}"),
    )
    denying = (
        *("\\boxed{{{0} or {1}}}", "\\boxed{{{0}. {1}}}", "<answer>{0} - wrong</answer>"),
        *("<answer>not {0}</answer>", "\\boxed{{{0}, {1}}}", "option {0} is not correct."),
        *("<answer>{0} is not the answer</answer>", "\u4e0d\u9009{0}", "\\boxed{{\\neg {0}}}"),
    )
    is_denied = rng.random() < 0.4
    form = rng.choice(denying if is_denied else agreeing)
    return Case("choice", right, form.format(given, other), right == given and not is_denied)


def _named(rng: Rng) -> Case:
    """Names that differ by case, prime, subscript or a transpose are other names."""
    a, b = rng.sample(("x", "X", "r", "R", "n", "N", "x_1", "x_{2}", "f'", "A^T", "k"), 2)
    form = rng.choice((r"\sqrt{%s^2-%s^2}", "%s-2%s", r"\frac{%s}{%s+1}", "%s(%s+3)", "%s+5-%s"))
    if "^T" in a + b or "f'" in a + b:
        form = rng.choice(("%s-2%s", "%s+5-%s"))
    reference = form % (a, b)
    answer = form % rng.choice(((a, b), (b, a), (a, a), (b, b)))
    return Case("math", reference, rf"\boxed{{{answer}}}", answer == reference)


MAKERS = (
    *(_number, _number, _surd, _polynomial, _collection, _choice, _hedged, _no_answer),
    *(_scaled, _in_words, _changed_by_words, _stated_choice, _named),
)


def python_value(text: str) -> Fraction | None:
    """What a pocket calculator reads: literals divided in turn, else None."""
    parts = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text).strip().lstrip("$").rstrip("$.").split("/")
    try:
        values = [Fraction(part) for part in parts if _LITERAL.fullmatch(part)]
    except (ValueError, ZeroDivisionError):
        return None
    if len(values) != len(parts) or 0 in values[1:]:
        return None
    return math.prod([values[0], *(1 / value for value in values[1:])])
