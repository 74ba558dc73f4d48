"""What a box of tools changed: box.json and, in words, box.md."""

import json
from collections import Counter
from typing import Any

import numpy as np

from fastdistill_ray.agents.box import BOX_MANIFEST, REFUSED
from fastdistill_ray.evaluation.statistics import Difference, Estimate, difference, wilson
from fastdistill_ray.groups.store import Store
from fastdistill_ray.run_files import (
    ANSWERS,
    BOX,
    BOX_REPORT,
    BOX_RESULTS,
    MANIFEST,
    read_json,
    write_json,
    write_text,
)
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import read_parquet

ALL = "all"


def write_box_report(
    traces: Place, box: Place, without: Place, with_box: Place, *, out: Place
) -> dict[str, Any]:
    """Reads the folders of the stages; writes both files into `out`."""
    solved = {"without": _solved(without), "with": _solved(with_box)}
    tasks = _tasks(without)
    shared = sorted(solved["without"].keys() & solved["with"].keys())
    by_task = {ALL: shared} | {
        task: [one for one in shared if tasks[one] == task] for task in sorted(set(tasks.values()))
    }
    calls = [call for table in Store(with_box).tables() for row in _calls(table) for call in row]
    refused = read_json(box / REFUSED, [])
    found = {
        "solved": {
            task: _compared(solved["without"], solved["with"], ids) for task, ids in by_task.items()
        },
        "calls": {
            "made": len(calls),
            "invalid": sum(call["is_invalid"] for call in calls),
            "failed": sum(call["is_error"] for call in calls),
            "problems_without_a_call": sum(
                not row for table in Store(with_box).tables() for row in _calls(table)
            ),
            "by_tool": Counter(call["tool"] for call in calls),
        },
        "tools": [
            {"name": one["name"], "problems": len(one["problems"]), "called": one["called"]}
            for one in read_json(box / BOX / BOX_MANIFEST, {"tools": []})["tools"]
        ],
        "refused": Counter(one["reason"].partition(":")[0] for one in refused),
        "stages": {
            name: _counts(folder)
            for name, folder in {
                "traces": traces,
                "box": box,
                "without": without,
                "with": with_box,
            }.items()
        },
    }
    write_json(out / BOX_RESULTS, found)
    write_text(out / BOX_REPORT, _in_words(json.loads(json.dumps(found))))
    return found


def _solved(answers: Place) -> dict[str, bool]:
    table = read_parquet(answers / ANSWERS, ["problem_id", "verdict"])
    return {row["problem_id"]: row["verdict"] == "correct" for row in table.to_pylist()}


def _tasks(answers: Place) -> dict[str, str]:
    table = read_parquet(answers / ANSWERS, ["problem_id", "task"])
    return {row["problem_id"]: row["task"] for row in table.to_pylist()}


def _calls(table: Any) -> list[list[dict[str, Any]]]:
    return table["calls"].to_pylist()


def _compared(
    without: dict[str, bool], with_box: dict[str, bool], ids: list[str]
) -> dict[str, Any]:
    """Wilson's intervals, and the paired difference with minus without, its p from draws of the
    problems (`evaluation/statistics.py`). Problems that only one has answered are left out."""
    first = np.array([with_box[one] for one in ids], dtype=float)[:, None]
    second = np.array([without[one] for one in ids], dtype=float)[:, None]
    found = {"without": wilson(int(second.sum()), len(ids))._asdict()}
    found["with"] = wilson(int(first.sum()), len(ids))._asdict()
    if ids:
        value, low, high, p = difference(first, second, np.ones(len(ids)))
        told = Difference(value, low, high, len(ids), len(ids), p)
        found["difference"] = told._asdict()
    return found


def _counts(stage: Place) -> dict[str, Any]:
    manifest = read_json(stage / MANIFEST, {})
    names = ("rows_in", "rows_out", "set_aside", "prompt_tokens", "completion_tokens", "facts")
    return {name: manifest.get(name) for name in names} | {"seconds": manifest.get("seconds")}


def _in_words(found: dict[str, Any]) -> str:
    lines = ["# A box of tools", "", "| problems | n | without | with | difference | p |"]
    lines.append("|---|---|---|---|---|---|")
    for task, row in found["solved"].items():
        without, with_box = (Estimate(**row[name]) for name in ("without", "with"))
        change = row.get("difference")
        said = (
            f"{100 * change['value']:+.1f} ({100 * change['low']:+.1f} to "
            f"{100 * change['high']:+.1f}) | {change['p']:.1g}"
            if change
            else "- | -"
        )
        cells = f"{_share(without)} | {_share(with_box)} | {said}"
        lines.append(f"| {task} | {without.num_problems} | {cells} |")
    calls, stages = found["calls"], found["stages"]
    by_tool = ", ".join(f"{name or 'unreadable'} {n}" for name, n in calls["by_tool"].items())
    traces = stages["traces"]
    tools = ", ".join(f"{one['name']} (of {one['problems']} problems)" for one in found["tools"])
    refused = ", ".join(f"{why} {n}" for why, n in found["refused"].items()) or "none"
    left = ", ".join(f"{why} {n}" for why, n in traces["set_aside"].items()) or "none"
    lines += [
        "",
        "Shares in per cent with 95 % intervals (Wilson); the difference is paired by problem.",
        "",
        f"- Programs: {traces['rows_in']} written, {traces['rows_out']} correct; others: {left}.",
        f"- Functions of correct programs: {stages['box']['rows_in']}, of which "
        f"{stages['box']['rows_out']} became {len(found['tools'])} tools: {tools}.",
        f"- Refused: {refused}.",
        f"- Calls: {calls['made']} ({by_tool}); invalid {calls['invalid']}, failed "
        f"{calls['failed']}; problems without a call: {calls['problems_without_a_call']}.",
        *(
            f"- Tokens {name} the box: {stages[name]['prompt_tokens']} of prompts, "
            f"{stages[name]['completion_tokens']} written."
            for name in ("without", "with")
        ),
    ]
    return "\n".join(lines) + "\n"


def _share(one: Estimate) -> str:
    if one.value is None or one.low is None or one.high is None:
        return "-"
    return f"{100 * one.value:.1f} ({100 * one.low:.1f} to {100 * one.high:.1f})"
