"""Figures of the report: plain numbers -> SVG text. Knows nothing of run folders."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from fastdistill_ray.objectives import OBJECTIVES
from fastdistill_ray.report.colours import HATCHES, ROLES, VERDICT_COLOURS, on_verdict
from fastdistill_ray.report.drawing import INK, SOFT, most_lines, svg, wrapped

MARKERS = "os^Dv<>Pp*hX"
MOST_POINTS = 400  # of a line
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


class Bar(NamedTuple):
    """A share with its interval, all in percent."""

    colour: str
    label: str
    value: float
    low: float
    high: float


class Curve(NamedTuple):
    """One training: per quantity, the steps and values logged."""

    model: str
    colour: str
    label: str
    is_chosen: bool
    points: dict[str, tuple[np.ndarray, np.ndarray]]


class Span(NamedTuple):
    """One stage: when it was worked on, in minutes of work before and after it."""

    label: str
    colour: str
    start: float
    end: float


class Progress(NamedTuple):
    """Seconds of the clock and the share that was done by then."""

    label: str
    colour: str
    times: np.ndarray
    shares: np.ndarray


class Lengths(NamedTuple):
    """Tokens of the correct and of the other answers of one writer."""

    label: str
    correct: np.ndarray
    wrong: np.ndarray


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
    return svg("accuracy", 0.95 + (0.23 + 0.15 * lines) * rows, len(panels), paint)


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

    return svg("rewards", 2.9, 2, paint)


def correct_per_group_svg(num_correct: np.ndarray, group_size: int) -> str:
    counts = np.bincount(num_correct, minlength=group_size + 1)

    def paint(axes: list[Axes]) -> None:
        (axis,) = axes
        colours = [VERDICT_COLOURS["wrong"], *[ROLES["edge"].day] * (len(counts) - 2)]
        colours.append(VERDICT_COLOURS["correct"])
        bars = axis.bar(range(len(counts)), counts, width=0.78, color=colours)
        axis.bar_label(bars, labels=[f"{c:,}" for c in counts], padding=2, color=SOFT)
        axis.set(xlabel=f"correct completions of {group_size}", ylabel="groups")
        axis.set_xticks(range(len(counts)))
        axis.tick_params(length=0)
        axis.grid(axis="y")
        axis.margins(y=0.12)
        axis.locator_params(axis="y", integer=True, nbins=5)

    return svg("correct per group", 2.8, 1, paint)


def verdict_svg(shares: dict[str, dict[str, float]]) -> str:
    """One stacked bar per writer; shares in percent."""
    verdicts = [name for name in VERDICT_COLOURS if any(row[name] for row in shares.values())]

    def paint(axes: list[Axes]) -> None:
        (axis,) = axes
        left = np.zeros(len(shares))
        for name in verdicts:
            widths = np.array([row[name] for row in shares.values()])
            rows = list(map(wrapped, shares))
            bars = axis.barh(rows, widths, left=left, label=name, height=0.66, **_fill(name))
            texts = [f"{width:.0f}" if width >= 4 else "" for width in widths]
            dark = on_verdict(name)
            axis.bar_label(bars, labels=texts, label_type="center", color=dark, fontsize=8.5)
            left += widths
        axis.invert_yaxis()
        axis.set(xlim=(0, 100), xlabel="share of completions (%)")
        axis.spines["left"].set_visible(False)
        axis.tick_params(length=0)
        axis.legend(ncols=6, loc="lower left", bbox_to_anchor=(0, 1), handlelength=1)

    return svg("verdicts", 1.0 + (0.12 + 0.15 * most_lines(shares)) * len(shares), 1, paint)


def training_svg(curves: list[Curve], panels: dict[str, str], name: str) -> str:
    """Quantities of a training over its steps; trials not chosen are thin, a model has a marker."""
    shown = shown_panels(curves, panels)
    num_columns = min(3, len(shown))
    num_rows = -(-len(shown) // num_columns)
    dashes = _dashes(curves)
    markers = _markers(curve.model for curve in curves)

    def paint(axes: list[Axes]) -> None:
        for axis in axes[len(shown) :]:
            axis.set_axis_off()
        for axis, quantity in zip(axes, shown, strict=False):
            for curve in (curve for curve in curves if quantity in curve.points):
                steps, values = curve.points[quantity]
                if quantity != "train/learning_rate":
                    steps, values = _running_mean(steps, values)
                axis.plot(
                    *_thinned(steps, values),
                    color=curve.colour,
                    linewidth=2 if curve.is_chosen else 1,
                    alpha=1 if curve.is_chosen else 0.5,
                    linestyle=dashes[curve.label],
                    marker=markers[curve.model],
                    markersize=4.5,
                    markevery=0.25,
                    label=curve.label,
                )
            axis.set(title=panels[quantity], xlabel="step")
            axis.grid(axis="y")
            axis.ticklabel_format(axis="y", scilimits=(-3, 4))
            axis.locator_params(axis="x", integer=True, nbins=5)
        handles, labels = axes[0].get_legend_handles_labels()
        names = [wrapped(label) for label in labels]
        axes[0].figure.legend(handles, names, loc="outside lower center", ncols=3)

    lines = most_lines(curve.label for curve in curves)
    height = 2.5 * num_rows + 0.4 + (0.03 + 0.15 * lines) * -(-len(curves) // 3)
    return svg(name, height, num_columns, paint, num_rows)


def shown_panels(curves: list[Curve], panels: dict[str, str]) -> list[str]:
    return [name for name in panels if any(name in curve.points for curve in curves)]


def progress_svg(series: list[Progress]) -> str:
    """Share done over minutes since the first began."""
    start = min(one.times[0] for one in series if len(one.times))
    markers = _markers(one.label for one in series)

    def paint(axes: list[Axes]) -> None:
        (axis,) = axes
        for one in series:
            axis.plot(
                *_thinned((one.times - start) / 60, 100 * one.shares),
                color=one.colour,
                label=wrapped(one.label),
                marker=markers[one.label],
                markersize=4.5,
                markevery=0.25,
            )
        axis.set(xlabel="minutes", ylabel="done (%)", ylim=(0, 105))
        axis.set_xlim(left=0)
        axis.grid(axis="y")
        axis.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), handlelength=1.6)

    lines = most_lines(one.label for one in series)
    return svg("progress", 2.3 + (0.05 + 0.15 * lines) * -(-len(series) // 3), 1, paint)


def stages_svg(spans: list[Span]) -> str:
    """A bar a stage, in the order given."""

    def paint(axes: list[Axes]) -> None:
        (axis,) = axes
        end = max(span.end for span in spans)
        for place, span in enumerate(spans):
            width = max(span.end - span.start, 0.003 * end)
            axis.barh(place, width, left=span.start, height=0.6, color=span.colour)
        axis.set_yticks(range(len(spans)), [wrapped(span.label) for span in spans])
        axis.invert_yaxis()
        axis.set(xlabel="minutes of work")
        axis.set_xlim(left=0)
        axis.grid(axis="x")
        axis.tick_params(length=0)

    lines = most_lines(span.label for span in spans)
    return svg("timeline", 0.7 + (0.1 + 0.13 * lines) * len(spans), 1, paint)


def scores_svg(scores: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """A histogram of each raw score, of correct completions and of the others."""
    num_columns = min(3, len(scores))
    num_rows = -(-len(scores) // num_columns)

    def paint(axes: list[Axes]) -> None:
        for axis in axes[len(scores) :]:
            axis.set_axis_off()
        for axis, (name, (correct, wrong)) in zip(axes, scores.items(), strict=False):
            _paint_histogram(axis, correct, wrong)
            axis.set(title=name.replace("_", " "), xlabel="score")
        axes[0].set_ylabel("completions")
        handles, labels = axes[0].get_legend_handles_labels()
        axes[0].figure.legend(handles, labels, loc="outside upper right", ncols=2)

    return svg("scores", 2.4 * num_rows + 0.3, num_columns, paint, num_rows)


def length_svg(writers: list[Lengths]) -> str:
    """Per writer two boxes: quartiles and median, whiskers at the 5th and 95th percentile."""

    def paint(axes: list[Axes]) -> None:
        (axis,) = axes
        for kind, shift in (("correct", -0.18), ("wrong", 0.18)):
            colour, on = VERDICT_COLOURS[kind], on_verdict(kind)
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
                boxprops={"facecolor": colour, "edgecolor": colour},
                medianprops={"color": on, "linewidth": 1.8},
                whiskerprops={"color": colour},
                capprops={"color": colour},
            )
            axis.barh([0], [0], color=colour, label=kind)
        axis.set_yticks(range(len(writers)), [wrapped(writer.label) for writer in writers])
        axis.set(xlabel="tokens", ylim=(len(writers) - 0.45, -0.55))
        axis.set_xlim(left=0)
        axis.tick_params(length=0)
        axis.grid(axis="x")
        axis.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), handlelength=1)

    return svg("lengths", 1.0 + 0.42 * len(writers), 1, paint)


def _fill(verdict: str) -> dict[str, Any]:
    """Of a bar: what is as light as the page has an edge, and verdicts beside it a hatch."""
    colour = VERDICT_COLOURS[verdict]
    if verdict not in HATCHES:
        return {"color": colour}
    edge = ROLES["edge"].day
    return {"facecolor": colour, "edgecolor": edge, "hatch": HATCHES[verdict], "linewidth": 0.7}


def _markers(models: Iterable[str]) -> dict[str, str]:
    """Of each model, where there are several: colours alone are too alike for many eyes."""
    names = list(dict.fromkeys(models))
    if len(names) < 2:
        return dict.fromkeys(names, "")
    return {name: MARKERS[place % len(MARKERS)] for place, name in enumerate(names)}


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points as a figure can show."""
    if len(steps) <= MOST_POINTS:
        return steps, values
    kept = np.unique(np.linspace(0, len(steps) - 1, MOST_POINTS).astype(int))
    return steps[kept], values[kept]


def _paint_estimates(axis: Axes, estimates: list[Bar]) -> None:
    for place, estimate in enumerate(estimates):
        axis.barh(place, estimate.value, height=0.62, color=estimate.colour)
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
            label=label,
            **_fill(kind),
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
