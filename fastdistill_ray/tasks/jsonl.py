"""The user's own problems: lines {"question", "answer", "kind"?, "options"?, "tolerance"?, "id"?,
"split"?, "cluster"?}, or other columns named by `task.columns`; of files, or of a hub's dataset.
"""

import contextlib
import dataclasses
import hashlib
import logging
import math
import re
import string
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from fastdistill_ray.errors import UserError
from fastdistill_ray.records import SPLITS, WRITTEN_KINDS, Problem, Split, WrittenKind
from fastdistill_ray.tasks.base import Problems, divide, require_text, require_whole
from fastdistill_ray.tasks.knobs import JsonlField, TaskKnobs
from fastdistill_ray.tasks.source import SUFFIXES, files_in, hub_rows, hub_splits, read_rows

logger = logging.getLogger(__name__)

NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "valid", "dev"),
    "test": ("test",),
    "ood": ("ood",),
}
HELD_OUT, MOST_HELD_OUT = 5, 200  # one of so many training problems, where no line is a test
Where = tuple[str, dict[str, Any]]  # a row's place, and its columns
FIELDS: tuple[JsonlField, ...] = get_args(JsonlField)


def load(knobs: TaskKnobs, *, holds_out: bool = True) -> Problems:
    """From a .jsonl, .json, .parquet or .csv file, or a folder of them with the names of splits.

    Lines without "split" are of the split that their file in a folder is named after, else train;
    other columns than those above are ignored. Without test (validation) lines, `num_test`
    (`num_validation`) are held out of train; where nobody says how many tests, a fifth, if it
    `holds_out`.
    """
    if not knobs.path:
        raise UserError("task.path: task jsonl needs the file with the problems")
    return _problems(knobs, _rows(Path(knobs.path)), holds_out)


def load_hub(knobs: TaskKnobs, *, holds_out: bool = True) -> Problems:
    """The same of a dataset on the hub, or a copy of its repository, whose splits are ours."""
    if not knobs.path:
        raise UserError("task.path: task hub needs the dataset's name there, such as org/name")
    return _problems(knobs, _hub_rows(knobs), holds_out)


def _problems(knobs: TaskKnobs, rows: Iterable[tuple[Split, Where]], holds_out: bool) -> Problems:
    found: Problems = {"train": [], "validation": [], "test": [], "ood": []}
    lines: dict[str, str] = {}
    without_id: dict[str, Problem] = {}
    num_repeated = 0
    for split, (where, row) in rows:
        fields = {"split": split, **_renamed(row, knobs.columns, knobs.unlabelled, where)}
        needed = ["question", "answer"]
        if knobs.unlabelled and fields["split"] == "train" and "answer" not in fields:
            needed.remove("answer")
        if missing := [name for name in needed if name not in fields]:
            raise UserError(
                f"{where}: missing {', '.join(missing)} (its columns: {', '.join(row) or 'none'}); "
                "task.columns says which column holds what"
            )
        problem = _parse(fields, knobs, needed, where)
        if "id" not in fields and (other := without_id.get(problem.problem_id)):
            if problem == other:
                num_repeated += 1
                continue
            if (problem.split, problem.options) != (other.split, other.options):
                own = f"{problem.problem_id}-{_digest(problem.split, *problem.options)}"
                problem = dataclasses.replace(problem, problem_id=own)
        if problem.problem_id in lines:
            raise UserError(
                f"{where}: id {problem.problem_id} is that of {lines[problem.problem_id]}; "
                + (
                    "ids are unique over all splits: task.columns.id may name another column"
                    if "id" in fields
                    else "lines that ask the same question need an id"
                )
            )
        if "id" not in fields:
            without_id[problem.problem_id] = problem
        lines[problem.problem_id] = where.removeprefix(f"{knobs.path} ")
        found[problem.split].append(problem)
    if not lines:
        raise UserError(f"{knobs.path}: no problems in it")
    if num_repeated:
        logger.warning("%s: rows left out that equal another one: %d", knobs.path, num_repeated)
    if holds_out and not found["test"] and knobs.num_test is None and not knobs.unlabelled:
        held_out = min(len(found["train"]) // HELD_OUT, MOST_HELD_OUT)
        knobs = knobs.model_copy(update={"num_test": held_out})
    return divide(found, knobs)


def _hub_rows(knobs: TaskKnobs) -> Iterator[tuple[Split, Where]]:
    config, arguments = knobs.config or None, {"revision": knobs.revision or None}
    there = hub_splits(knobs.name, knobs.path, config, **arguments)
    named: dict[Split, list[str]] = {
        split: [name for name in names if name in there] for split, names in NAMES.items()
    }
    ours: dict[Split, str] = {split: found[0] for split, found in named.items() if found}
    splits = knobs.splits or ours
    if left := [name for name in there if not knobs.splits and name not in splits.values()]:
        logger.warning("%s: not read are its splits %s", knobs.path, ", ".join(left))
    known = ", ".join(there)
    if not splits:
        raise UserError(
            f"task.splits: {knobs.path} has none of our names (it has {known}); name them, as in "
            f"{{train: {there[0]}}}"
        )
    for split, name in splits.items():
        if name.partition("[")[0] not in there:
            raise UserError(
                f"task.splits.{split}: {knobs.path} has no split {name} (it has {known})"
            )
        for row in hub_rows(knobs.name, knobs.path, config, name, **arguments):
            yield split, row


def _rows(path: Path) -> Iterator[tuple[Split, Where]]:
    """(the split where it names none, (where it is, its columns)) of each row."""
    if path.is_file():
        for row in read_rows(path):
            yield "train", row
        return
    if not path.is_dir():
        raise UserError(f"task.path: {path}: no such file or folder")
    files: dict[Split, list[Path]] = {
        split: files_in(path, names) for split, names in NAMES.items()
    }
    if not any(files.values()):
        named = ", ".join(name for names in NAMES.values() for name in names)
        raise UserError(f"task.path: {path}: no file in it is named after a split ({named})")
    taken = {file for found in files.values() for file in found}
    others = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if left := [file.name for file in others if file not in taken]:
        logger.warning(
            "task.path: %s: not read are %s: a folder has one file of each split, such as "
            "train.jsonl and test.jsonl, with the names %s",
            *(path, ", ".join(left), ", ".join(name for names in NAMES.values() for name in names)),
        )
    for split, found in files.items():
        for file in found:
            for row in read_rows(file):
                yield split, row


def _renamed(
    row: dict[str, Any], columns: dict[JsonlField, str], may_lack_answer: bool, where: str
) -> dict[str, Any]:
    """Our fields from the columns that hold them; null and NaN count as absent."""
    fields: dict[str, Any] = {}
    for name in FIELDS:
        value: Any = row
        column = columns.get(name, name)
        for part in [column] if column in row else column.split("."):
            value = _part(value, part)
        if isinstance(value, float) and math.isnan(value):  # how tables of numbers write it
            value = None
        if value is not None:
            fields[name] = value
        elif name in columns and not (name == "answer" and may_lack_answer):
            raise UserError(
                f"{where}: missing {columns[name]}, which task.columns.{name} names (its columns: "
                f"{', '.join(row)})"
            )
    return fields


def _part(value: Any, name: str) -> Any:
    """An object's field, or an item of a list: from 0, or -1 for the last one."""
    if isinstance(value, dict):
        return value.get(name)
    if isinstance(value, list) and re.fullmatch(r"-?\d+", name, re.ASCII):
        return value[int(name)] if -len(value) <= int(name) < len(value) else None
    return None


def _parse(row: dict[str, Any], knobs: TaskKnobs, needed: list[str], where: str) -> Problem:
    reference = _reference_text(row.get("answer"))
    require_text({**row, "answer": reference}, needed, where)
    kind, options = row.get("kind", knobs.kind), row.get("options") or []
    if kind not in WRITTEN_KINDS:
        raise UserError(f"{where}: kind {kind!r} is not one of {', '.join(WRITTEN_KINDS)}")
    if not isinstance(options, list) or not all(isinstance(item, str) for item in options):
        raise UserError(f"{where}: options must be a list of texts")
    for option in options:
        require_whole(option, "options", where)
    if len(options) > len(string.ascii_uppercase):
        raise UserError(f"{where}: {len(options)} options, there are letters for 26")
    if kind == "choice" and isinstance(row.get("answer"), int | float):
        raise UserError(
            f"{where}: answer {row['answer']} is a number, which may be an option's place or what "
            "it says; of kind choice it is the option's letter, or its text"
        )
    digest = _digest(row["question"].strip())
    return Problem(
        problem_id=_id_text(row.get("id", f"{knobs.name}/{digest}"), where),
        task=knobs.name,
        split=_split(row["split"], where),
        question=row["question"].strip(),
        reference="" if reference is None else str(reference).strip(),
        kind=kind,
        options=options,
        tolerance=_tolerance(row.get("tolerance"), kind, where),
        cluster=_id_text(row["cluster"], where, "cluster") if "cluster" in row else "",
    )


def _digest(*texts: str) -> str:
    return hashlib.sha1("\n".join(texts).encode()).hexdigest()[:12]


def _reference_text(answer: object) -> object:
    """Numbers become their text, lists one text with commas; everything else is left as it is."""
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        return str(answer)
    if isinstance(answer, list):
        return ", ".join(str(_reference_text(item)) for item in answer)
    return answer


def _tolerance(given: object, kind: WrittenKind, where: str) -> float | None:
    if given is None:
        return None
    number = math.nan
    if isinstance(given, str):  # of a table
        with contextlib.suppress(ValueError):
            number = float(given)
    if isinstance(given, int | float) and not isinstance(given, bool):
        number = float(given)
    if kind in ("choice", "text") or not 0 <= number < math.inf:
        raise UserError(
            f"{where}: tolerance must be a number of at least 0, of kind number, math or list, is "
            f"{given!r}"
        )
    return number


def _id_text(given: object, where: str, field: str = "id") -> str:
    if isinstance(given, bool) or not isinstance(given, str | int) or not str(given).strip():
        raise UserError(f"{where}: {field} must be text or a whole number, is {given!r}")
    return str(given)


def _split(given: object, where: str) -> Split:
    for split in SPLITS:
        if given == split:
            return split
    raise UserError(f"{where}: split {given!r} is not one of {', '.join(SPLITS)}")
