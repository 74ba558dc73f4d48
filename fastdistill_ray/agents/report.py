"""What a box of tools changed: box.json and, in words, box.md."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from fastdistill_ray.agents.box import BOX_MANIFEST, REFUSED
from fastdistill_ray.evaluation.metrics import METRICS, Row, by_problem, estimate, paired_difference
from fastdistill_ray.evaluation.statistics import Estimate
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
METRIC = "strict_accuracy"


def write_box_report(
    traces: Place,
    box: Place,
    without: Place,
    with_box: Place,
    clusters: Mapping[str, str],
    *,
    out: Place,
) -> dict[str, Any]:
    """Reads the folders of the stages; writes both files into `out`. `clusters`: of the problems
    that have others like them."""
    answered = _rows(without, clusters), _rows(with_box, clusters)
    both = set.intersection(*({row["problem_id"] for row in rows} for rows in answered))
    shared = [[row for row in rows if row["problem_id"] in both] for rows in answered]
    tasks = sorted({row["task"] for row in answered[0]})
    calls = [call for table in Store(with_box).tables() for row in _calls(table) for call in row]
    refused = read_json(box / REFUSED, [])
    found = {
        "solved": {
            task: _compared(*([r for r in rows if task in (ALL, r["task"])] for rows in shared))
            for task in [ALL, *tasks]
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


def _rows(answers: Place, clusters: Mapping[str, str]) -> list[Row]:
    table = read_parquet(answers / ANSWERS, ["problem_id", "k", "task", "verdict"])
    return [
        {**row, "training_seed": 0, "cluster": clusters.get(row["problem_id"], "")}
        for row in table.to_pylist()
    ]


def _calls(table: Any) -> list[list[dict[str, Any]]]:
    return table["calls"].to_pylist()


def _compared(without: list[Row], with_box: list[Row]) -> dict[str, Any]:
    """What each solves, and the paired difference with minus without, as a distillation's report
    has them (`evaluation/metrics.py`). Problems that only one has answered are left out."""
    if not without:
        none = Estimate(None, None, None, 0, 0)._asdict()
        return {"without": none, "with": none}
    sides = {"without": without, "with": with_box}
    found = {
        name: estimate(by_problem(rows), METRICS[METRIC])._asdict() for name, rows in sides.items()
    }
    found["difference"] = paired_difference(with_box, without, METRIC)._asdict()
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
        "Shares in per cent with 95 % intervals; the difference is paired by problem, its p not "
        "adjusted for the number of rows.",
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
