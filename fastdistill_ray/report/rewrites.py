"""What the report says of texts that a student made of a weaker writer's."""

from typing import Any

from fastdistill_ray.evaluation.statistics import wilson
from fastdistill_ray.groups.rewriting import ORIGINAL, REWRITTEN
from fastdistill_ray.report.page import Block, Cell, Table
from fastdistill_ray.report.reading import Contents
from fastdistill_ray.report.tables import interval_cell

STAGE = "rewritten_groups/"
CAPTION = (
    "The writer's answer to a problem is the one it gave most often, at least twice; where it gave "
    "another twice too, the student answered by itself, read the writer's answer and how often it "
    "gave which, and answered anew (arXiv 2504.07316). Right: by the problems' own answers, which "
    "decide nothing here; with 95 % intervals. Problems without one are not counted. "
    "Left out: {left}."
)


def rewrite_blocks(run: Contents) -> list[Block]:
    """A table of each store that a student rewrote."""
    return [
        _table(manifest)
        for manifest in run.manifests
        if str(manifest["stage"]).startswith(STAGE) and "facts" in manifest
    ]


def _table(manifest: dict[str, Any]) -> Table:
    facts = manifest["facts"]
    rows: list[list[Cell | str]] = [
        _row("The writer's answers", facts, "writer"),
        _row("Of those that it was not sure of: the student's before", facts, "first"),
        _row("The student's after reading", facts, REWRITTEN),
    ]
    trained = [f"{facts.get(name, 0):,.0f} {name}" for name in (ORIGINAL, REWRITTEN)]
    rows.append([f"Trained on: {', '.join(trained)}", "", ""])
    left = {why: number for why, number in manifest.get("set_aside", {}).items() if number}
    named = ", ".join(f"{number:,} {why.replace('_', ' ')}" for why, number in left.items())
    title = f"Rewritten texts, {str(manifest['stage']).removeprefix(STAGE).replace('_', ' ')}"
    header = ["Texts", "Problems", "Right %"]
    return Table(header, rows, CAPTION.format(left=named or "none"), title=title)


def _row(label: str, facts: dict[str, float], name: str) -> list[Cell | str]:
    total = int(facts[f"all_{name}"])
    share = interval_cell(wilson(int(facts[f"right_{name}"]), total)) if total else ""
    return [label, f"{total:,}", share]
