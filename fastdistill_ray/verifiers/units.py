"""Units of measure behind a number: two that are known and differ make two answers."""

import re

_MEASURES = tuple(
    frozenset(names.split())
    for names in (
        "mm millimeter millimeters millimetre millimetres",
        "cm centimeter centimeters centimetre centimetres",
        "m meter meters metre metres",
        "km kilometer kilometers kilometre kilometres",
        "in inch inches",
        "ft foot feet",
        "yd yds yard yards",
        "mi mile miles",
        "mg milligram milligrams",
        "g gram grams",
        "kg kilogram kilograms kilo kilos",
        "oz ounce ounces",
        "lb lbs pound pounds",
        "ml mL milliliter milliliters millilitre millilitres",
        "l L liter liters litre litres",
        "gal gallon gallons",
        "ms millisecond milliseconds",
        "s sec secs second seconds",
        "m min mins minute minutes",
        "h hr hrs hour hours",
        "day days",
        "week weeks",
        "month months",
        "year years yr yrs",
        "cent cents",
        "dollar dollars USD",
        "euro euros EUR",
        "degree degrees",
        "radian radians rad",
    )
)
_POWERS = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
_COMMAND = re.compile(r"\\(?!text|mbox|mathrm)[A-Za-z]+")
# Before a unit stands one value: of `2m + 3s` or of a list nothing is said.
_NO_VALUE = re.compile(r"[A-Za-z;]|,(?!\d{3}(?!\d))")
_UNIT = re.compile(
    r"(?:[\d)}]|\w(?=[ ~\\]))\$?(?: |~|\\[ ,;:!])*(?:\\(?:text|mbox|mathrm|textrm) ?\{)?"
    r"(?: |~|\\[ ,;:!])*"
    r"(?:(square|sq|cubic|cu)\.? )?([A-Za-z]+)\.? ?\}?(?: ?\^ ?\{? ?(\d) ?\}?)?[ .$]*$"
)


def are_other_units(reference: str, answer: str) -> bool:
    """Whether both end in a unit and these differ: `5 cm` and `5 m`, cm^2 and cm^3.

    A name outside the table is the same as any, and so is a power that only one of them has.
    Of several values nothing is said: they may stand in another order.
    """
    mine, theirs = _unit_of(reference), _unit_of(answer)
    if not (mine and theirs):
        return False
    is_same = mine[2] == theirs[2]
    one, other = (_measures_named(match[2]) for match in (mine, theirs))
    if one and other and not is_same:
        if not one & other:
            return True
        is_same = True
    powers = [_POWERS.get(match[1] or "") or match[3] for match in (mine, theirs)]
    return is_same and None not in powers and powers[0] != powers[1]


def _unit_of(text: str) -> re.Match[str] | None:
    unit = _UNIT.search(text)
    value = _COMMAND.sub("", text[: unit.start() + 1] if unit else "")
    return None if _NO_VALUE.search(value) else unit


def _measures_named(word: str) -> set[int]:
    """One, but for m, which is a metre or a minute."""
    return {place for place, names in enumerate(_MEASURES) if word in names}
