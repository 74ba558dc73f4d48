"""What all figures share: style, size, and how one becomes the text of an SVG.

No pyplot: figures are plain objects, so nothing global is opened or left behind.
"""

import io
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastdistill_ray.report.colours import ROLES, themed

LABEL_WIDTH = 42  # characters of a line
INK, SOFT, LINE = (ROLES[name].day for name in ("ink", "soft", "axis"))
PAGE_WIDTH = 10.8  # inches: the page's text width, so that points are shown as points
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "text.parse_math": False,  # names may hold a dollar sign
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.labelcolor": SOFT,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": INK,
    "grid.color": ROLES["grid"].day,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def wrapped(label: str) -> str:
    """In lines, so that there is room for what it names."""
    return "\n".join(textwrap.wrap(label, LABEL_WIDTH))


def most_lines(labels: Iterable[str]) -> int:
    return max((wrapped(label).count("\n") + 1 for label in labels), default=1)


def svg(
    name: str,
    height: float,
    num_panels: int,
    paint: Callable[[list[Axes]], None],
    num_rows: int = 1,
) -> str:
    """What `paint` draws into panels side by side, in rows; colours of roles are variables."""
    # The salt keeps ids of figures on one page apart, and equal from run to run.
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(PAGE_WIDTH, height), layout="constrained")
        paint(list(figure.subplots(num_rows, num_panels, squeeze=False).flat))
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    text = buffer.getvalue()
    named = f'<svg role="img" aria-label="{name}" '
    return themed(text[text.index("<svg") :].replace("<svg ", named, 1))


def graph_svg(sources: dict[str, list[str]]) -> str:
    """Names and lines between them: each one stands right of all that it is made from."""
    depths: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in depths:
            depths[name] = 1 + max(map(depth, sources[name]), default=-1)
        return depths[name]

    columns: dict[int, list[str]] = {}
    for name in sources:
        columns.setdefault(depth(name), []).append(name)
    most = max(map(len, columns.values()))
    places = {
        name: (column, (row + 0.5) * most / len(names))
        for column, names in columns.items()
        for row, name in enumerate(names)
    }

    def paint(axes: list[Axes]) -> None:
        (axis,) = axes
        for name, before in sources.items():
            for other in direct(before, sources):
                (x0, y0), (x1, y1) = places[other], places[name]
                axis.plot([x0 + 0.02, x1 - 0.02], [y0, y1], color=SOFT, alpha=0.6, linewidth=0.8)
        for name, (x, y) in places.items():
            axis.plot([x], [y], marker="o", markersize=4, color=INK)
            axis.annotate(
                shortened(name, 30), (x, y), (5, 4), textcoords="offset points", fontsize=8
            )
        axis.set(xlim=(-0.05, max(columns) + 0.75), ylim=(most, 0))
        axis.set_axis_off()

    return svg("graph", 0.3 + 0.27 * most, 1, paint)


def direct(before: list[str], sources: dict[str, list[str]]) -> list[str]:
    """Those that are not made use of by another of them already."""

    def behind(name: str) -> set[str]:
        return {one for other in sources[name] for one in (other, *behind(other))}

    others = {one for name in before for one in behind(name)}
    return [name for name in before if name not in others]


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}\u2026"
