"""Colours of a page: each role by day and by night, of every model its own.

A figure is drawn with the colours of the day; `themed` makes each a variable of the page, so that
one figure serves both. Outside a page the colour of the day is what is left.

Verdicts differ by lightness, which every eye sees: correct is darkest (by night lightest), wrong
lies between, and what is neither is lightest; any two of these have a contrast of 3 or more.
"""

import functools
import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from fastdistill_ray.objectives import OBJECTIVES
from fastdistill_ray.records import VERDICTS


class Role(NamedTuple):
    day: str
    night: str


ROLES = {
    "page": Role("#ffffff", "#14181f"),
    "ink": Role("#1d2433", "#e6e9ef"),
    "soft": Role("#5d6778", "#a3adbd"),
    "line": Role("#e4e7ec", "#2b323d"),
    "axis": Role("#d5d9e0", "#465060"),
    "grid": Role("#eceef2", "#262d38"),
    "tint": Role("#f7f8fa", "#1c222b"),
    "link": Role("#3563a8", "#8ab4f8"),
    "accent": Role("#0e8a6b", "#35b592"),
    "edge": Role("#868fa0", "#7d8899"),  # around what is as light as the page
    "correct": Role("#03322a", "#9fe3cb"),
    "wrong": Role("#c7502a", "#c7502b"),
    "unparsable": Role("#d2d8e0", "#20242b"),
    "truncated": Role("#dccff7", "#2a1d45"),
    "timeout": Role("#f2d58a", "#352806"),
    "error": Role("#f5c6d4", "#451422"),
    "on-correct": Role("#fffffe", "#04382e"),
    "on-wrong": Role("#fffffd", "#fffffd"),
    "on-neither": Role("#1d2432", "#e6e9ee"),
}
VERDICT_COLOURS = {verdict: ROLES[verdict].day for verdict in VERDICTS}
HATCHES = {"unparsable": "", "truncated": "///", "timeout": "...", "error": "xx"}
BASELINES = {"base_plain": "#8892a1", "base": "#5f6978", "teacher": "#b9770e"}
OWN = BASELINES | {kind: objective.colour for kind, objective in OBJECTIVES.items()}
# Far from one another, from the baselines, and from both pages.
SPARE = (
    *("#db3395", "#9a57f0", "#d41101", "#1c73fd", "#746711", "#ef604e", "#729f3a", "#b06370"),
    *("#6054ec", "#be6db7", "#a94e00", "#7d7df9", "#b82d67", "#2699aa", "#85875c", "#2d8f09"),
    *("#8c5587", "#c56aff", "#ee56c5", "#b931b3", "#8c75b6", "#067094", "#ca8066", "#8a6051"),
    *("#f63d70", "#0f92f7", "#4d7054", "#6164a4", "#017b37", "#d96d92", "#0f8a6b", "#4a7bc8"),
)
CLOSEST = 0.05  # of two models on one page, in OKLab


def on_verdict(verdict: str) -> str:
    """Of text upon a verdict's colour."""
    name = verdict if verdict in ("correct", "wrong") else "neither"
    return ROLES[f"on-{name}"].day


@functools.cache
def model_colours(names: tuple[str, ...]) -> dict[str, str]:
    """Of each its own; of a method that is there twice, or whose colour an earlier one has, a spare
    one, far from those of all others. So a method looks the same in most reports."""
    taken: dict[str, str] = {}
    for name in names:
        own = OWN.get(name)
        if own and name not in taken and _nearest(own, taken.values()) >= CLOSEST:
            taken[name] = own
    for name in names:
        if name not in taken:
            taken[name] = max(SPARE, key=lambda one: _nearest(one, taken.values()))
    return {name: taken[name] for name in names}


def variables() -> str:
    """The roles as variables of CSS; on paper it is day."""
    day, night = (
        ":root { " + " ".join(f"--{name}: {role[place]};" for name, role in ROLES.items()) + " }"
        for place in (0, 1)
    )
    return (
        f":root {{ color-scheme: light; }}\n{day}\n@media screen and (prefers-color-scheme: dark) "
        f"{{ :root {{ color-scheme: dark; }}\n{night} }}\n"
    )


def themed(svg: str) -> str:
    """With the colours of roles as variables."""
    names = {role.day: name for name, role in ROLES.items() if name != "page"}
    return re.sub(
        r"#[0-9a-f]{6}\b",
        lambda found: f"var(--{names[found[0]]}, {found[0]})" if found[0] in names else found[0],
        svg,
    )


def on_paper(svg: str) -> str:
    """What `themed` made, for viewers that know no variables: of the day, on white."""
    plain = re.sub(r"var\(--[\w-]+, (#[0-9a-f]{6})\)", r"\1", svg)
    start = plain.index(">") + 1
    return f'{plain[:start]}<rect width="100%" height="100%" fill="#ffffff"/>{plain[start:]}\n'


def contrast(first: str, second: str) -> float:
    """Of WCAG 2: from 1 to 21."""
    low, high = sorted(map(luminance, (first, second)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    red, green, blue = _linear(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def distance(first: str, second: str) -> float:
    """In OKLab (Ottosson 2020): black and white are 1 apart."""
    return math.dist(_oklab(first), _oklab(second))


def _nearest(colour: str, others: Iterable[str]) -> float:
    return min((distance(colour, other) for other in others), default=1.0)


def _linear(colour: str) -> list[float]:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]


@functools.cache
def _oklab(colour: str) -> tuple[float, float, float]:
    r, g, b = _linear(colour)
    long = math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b)
    middle = math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b)
    short = math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b)
    return (
        0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short,
    )
