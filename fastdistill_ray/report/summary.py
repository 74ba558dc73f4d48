"""What a run found in a few lines, for a terminal and for the card of a student."""

from fastdistill_ray.report.conclusion import main_student, model_label, percent, split_label
from fastdistill_ray.report.reading import Contents, read_run
from fastdistill_ray.run_files import REPORT, STUDENTS
from fastdistill_ray.storage.place import Place

METRIC = "accuracy"


def summary(view: str | Place) -> str:
    """The accuracies, then where the report and the recipe's student are, and how to serve it."""
    run = read_run(view)
    rows = accuracy_rows(run)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines = [*table, "", f"report   {run.path / REPORT}"]
    name = main_student(run.results, run.recipe)
    if name and (folder := run.path / STUDENTS / name).is_dir():
        lines.append(f"student  {folder}")
        if folder.is_local:
            lines.append(f"next     vllm serve {folder}")
    return "\n".join(lines)


def accuracy_rows(run: Contents) -> list[list[str]]:
    """A header, then each model's accuracy on each split, with its 95 % interval."""
    splits = run.results.splits
    header = ["accuracy, 95 % interval", *map(split_label, splits)]
    return [header] + [
        [model_label(model, run.recipe), *(_share(run, model, split) for split in splits)]
        for model in run.results.models
    ]


def _share(run: Contents, model: str, split: str) -> str:
    found = run.results.rows.get((model, split, METRIC))
    if found is None:
        return ""
    interval = "" if found.low is None else f" ({percent(found.low)} to {percent(found.high)})"
    return f"{percent(found.value)} %{interval}"
