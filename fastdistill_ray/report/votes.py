"""What the report says of answers that completions voted for: how many, and how often right."""

from typing import Any

import numpy as np

from fastdistill_ray.evaluation.statistics import wilson
from fastdistill_ray.report.conclusion import percent
from fastdistill_ray.report.group_numbers import group_batches
from fastdistill_ray.report.page import Block, Cell, Table
from fastdistill_ray.report.reading import Contents, student_entries
from fastdistill_ray.report.tables import interval_cell
from fastdistill_ray.storage.place import Place

# Upper ends of the classes of agreement, a share of the votes.
ENDS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
CAPTION = (
    "Answers that most completions of a problem give, by the share of the votes they have. "
    "Completions whose answer cannot be read abstain. Right: beside the problem's own answer, "
    "which decides nothing here; with 95 % intervals. Clear enough: by selection.min_votes and "
    "selection.min_agreement, whatever else drops a group."
)


def vote_blocks(run: Contents) -> list[Block]:
    """A table of each store whose completions are judged by a vote."""
    tables: list[Block] = []
    selection = run.recipe["selection"]
    if run.groups is not None and run.recipe["reward"].get("reference") == "vote":
        tables.append(vote_table(run.stages["groups"], selection))
    voted = [one for one in student_entries(run.recipe).values() if one.get("labels") == "vote"]
    written = [name for name in run.stages if name.startswith("student_groups/")]
    for name in written if voted else ():
        if votes_in(run.stages[name]):
            title = f"Votes of the groups {name.partition('/')[2].replace('_', ' ')}"
            tables.append(vote_table(run.stages[name], selection, title))
    return tables


def votes_in(groups: Place) -> bool:
    batches = group_batches(groups, ["vote"], ("seed",))
    return any(batch.column("vote").null_count < len(batch) for batch in batches)


def vote_table(groups: Place, selection: dict[str, Any], title: str = "") -> Table:
    """Of a store that has some; `selection`: the recipe's, which says what is clear enough."""
    columns: dict[str, list] = {"agreement": [], "num_votes": [], "verdict": []}
    sizes = []
    for batch in group_batches(groups, ["vote"], ("seed",)):
        votes = batch.column("vote")
        for name, found in columns.items():
            found += votes.field(name).to_pylist()
        sizes += batch.column("completions").value_lengths().to_pylist()
    agreement, num_votes = (np.array(columns[name]) for name in ("agreement", "num_votes"))
    verdicts = np.array([name or "" for name in columns["verdict"]])
    is_clear = num_votes >= selection["min_votes"]
    is_clear &= agreement >= selection["min_agreement"]
    rows, low = [], -1.0
    for high in ENDS:
        inside = (agreement > low) & (agreement <= high)
        name = f"up to {high:.0%}" if low < 0 else f"{low:.0%} to {high:.0%}"
        if inside.any():
            rows.append(_row(name, inside, verdicts))
        low = high
    rows += [_row("Clear enough", is_clear, verdicts), _row("All", agreement >= 0, verdicts)]
    abstained = 1 - num_votes.sum() / max(sum(sizes), 1)
    caption = f"{CAPTION} {percent(abstained)} % of the completions abstained."
    return Table(
        ["Agreement", "Problems", "Share %", "Right %", "Known"], rows, caption, title=title
    )


def _row(name: str, inside: np.ndarray, verdicts: np.ndarray) -> list[Cell | str]:
    known = int((inside & (verdicts != "")).sum())
    right = wilson(int((inside & (verdicts == "correct")).sum()), known) if known else None
    share = interval_cell(right) if right else ""
    part = percent(inside.mean()) if len(inside) else ""
    return [name, f"{int(inside.sum()):,}", part, share, f"{known:,}"]
