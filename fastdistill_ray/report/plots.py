"""Figures of the report: plain numbers -> SVG text. Knows nothing of run folders.

No pyplot: figures are plain objects, so nothing global is opened or left behind.
"""

import io
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastdistill_ray.objectives import OBJECTIVES

MODEL_COLOURS = {
    "base_plain": "#c0c7d1",
    "base": "#8490a3",
    "teacher": "#dd9a2b",
    **{kind: objective.colour for kind, objective in OBJECTIVES.items()},
}
VERDICT_COLOURS = {
    "correct": "#2f9e77",
    "wrong": "#cf5061",
    "unparsable": "#8e99aa",
    "truncated": "#8f7ac2",
    "timeout": "#7d8795",
    "error": "#3d4654",
}
SPARE_COLOURS = ["#b4508f", "#2d9bb3", "#8a6d3b", "#5b5fc7"]
LABEL_WIDTH = 42  # characters of a line
INK, SOFT, LINE = "#1d2433", "#667085", "#d5d9e0"
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
    "grid.color": "#eceef2",
    "legend.frameon": False,
    "legend.fontsize": 9,
}
TERMS = {name: title for one in OBJECTIVES.values() for name, title in one.terms.items()}
TRAINING_PANELS = {
    "train/loss": "Loss",
    **{f"loss/{name}": title for name, title in TERMS.items()},
    "loss/router": "Evenness of a router's choices",
    "train/learning_rate": "Learning rate",
}
HELD_OUT_PANELS = {
    "held_out/loss": "Loss",
    **{f"held_out/loss/{name}": title for name, title in TERMS.items()},
}
LIKELIHOOD_PANELS = {
    "held_out/likelihood_correct": "Correct",
    "held_out/weighted_likelihood_correct": "Correct, weighted",
    "held_out/likelihood_wrong": "Wrong",
    "held_out/weighted_likelihood_wrong": "Wrong, weighted",
}
TRAINING_FIGURES = {
    "training": (
        TRAINING_PANELS,
        "Every training by its learning rate; the chosen ones are drawn strong and solid. Long "
        "runs are smoothed by a running mean over a fortieth of the steps.",
    ),
    "held_out": (HELD_OUT_PANELS, "The same of held-out groups, which no step trained."),
    "likelihood": (
        LIKELIHOOD_PANELS,
        "Likelihood of held-out completions: the geometric mean of their token probabilities, "
        "averaged over completions, plainly and by their weights in their groups.",
    ),
}
PAGE_WIDTH = 10.8  # inches: the page's text width, so that points are shown as points


class Bar(NamedTuple):
    """A share with its interval, all in percent."""

    model: str
    label: str
    value: float
    low: float
    high: float


class Curve(NamedTuple):
    """One training: per quantity, the steps and values logged."""

    model: str
    label: str
    is_chosen: bool
    points: dict[str, tuple[np.ndarray, np.ndarray]]


class Lengths(NamedTuple):
    """Tokens of the correct and of the other answers of one writer."""

    label: str
    correct: np.ndarray
    wrong: np.ndarray


def model_colour(model: str) -> str:
    spare = SPARE_COLOURS[sum(model.encode()) % len(SPARE_COLOURS)]
    return MODEL_COLOURS.get(model, spare)


def accuracy_svg(panels: dict[str, list[Bar]]) -> str:
    """One panel per split: a bar per model with its interval."""
    limit = max(e.high for estimates in panels.values() for e in estimates)

    def paint(axes: list[Axes]) -> None:
        for axis, (title, estimates) in zip(axes, panels.items(), strict=True):
            _paint_estimates(axis, estimates)
            axis.set(title=title, xlim=(0, min(118, 1.18 * limit + 4)), xlabel="accuracy (%)")
            axis.set_xticks([tick for tick in range(0, 101, 20) if tick <= limit + 10])

    rows = max(len(estimates) for estimates in panels.values())
    lines = most_lines(one.label for estimates in panels.values() for one in estimates)
    return _svg("accuracy", 0.95 + (0.23 + 0.15 * lines) * rows, len(panels), paint)


def reward_svg(
    rewards: tuple[np.ndarray, np.ndarray], advantages: tuple[np.ndarray, np.ndarray]
) -> str:
    """Two stacked histograms; each pair is (of correct completions, of the others)."""

    def paint(axes: list[Axes]) -> None:
        titles = ("Reward", "Advantage")
        for axis, title, (correct, wrong) in zip(axes, titles, (rewards, advantages), strict=True):
            _paint_histogram(axis, correct, wrong)
            axis.set(title=title, xlabel=title.lower())
        axes[0].set_ylabel("completions")
        axes[0].legend(loc="upper center")

    return _svg("rewards", 2.9, 2, paint)


def correct_per_group_svg(num_correct: np.ndarray, group_size: int) -> str:
    counts = np.bincount(num_correct, minlength=group_size + 1)

    def paint(axes: list[Axes]) -> None:
        (axis,) = axes
        colours = [VERDICT_COLOURS["wrong"], *[MODEL_COLOURS["teacher"]] * (len(counts) - 2)]
        colours.append(VERDICT_COLOURS["correct"])
        bars = axis.bar(range(len(counts)), counts, width=0.78, color=colours)
        axis.bar_label(bars, labels=[f"{c:,}" for c in counts], padding=2, color=SOFT)
        axis.set(xlabel=f"correct completions of {group_size}", ylabel="groups")
        axis.set_xticks(range(len(counts)))
        axis.tick_params(length=0)
        axis.grid(axis="y")
        axis.margins(y=0.12)
        axis.locator_params(axis="y", integer=True, nbins=5)

    return _svg("correct per group", 2.8, 1, paint)


def verdict_svg(shares: dict[str, dict[str, float]]) -> str:
    """One stacked bar per writer; shares in percent."""
    verdicts = [name for name in VERDICT_COLOURS if any(row[name] for row in shares.values())]

    def paint(axes: list[Axes]) -> None:
        (axis,) = axes
        left = np.zeros(len(shares))
        for name in verdicts:
            widths = np.array([row[name] for row in shares.values()])
            colour = VERDICT_COLOURS[name]
            rows = list(map(wrapped, shares))
            bars = axis.barh(rows, widths, left=left, color=colour, label=name, height=0.66)
            texts = [f"{width:.0f}" if width >= 4 else "" for width in widths]
            axis.bar_label(bars, labels=texts, label_type="center", color="white", fontsize=8.5)
            left += widths
        axis.invert_yaxis()
        axis.set(xlim=(0, 100), xlabel="share of completions (%)")
        axis.spines["left"].set_visible(False)
        axis.tick_params(length=0)
        axis.legend(ncols=6, loc="lower left", bbox_to_anchor=(0, 1), handlelength=1)

    return _svg("verdicts", 1.0 + (0.12 + 0.15 * most_lines(shares)) * len(shares), 1, paint)


def training_svg(curves: list[Curve], panels: dict[str, str], name: str) -> str:
    """Quantities of a training over its steps; trials not chosen are thin."""
    shown = shown_panels(curves, panels)
    dashes = _dashes(curves)

    def paint(axes: list[Axes]) -> None:
        for axis, quantity in zip(axes, shown, strict=True):
            for curve in (curve for curve in curves if quantity in curve.points):
                steps, values = curve.points[quantity]
                smooth = quantity != "train/learning_rate"
                axis.plot(
                    *(_running_mean(steps, values) if smooth else (steps, values)),
                    color=model_colour(curve.model),
                    linewidth=2 if curve.is_chosen else 1,
                    alpha=1 if curve.is_chosen else 0.5,
                    linestyle=dashes[curve.label],
                    label=curve.label,
                )
            axis.set(title=panels[quantity], xlabel="step")
            axis.grid(axis="y")
            axis.ticklabel_format(axis="y", scilimits=(-3, 4))
            axis.locator_params(axis="x", integer=True, nbins=5)
        handles, labels = axes[0].get_legend_handles_labels()
        axes[0].figure.legend(handles, labels, loc="outside lower center", ncols=4)

    return _svg(name, 2.9 + 0.18 * ((len(curves) + 3) // 4), len(shown), paint)


def shown_panels(curves: list[Curve], panels: dict[str, str]) -> list[str]:
    return [name for name in panels if any(name in curve.points for curve in curves)]


def timeline_svg(
    generation: tuple[np.ndarray, np.ndarray], trainings: dict[str, tuple[np.ndarray, np.ndarray]]
) -> str:
    """Share of the groups committed and of each training's steps done, over minutes."""
    series = {"groups": generation, **trainings}
    start = min(times[0] for times, _ in series.values() if len(times))

    def paint(axes: list[Axes]) -> None:
        (axis,) = axes
        for label, (times, shares) in series.items():
            name = "teacher" if label == "groups" else label.split()[0]
            axis.plot((times - start) / 60, 100 * shares, color=model_colour(name), label=label)
        axis.set(xlabel="minutes", ylabel="done (%)", ylim=(0, 105))
        axis.set_xlim(left=0)
        axis.grid(axis="y")
        axis.legend(ncols=6, loc="lower left", bbox_to_anchor=(0, 1), handlelength=1)

    return _svg("timeline", 2.6, 1, paint)


def length_svg(writers: list[Lengths]) -> str:
    """Per writer two boxes: quartiles and median, whiskers at the 5th and 95th percentile."""

    def paint(axes: list[Axes]) -> None:
        (axis,) = axes
        for kind, shift in (("correct", -0.18), ("wrong", 0.18)):
            colour = VERDICT_COLOURS[kind]
            places = [(i, getattr(w, kind)) for i, w in enumerate(writers)]
            stats = [_box(values) for _, values in places if len(values)]
            axis.bxp(
                stats,
                positions=[i + shift for i, values in places if len(values)],
                orientation="horizontal",
                widths=0.28,
                showfliers=False,
                patch_artist=True,
                manage_ticks=False,
                boxprops={"facecolor": colour, "edgecolor": colour, "alpha": 0.75},
                medianprops={"color": "white", "linewidth": 1.8},
                whiskerprops={"color": colour},
                capprops={"color": colour},
            )
            axis.barh([0], [0], color=colour, alpha=0.75, label=kind)
        axis.set_yticks(range(len(writers)), [wrapped(writer.label) for writer in writers])
        axis.set(xlabel="tokens", ylim=(len(writers) - 0.45, -0.55))
        axis.set_xlim(left=0)
        axis.tick_params(length=0)
        axis.grid(axis="x")
        axis.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), handlelength=1)

    return _svg("lengths", 1.0 + 0.42 * len(writers), 1, paint)


def wrapped(label: str) -> str:
    """In lines, so that there is room for what it names."""
    return "\n".join(textwrap.wrap(label, LABEL_WIDTH))


def most_lines(labels: Iterable[str]) -> int:
    return max((wrapped(label).count("\n") + 1 for label in labels), default=1)


def _svg(name: str, height: float, num_panels: int, paint: Callable[[list[Axes]], None]) -> str:
    # The salt keeps ids of figures on one page apart, and equal from run to run.
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(PAGE_WIDTH, height), layout="constrained")
        paint(list(figure.subplots(1, num_panels, squeeze=False)[0]))
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)


def _paint_estimates(axis: Axes, estimates: list[Bar]) -> None:
    for place, estimate in enumerate(estimates):
        axis.barh(place, estimate.value, height=0.62, color=model_colour(estimate.model))
        below, above = estimate.value - estimate.low, estimate.high - estimate.value
        axis.errorbar(
            estimate.value,
            place,
            xerr=[[max(below, 0)], [max(above, 0)]],
            color=INK,
            elinewidth=1.2,
            capsize=3,
        )
        axis.text(estimate.high + 1.2, place, f"{estimate.value:.1f}", va="center", color=INK)
    axis.set_yticks(range(len(estimates)), [wrapped(estimate.label) for estimate in estimates])
    axis.invert_yaxis()
    axis.spines["left"].set_visible(False)
    axis.tick_params(length=0)
    axis.grid(axis="x")


def _paint_histogram(axis: Axes, correct: np.ndarray, wrong: np.ndarray) -> None:
    both = np.concatenate([correct, wrong])
    edges = np.histogram_bin_edges(both, bins=30)
    bottom = np.zeros(len(edges) - 1)
    for values, kind, label in ((correct, "correct", "correct"), (wrong, "wrong", "not correct")):
        counts, _ = np.histogram(values, edges)
        axis.bar(
            edges[:-1],
            counts,
            width=0.92 * np.diff(edges),
            bottom=bottom,
            align="edge",
            color=VERDICT_COLOURS[kind],
            label=label,
        )
        bottom += counts
    axis.grid(axis="y")
    axis.tick_params(length=0)


def _running_mean(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over a fortieth of the run, at least one step: long runs stay readable."""
    window = max(1, len(values) // 40)
    mean = np.convolve(values, np.ones(window) / window, mode="valid")
    return steps[window - 1 :], mean


def _dashes(curves: list[Curve]) -> dict[str, str]:
    """Trials of one student differ by their dashes; the chosen one is solid."""
    styles: dict[str, str] = {}
    for model in {curve.model for curve in curves}:
        own = sorted((c for c in curves if c.model == model), key=lambda c: not c.is_chosen)
        for place, curve in enumerate(own):
            styles[curve.label] = ("-", "--", ":", "-.")[place % 4]
    return styles


def _box(values: np.ndarray) -> dict[str, float]:
    low, first, median, third, high = np.percentile(values, [5, 25, 50, 75, 95])
    return {"whislo": low, "q1": first, "med": median, "q3": third, "whishi": high}
