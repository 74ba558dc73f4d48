"""What the report says of problems that the teacher made."""

from collections import Counter

from fastdistill_ray.evaluation.statistics import wilson
from fastdistill_ray.report.group_numbers import group_batches
from fastdistill_ray.report.page import Block, Cell, Table
from fastdistill_ray.report.reading import Contents
from fastdistill_ray.report.tables import interval_cell
from fastdistill_ray.storage.tables import read_rows

STAGE = "new_problems"
CAPTION = (
    "Problems that the teacher made of those of the task, and how many of both have completions "
    "that agree on an answer, so that they are trained on; with 95 % intervals. {written} were "
    "written; left out: {left}."
)


def new_problem_blocks(run: Contents) -> list[Block]:
    made = [one for one in run.manifests if one["stage"] == STAGE and "facts" in one]
    if not made or "groups" not in run.stages:
        return []
    (manifest,) = made
    file = run.stages["problems"] / "train.parquet"
    own = {row["problem_id"] for row in read_rows(file, ["problem_id"])}
    asked: Counter[bool] = Counter()
    kept: Counter[bool] = Counter()
    for batch in group_batches(run.stages["groups"], ["problem_id", "dropped"], ()):
        for row in batch.select(["problem_id", "dropped"]).to_pylist():
            is_new = row["problem_id"] not in own
            asked[is_new] += 1
            kept[is_new] += not row["dropped"]
    rows: list[list[Cell | str]] = [
        [label, f"{asked[is_new]:,}", interval_cell(wilson(kept[is_new], asked[is_new]))]
        for label, is_new in (("Of the task", False), ("New", True))
        if asked[is_new]
    ]
    left = [f"{n:,} {why.replace('_', ' ')}" for why, n in manifest.get("set_aside", {}).items()]
    written = f"{int(manifest['facts']['written']):,}"
    caption = CAPTION.format(written=written, left=", ".join(left) or "none")
    return [Table(["Problems", "Asked", "Trained on %"], rows, caption, title="New problems")]
