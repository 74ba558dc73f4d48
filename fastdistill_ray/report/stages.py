"""Where a run stands: its stages, what each was made from, and what went wrong on the way."""

import json
from collections import Counter
from datetime import datetime
from typing import Any

from fastdistill_ray.evaluation.results import SPENT
from fastdistill_ray.groups.aside import SET_ASIDE
from fastdistill_ray.groups.store import DAMAGED, FAILED
from fastdistill_ray.report.drawing import graph_svg
from fastdistill_ray.report.page import Block, Cell, Figure, Table, Text
from fastdistill_ray.report.reading import Contents, inputs_of, is_made_from
from fastdistill_ray.run_files import MANIFEST, METRICS, STALL, STEPS, read_json
from fastdistill_ray.storage.place import Place

PAUSE = 60.0  # seconds without a step that are told


def stage_blocks(run: Contents, troubles: dict[str, list[str]]) -> list[Block]:
    """`troubles`: as `find_troubles` tells them."""
    if not run.stages:
        return []
    edges = sources(run)
    done = _complete(run)
    rows: list[list[Cell | str]] = [
        [
            name,
            "complete" if name in done else "not complete",
            ", ".join(edges[name]) or "\u2013",
            _moment(done[name]["finished"]) if name in done else "\u2013",
            done.get(name, {}).get("git") or "\u2013",
            "; ".join([*_aside(done.get(name, {})), *troubles[name]]) or "none",
        ]
        for name in run.stages
    ]
    header = ["Stage", "State", "Made from", "Finished", "Code", "Set aside, failures, restarts"]
    caption = (
        "A stage that was complete when this recipe came to it was reused as it is: its code may "
        "be of an earlier commit. Set aside: rows that do not count, with the reason."
    )
    graph = Figure(
        graph_svg(edges),
        "What is made from what; each stage is made once and reused. A line that follows from "
        "others is left out.",
    )
    return [
        Text(status_sentence(run, troubles)),
        *([graph] if any(edges.values()) else []),
        Table(header, rows, caption, num_text_columns=len(header)),
    ]


def _complete(run: Contents) -> dict[str, dict[str, Any]]:
    """Name of each complete stage -> its manifest. Models that are one, such as a base with and
    without a system text that is empty, are two names of one stage."""
    return {
        name: read_json(folder / MANIFEST, {})
        for name, folder in run.stages.items()
        if (folder / MANIFEST).exists()
    }


def _moment(time: str) -> str:
    return datetime.fromisoformat(time).strftime("%-d\u00a0%b\u00a0%Y %H:%M")


def find_troubles(run: Contents) -> dict[str, list[str]]:
    """Name of each stage -> what its files tell of failures and restarts."""
    return {name: _troubles_in(folder) for name, folder in run.stages.items()}


def status_sentence(run: Contents, troubles: dict[str, list[str]]) -> str:
    """Whether all is there, and how much went wrong."""
    done = _complete(run)
    missing = [name for name in run.stages if name not in done]
    number = len(run.stages)
    if missing:
        others = f" and {len(missing) - 1} others are not." if len(missing) > 1 else " is not."
        state = f"Unfinished: {number - len(missing)} of the {number} stages begun are complete, "
        state += f"{missing[0]}{others}"
    elif not run.results.rows:
        state = f"Unfinished: {number} stages are complete, no model has been evaluated."
    else:
        state = f"Complete: all {number} stages are."
    bad = sum(map(bool, troubles.values()))
    if not bad:
        return f"{state} None of them failed, hung or paused, as far as their files tell."
    first = next(name for name, trouble in troubles.items() if trouble)
    return (
        f"{state} In {bad} of them something failed, hung or paused and was gone on with, such as "
        f"{first}; the table of stages says what."
    )


def sources(run: Contents) -> dict[str, list[str]]:
    """Name of each stage -> the stages that it is made from; problems are known by their content,
    not by their folder."""
    found = {}
    for name, stage in run.stages.items():
        inputs = inputs_of(stage)
        of_problems = any(key.startswith("the problems of ") for key in inputs)
        found[name] = [
            other
            for other, folder in run.stages.items()
            if other != name
            and (is_made_from(inputs, folder) or (of_problems and folder.parent.name == "problems"))
        ]
    return found


def _troubles_in(folder: Place) -> list[str]:
    names = [one.name for one in folder.list()]
    found = []
    if FAILED in names:
        found.append(f"failed: {' '.join((folder / FAILED).read_text().split())[:120]}")
    if stalls := sum(name.startswith(STALL) for name in names):
        found.append(f"times it hung: {stalls}")
    if DAMAGED in names and (damaged := len((folder / DAMAGED).list())):
        found.append(f"damaged files made again: {damaged}")
    if SET_ASIDE in names:
        lines = [json.loads(line) for line in (folder / SET_ASIDE).read_text().splitlines()]
        reasons = Counter(str(line["reason"]) for line in lines)
        found += [f"{n:,} not answered: {reason[:80]}" for reason, n in reasons.most_common(3)]
    if METRICS in names and STEPS in names:
        found += _pauses(folder)
    return found


def _pauses(training: Place) -> list[str]:
    """Times between two steps in which none was made: a restart, or a long save."""
    ends = [json.loads(line)["time"] for line in (training / STEPS).read_text().splitlines()]
    lines = map(json.loads, (training / METRICS).read_text().splitlines())
    spent = [sum(line.get(name) or 0.0 for name in SPENT) for line in lines]
    found = []
    for step, (before, end, seconds) in enumerate(zip(ends, ends[1:], spent[1:], strict=False), 2):
        if (pause := end - before - seconds) > PAUSE:
            found.append(f"no step for {pause / 60:,.1f} minutes before step {step:,}")
    return found


def _aside(manifest: dict[str, Any]) -> list[str]:
    aside = manifest.get("set_aside", {})
    return [f"{number:,} {reason.replace('_', ' ')}" for reason, number in aside.items()]
