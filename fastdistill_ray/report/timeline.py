"""When a run's stages were worked on, and how far generation and trainings were by then."""

from datetime import datetime
from typing import Any

import numpy as np

from fastdistill_ray.report import plots
from fastdistill_ray.report.colours import BASELINES
from fastdistill_ray.report.conclusion import model_colour, model_label
from fastdistill_ray.report.page import Block, Figure, Text
from fastdistill_ray.report.reading import TRAINING, Contents

BREAK = 600.0  # seconds in which nothing came: the run was stopped meanwhile


def timeline_blocks(run: Contents) -> list[Block]:
    return [*_stages_figure(run), *_progress_blocks(run)]


def _stages_figure(run: Contents) -> list[Block]:
    if not run.manifests:
        return []
    caption = (
        "Every complete stage in the order they finished, one of this recipe or one that it found "
        "made. A bar ends when its stage did and is as long as the time spent on it in all "
        "attempts; stages that were worked on together share their time. Time in which no stage "
        "was worked on is left out."
    )
    return [Figure(plots.stages_svg(_spans(run)), caption)]


def _spans(run: Contents) -> list[plots.Span]:
    ends = [datetime.fromisoformat(one["finished"]).timestamp() for one in run.manifests]
    starts = [end - one["seconds"] for end, one in zip(ends, run.manifests, strict=True)]
    busy: list[tuple[float, float]] = []
    for start, end in sorted(zip(starts, ends, strict=True)):
        if busy and start <= busy[-1][1]:
            busy[-1] = (busy[-1][0], max(end, busy[-1][1]))
        else:
            busy.append((start, end))

    def worked(time: float) -> float:
        """Minutes in which some stage was worked on before."""
        return sum(max(0.0, min(time, end) - start) for start, end in busy) / 60

    return [
        plots.Span(one["stage"], _stage_colour(run, one), worked(start), worked(end))
        for one, start, end in zip(run.manifests, starts, ends, strict=True)
    ]


def _stage_colour(run: Contents, manifest: dict[str, Any]) -> str:
    """That of the model which it trains or asks."""
    kind, _, label = manifest["stage"].partition("/")
    if match := TRAINING.fullmatch(manifest["stage"]):
        return model_colour(match[1], run.recipe)
    if kind == "answers" and label in run.results.models:
        return model_colour(label, run.recipe)
    return BASELINES["teacher" if kind == "groups" else "base_plain"]


def _progress_blocks(run: Contents) -> list[Block]:
    """Where trainings followed generation."""
    generation, trainings = run.timeline
    if not (run.recipe["training"]["overlap"] and len(generation[0])):
        return []
    trainings = {
        name: done
        for name, done in trainings.items()
        if len(done[0]) and done[0][0] < generation[0][-1]
    }
    if not trainings:
        return []
    series = [plots.Progress("groups", BASELINES["teacher"], *generation)]
    for name, done in trainings.items():
        student, _, rest = name.partition(" ")
        colour, label = model_colour(student, run.recipe), model_label(student, run.recipe)
        series.append(plots.Progress(f"{label}, {rest}", colour, *done))
    caption = "Groups committed and steps trained, from the first commit on."
    figure = Figure(plots.progress_svg(series), caption)
    times = [generation[0], *(times for times, _ in trainings.values())]
    if np.diff(np.sort(np.concatenate(times))).max(initial=0.0) > BREAK:
        return [figure]  # it was stopped and went on: how long all took says nothing
    first, *others = [float(one[-1] - one[0]) / 60 for one in times]
    together = (max(one[-1] for one in times) - generation[0][0]) / 60
    text = (
        f"Generation took {first:.1f} minutes, training {sum(others):.1f}, side by side "
        f"{together:.1f}: {together / max(first, sum(others)):.2f} times the longer."
    )
    return [figure, Text(text)]
