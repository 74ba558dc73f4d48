"""Several recipes, of one run folder or of many, on one page: what they say, what they found, and
the differences between them, paired where they answered the same problems."""

from collections.abc import Iterator
from itertools import takewhile
from typing import Any

from fastdistill_ray.errors import UserError
from fastdistill_ray.report.conclusion import (
    LEVEL,
    model_label,
    outcome,
    points,
    probability,
    problems_in,
    split_label,
)
from fastdistill_ray.report.page import Block, Cell, Page, Section, Table, Text, to_html
from fastdistill_ray.report.pairs import Pair, paired
from fastdistill_ray.report.reading import TRAINING, Contents, read_run, student_entries
from fastdistill_ray.report.tables import (
    EXTRA_COSTS,
    UNDEFINED,
    extra_costs,
    result_cells,
    result_header,
)
from fastdistill_ray.run_files import COMPARISON, write_text
from fastdistill_ray.storage.place import Place

MAX_SHOWN = 80  # characters of a value
KEPT = 20  # of them, before the first in which two differ
FREE = ("name", "pools.", "tracking.")  # change no result


def write_comparison(views: list[str], output: str) -> str:
    """One HTML page of these run folders, or recipes' folders in them; -> its path."""
    read = [read_run(view) for view in views]
    if len(read) != len({run.path for run in read}):
        raise UserError("compare: the same folder is named twice")
    asked = [run for run in read if run.results.rows]
    left = [str(run.path) for run in read if not run.results.rows]
    if len(asked) < 2:
        raise UserError(
            f"compare: {len(asked)} of {len(read)} folders have results; no model is evaluated in "
            f"{', '.join(left)}"
        )
    runs = {chr(ord("A") + place): run for place, run in enumerate(asked)}
    page = Place(output) if output else Place(views[0]) / COMPARISON
    if page.is_local and (page.is_dir() or not page.parent.is_dir()):
        raise UserError(f"--output {page}: not a file in an existing folder")
    pairs = paired(runs)
    sections = [
        Section("Recipes", [_recipes(runs), *_differences(runs)]),
        Section("Differences", _pairs(runs, pairs)),
        Section("Results", _results(runs)),
    ]
    names = " \u00b7 ".join(f"{letter}: {run.recipe['name']}" for letter, run in runs.items())
    said = [_caution(runs, pairs)]
    if left:
        said.append(f"Left out, as no model is evaluated in them: {', '.join(left)}.")
    write_text(page, to_html(Page("Recipes side by side", names, said, sections)))
    return str(page)


def _recipes(runs: dict[str, Contents]) -> Table:
    rows: list[list[Cell | str]] = []
    for letter, run in runs.items():
        written = sum(_written_in(run, manifest) for manifest in run.manifests)
        seconds = sum(manifest["seconds"] for manifest in run.manifests)
        rows.append([letter, str(run.path), f"{written:,}", f"{seconds:,.0f}"])
    caption = (
        "Tokens and seconds of the stages that each recipe stands on. A stage that several of them "
        "share was paid once and counts in each."
    )
    return Table(["", "Folder", "Written tokens", "Seconds"], rows, caption, num_text_columns=2)


def _written_in(run: Contents, manifest: dict[str, Any]) -> int:
    """Tokens that models wrote in a stage. What a training and a signal count is what they read;
    of trainings only one in rounds has a writer, the student."""
    if training := TRAINING.fullmatch(manifest["stage"]):
        in_rounds = student_entries(run.recipe).get(training[1], {}).get("rounds")
        return int(manifest["facts"].get("written_tokens", 0)) if in_rounds else 0
    is_read = manifest["stage"].startswith("signals/")
    return 0 if is_read else manifest["completion_tokens"]


def _differences(runs: dict[str, Contents]) -> list[Block]:
    """Fields of the recipes that are not the same in all."""
    fields = {letter: dict(_flat(run.recipe, "")) for letter, run in runs.items()}
    paths = dict.fromkeys(path for found in fields.values() for path in found)
    rows: list[list[Cell | str]] = []
    for path in paths:
        values = [_written(found.get(path)) for found in fields.values()]
        if len(set(values)) > 1 and not path.startswith(FREE):
            rows.append([path, *_from_the_first_difference(values)])
    if not rows:
        return [Text("Nothing that changes a result differs between them.")]
    return [Table(["Field", *fields], rows, title="What differs", num_text_columns=1 + len(fields))]


def _flat(tree: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree


def _written(value: Any) -> str:
    return UNDEFINED if value is None else str(value)


def _from_the_first_difference(values: list[str]) -> list[str]:
    """Of long ones, a part with a little of what they have in common."""
    alike = (len(set(characters)) == 1 for characters in zip(*values, strict=False))
    common = sum(1 for _ in takewhile(bool, alike))
    start = common - KEPT if max(map(len, values)) > MAX_SHOWN and common > KEPT else 0
    return [
        f"{'...' if start else ''}{part[:MAX_SHOWN]}{'...' if part[MAX_SHOWN:] else ''}"
        for part in (value[start:] for value in values)
    ]


def _results(runs: dict[str, Contents]) -> list[Block]:
    splits = dict.fromkeys(split for run in runs.values() for split in run.results.splits)
    columns = [
        name for name in EXTRA_COSTS if any(name in extra_costs(one) for one in runs.values())
    ]
    tables: list[Block] = []
    for split in splits:
        rows: list[list[Cell | str]] = [
            [letter, *result_cells(run, model, split, columns)]
            for letter, run in runs.items()
            for model in run.results.models
        ]
        header = ["", *result_header(columns)]
        title = split_label(split).capitalize()
        tables.append(Table(header, rows, title=title, num_text_columns=2))
    return tables or [Text("None of them has evaluated a model yet.")]


def _pairs(runs: dict[str, Contents], pairs: list[Pair]) -> list[Block]:
    """Each with the tokens of both sides: a difference may be bought."""
    words = {"better": "yes, better", "worse": "yes, worse", "unclear": "no"}
    (first, _), *_ = runs.items()
    rows: list[list[Cell | str]] = []
    for letter, model, minus, split, gap in pairs:
        names = (
            f"{one} {model_label(name, runs[one].recipe)}"
            for one, name in ((letter, model), (first, minus))
        )
        tokens = (_trained_tokens(runs[letter], model), _trained_tokens(runs[first], minus))
        rows.append(
            [
                " minus ".join(names),
                f"{split_label(split).capitalize()}: {problems_in(gap)}",
                points(gap.value),
                f"{points(gap.low)} to {points(gap.high)}",
                probability(gap.p),
                probability(gap.p_holm),
                words[outcome(gap)],
                " / ".join(tokens),
            ]
        )
    header = ["Comparison", "Problems", "Points", "95 % interval, unadjusted", "p", "p (Holm)"]
    header += ["Shown", "Trained tokens"]
    caption = (
        "Differences of accuracies in percentage points, paired by problem: of problems that stand "
        "in both runs with the same name and the same words. Intervals and p are of each "
        f"comparison by itself; p (Holm) is adjusted for all {len(pairs)} of this table, and a "
        f"difference is shown where it is below {LEVEL:g}. Trained tokens are of one training of "
        "the first / of the second. Models whose answers are the same files are left out."
    )
    return [Table(header, rows, caption, num_text_columns=2)] if rows else []


def _trained_tokens(run: Contents, model: str) -> str:
    cost = run.results.costs.get(model)
    return UNDEFINED if cost is None else f"{cost['trained_tokens']:,}"


def _caution(runs: dict[str, Contents], pairs: list[Pair]) -> str:
    text = "Small figures are 95 % intervals, each by itself. "
    if not pairs:
        return text + (
            "No model of these runs can be paired: they share no problem that both answered, or "
            "all their answers are the same."
        )
    shown = [pair for pair in pairs if outcome(pair.difference) != "unclear"]
    return text + (
        f"{len(shown)} of {len(pairs)} paired differences to the first run are shown after Holm's "
        "adjustment."
    )
