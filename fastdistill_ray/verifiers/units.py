"""Units of measure behind a number: two that are known and differ make two answers."""

import re

_MEASURES = (
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
# Of each name the measures that it may be of: m is a metre or a minute.
_OF_NAME = {
    name: {place for place, names in enumerate(_MEASURES) if name in names.split()}
    for names in _MEASURES
    for name in names.split()
}
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
    one, other = (_OF_NAME.get(match[2], {match[2]}) for match in (mine, theirs))
    if not one & other:
        return mine[2] in _OF_NAME and theirs[2] in _OF_NAME
    powers = [_POWERS.get(match[1] or "") or match[3] for match in (mine, theirs)]
    return None not in powers and powers[0] != powers[1]


def _unit_of(text: str) -> re.Match[str] | None:
    unit = _UNIT.search(text)
    value = _COMMAND.sub("", text[: unit.start() + 1] if unit else "")
    return None if _NO_VALUE.search(value) else unit
