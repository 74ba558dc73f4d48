"""What a run found in a few lines, for a terminal and for the card of a student."""

from typing import Any

from fastdistill_ray.evaluation.statistics import Estimate
from fastdistill_ray.report.conclusion import main_student, model_label, percent, split_label
from fastdistill_ray.report.reading import Results, read_recipe, read_results
from fastdistill_ray.run_files import MANIFEST, REPORT, STUDENTS, read_json, stage_folders
from fastdistill_ray.storage.place import Place

METRIC = "accuracy"


def summary(view: str | Place) -> str:
    """The accuracies, then where the report and the recipe's student are, and how to serve it."""
    path = Place(view)
    recipe, _ = read_recipe(path)
    results = read_results(path, recipe)
    rows = accuracy_rows(results, recipe)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines = [*table, "", *_kept(path), f"report   {path / REPORT}"]
    name = main_student(results, recipe)
    if name and (folder := path / STUDENTS / name).is_dir():
        lines.append(f"student  {folder}")
        if folder.is_local:
            lines.append(f"next     fastdistill serve {path}")
    return "\n".join(lines)


def _kept(view: Place) -> list[str]:
    """Of how many problems there are groups to train on, where not of all."""
    groups = stage_folders(view).get("groups")
    manifest = read_json(groups / MANIFEST, None) if groups else None
    if manifest is None or manifest["rows_out"] == manifest["rows_in"]:
        return []
    kept = f"{manifest['rows_out']:,} of {manifest['rows_in']:,} training problems"
    return [f"trained  on {kept}; the report says why not on the others"]


def accuracy_rows(results: Results, recipe: dict[str, Any]) -> list[list[str]]:
    """A header, then each model's accuracy on each split, with its 95 % interval."""
    splits = results.splits
    header = ["accuracy, 95 % interval", *map(split_label, splits)]
    return [header] + [
        [
            model_label(model, recipe),
            *(
                share(results.rows.get((model, split, METRIC)), results.most_problems(split))
                for split in splits
            ),
        ]
        for model in results.models
    ]


def share(found: Estimate | None, most: int = 0) -> str:
    """`most`: problems that another model answered; of fewer it says of how many."""
    if found is None:
        return ""
    interval = "" if found.low is None else f" ({percent(found.low)} to {percent(found.high)})"
    of = f" of {found.num_problems:,}" if found.num_problems < most else ""
    return f"{percent(found.value)} %{of}{interval}"
