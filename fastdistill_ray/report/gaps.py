"""The table of gaps: how much of what a weaker writer lacks its students make up for."""

from fastdistill_ray.report.conclusion import model_label, percent, split_label
from fastdistill_ray.report.page import Block, Cell, Table
from fastdistill_ray.report.reading import Contents

CAPTION = (
    "Gap recovered: (student - writer) / (ceiling - writer), of accuracies on the same problems "
    "(arXiv 2312.09390): 0 % is no better than who wrote the texts, 100 % as good as the same "
    "model on teachers' texts. Without an interval the writer may be as good as the ceiling, so "
    "that there may be no gap. Wrong too: of the problems that the writer has wrong, the share "
    "that the student, and the ceiling, have wrong too; the more the student repeats the "
    "writer's faults, the further the first is above the second."
)


def gap_blocks(run: Contents) -> list[Block]:
    rows: list[list[Cell | str]] = [
        [
            split_label(row["split"]).capitalize(),
            *(model_label(row[who], run.recipe) for who in ("student", "writer", "ceiling")),
            _share(row),
            percent(row["wrong_too"]),
            percent(row["ceiling_wrong_too"]),
        ]
        for row in run.results.gaps
    ]
    header = ["Split", "Student", "Writer", "Ceiling", "Gap recovered %"]
    columns = [*header, "Wrong too %", "Ceiling wrong too %"]
    title = "Gap between writer and ceiling"
    return [Table(columns, rows, CAPTION, num_text_columns=4, title=title)] if rows else []


def _share(row: dict) -> Cell:
    interval = "" if row["low"] is None else f"{percent(row['low'])} to {percent(row['high'])}"
    return Cell(percent(row["value"]), interval)
