"""Where problems are read from: a dataset on the hub, or its files in a folder, row by row.

A task names a `Hub` and a function that turns a `Row` into a problem; all else is here.
"""

import csv
import dataclasses
import io
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq

from fastdistill_ray.errors import UserError
from fastdistill_ray.records import SPLITS, Problem, Split
from fastdistill_ray.storage.given import read_text, refuse_pointer
from fastdistill_ray.tasks.base import Problems, divide
from fastdistill_ray.tasks.knobs import TaskKnobs

T = TypeVar("T")
logger = logging.getLogger(__name__)
HUB = "hub"  # task of problems of a dataset that the recipe names
SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".xml")


class Hub(NamedTuple):
    """A dataset on the hub. `splits`: for each of ours its name there, then other names of its
    file in a folder; a folder may lack the `optional` ones."""

    id: str
    splits: dict[Split, tuple[str, ...]]
    config: str | None = None
    optional: tuple[Split, ...] = ()
    arguments: dict[str, Any] = {}  # further ones of load_dataset
    rows: dict[Split, int] = {}  # as its card says, so that a plan needs no download
    held_out: int = 0  # test problems, where it has no test split and the recipe names no number


class Task(NamedTuple):
    """A line of TASKS."""

    load: Callable[[TaskKnobs], Problems]
    hub: Hub | None = None  # none: problems are made, or read from the user's file
    # Questions its test problems were made from, which may not be trained on either.
    seed_questions: Callable[[TaskKnobs], set[str]] | None = None
    is_made: bool = False  # from templates: its problems differ by numbers and names alone
    # The same, where nothing is held out for tests of its own.
    load_whole: Callable[[TaskKnobs], Problems] | None = None


class Row(NamedTuple):
    """`where` is for messages; `source` and `index` make ids."""

    where: str
    source: str
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]  # hides tuple.index
    fields: dict[str, Any]

    def value(self, *names: str) -> Any:
        """The first of these columns that the row has."""
        for name in names:
            if self.fields.get(name) is not None:
                return self.fields[name]
        columns = ", ".join(map(str, self.fields)) or "none"
        raise UserError(f"{self.where}: missing {' or '.join(names)} (its columns: {columns})")

    def text(self, *names: str) -> str:
        value = self.value(*names)
        if not isinstance(value, str):
            raise UserError(f"{self.where}: {names[0]} must be text, is {value!r}")
        if not value.strip():
            raise UserError(f"{self.where}: {names[0]} is empty")
        return value.strip()

    def number(self, *names: str) -> str:
        """A number of JSON or as text, written out in full: 145.0 is 145, 2e-06 is 0.000002."""
        value = self.value(*names)
        written = plain_number(value)
        if not written:
            raise UserError(f"{self.where}: {names[0]} must be a number, is {value!r}")
        return written


# A problem, or in a few words why the row is left out.
Parse = Callable[[Row], Problem | str]


def load_table(knobs: TaskKnobs, hub: Hub, parse: Parse) -> Problems:
    """From the hub; or from `path`, a folder with a file for each split or one file.

    One file is the split that its name says, else train; or test, where the task has only that.
    """
    return divide(read_table(knobs, hub, parse), knobs)


def read_table(knobs: TaskKnobs, hub: Hub, parse: Parse) -> Problems:
    """As `load_table`, in the splits of the source."""
    found: Problems = {split: [] for split in SPLITS}
    left_out: Counter[str] = Counter()
    for split, rows in _rows_by_split(knobs, hub).items():
        for row in rows:
            problem = parse(row)
            if isinstance(problem, str):
                left_out[problem] += 1
            else:
                found[split].append(dataclasses.replace(problem, split=split))
    for reason, count in left_out.items():
        logger.warning("%s: %d problems left out: %s", knobs.name, count, reason)
    if not any(found.values()):
        raise UserError(f"{knobs.path or hub.id}: no problems in it")
    return found


def read_jsonl(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("FILE line N", object); blank lines are skipped, anything else raises."""
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip():
            where = f"{file} line {number}"
            yield where, _object(from_json(line, where), where)


def read_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """As `read_jsonl`, for .jsonl, .json (a list of objects, or lines), .parquet, .csv and .xml
    files."""
    if file.suffix == ".parquet":
        try:
            refuse_pointer(file)
            table = pq.read_table(file)
        except (OSError, pa.ArrowException) as error:
            why = (str(error).splitlines() or [""])[0]
            raise UserError(f"{file}: not a readable Parquet file: {why}") from error
        yield from ((f"{file} row {i}", row) for i, row in enumerate(table.to_pylist(), start=1))
    elif file.suffix == ".json" and read_text(file).lstrip().startswith("["):
        for number, item in enumerate(from_json(read_text(file), str(file)), start=1):
            where = f"{file} item {number}"
            yield where, _object(item, where)
    elif file.suffix == ".csv":
        yield from _read_csv(file)
    elif file.suffix == ".xml":
        yield from _read_xml(file)
    elif file.suffix in SUFFIXES:
        yield from read_jsonl(file)
    else:
        raise UserError(f"{file}: expected a .jsonl, .json, .parquet, .csv or .xml file")


def _read_csv(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows below a line of column names, every cell as text; an empty one is none."""
    rows = csv.DictReader(io.StringIO(read_text(file), newline=""), strict=True)
    try:
        columns = list(rows.fieldnames or [])
        if len(set(columns)) < len(columns) or not all(columns):
            raise UserError(f"{file}: its first line must name each column once, has {columns}")
        for number, row in enumerate(rows, start=1):
            if None in row:
                raise UserError(f"{file} row {number}: more cells than the first line has names")
            yield f"{file} row {number}", {name: cell or None for name, cell in row.items()}
    except csv.Error as error:
        raise UserError(f"{file} line {rows.line_num}: not CSV: {error}") from error


def _read_xml(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Elements named Problem, their children as columns in lower case: ASDiv's own format."""
    try:
        root = ElementTree.fromstring(read_text(file))
    except ElementTree.ParseError as error:
        raise UserError(f"{file}: not XML: {error}") from error
    for number, problem in enumerate(root.iter("Problem"), start=1):
        yield f"{file} problem {number}", {child.tag.lower(): child.text for child in problem}


def plain_number(value: object) -> str:
    """ "" unless it is a finite number, or text of one (thousands commas allowed)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return ""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", str(value).strip())
    if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d{1,3})?", text, re.ASCII | re.IGNORECASE):
        return ""
    try:
        written = f"{Decimal(text):f}"
    except InvalidOperation:
        return ""
    return written.rstrip("0").rstrip(".") if "." in written else written


def rounding(reference: str, *, places: int) -> float | None:
    """Half a unit of the last place of a decimal that was rounded to so many places or more.

    A float is written with all its digits and may be further from the fraction it stands for.
    """
    decimals = len(reference.partition(".")[2])
    if not plain_number(reference) or decimals < places:
        return None
    return max(0.5 * 10.0**-decimals, 1e-12)


def slug(text: str) -> str:
    """Part of an id: lower case, anything but letters and digits as one underscore."""
    return "_".join(re.findall(r"[^\W_]+", text.lower())) or "other"


def _rows_by_split(knobs: TaskKnobs, hub: Hub) -> dict[Split, Iterable[Row]]:
    path = Path(knobs.path)
    if not knobs.path:
        asked = {"revision": knobs.revision} if knobs.revision else {}
        given = {**hub.arguments, **asked}
        return {
            split: _rows_of(hub_rows(knobs.name, hub.id, hub.config, names[0], **given), names[0])
            for split, names in hub.splits.items()
        }
    if path.is_file():
        return {_split_of(path, hub): _file_rows([path], path.stem)}
    if not path.is_dir():
        raise UserError(f"task.path: {path}: no such file or folder")
    folder = hub.config or hub.arguments.get("data_dir", "data")
    files: dict[Split, list[Path]] = {
        split: _find_files(path, folder, names) for split, names in hub.splits.items()
    }
    missing: list[Split] = [
        split for split in files if not files[split] and split not in hub.optional
    ]
    if missing or not any(files.values()):
        name = hub.splits[missing[0] if missing else next(iter(files))][0]
        raise UserError(
            f"task.path: {path} holds neither {name}.jsonl nor {name}.parquet nor {name}.json"
        )
    return {
        split: _file_rows(found, hub.splits[split][0]) for split, found in files.items() if found
    }


def _split_of(file: Path, hub: Hub) -> Split:
    named: list[Split] = [split for split, names in hub.splits.items() if file.stem in names]
    if named:
        return named[0]
    return "train" if "train" in hub.splits else "test"


def files_in(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """The file of one of these names, or the shards of it, as a copy from the hub has."""
    return _find_files(folder, "data", names)


def _find_files(folder: Path, config: str, names: tuple[str, ...]) -> list[Path]:
    """The file of one of these names; or the shards of a copy from the hub, whose folder of this
    config may be named too."""
    for name in names:
        for suffix in SUFFIXES:
            if (folder / f"{name}{suffix}").is_file():
                return [folder / f"{name}{suffix}"]
        for place in (folder, folder / config):
            for pattern in (f"{name}-*-of-*.parquet", f"{name}/*.parquet"):
                if found := sorted(place.glob(pattern)):
                    _check_shards(place, name, found)
                    return found
    return []


def _check_shards(folder: Path, name: str, found: list[Path]) -> None:
    """UserError where some of `NAME-00000-of-00005.parquet` and so on are not there."""
    numbers = (re.search(r"-of-(\d+)\.parquet$", file.name) for file in found)
    of = {int(number[1]) for number in numbers if number}
    if of and of != {len(found)}:
        raise UserError(
            f"task.path: {folder} has {len(found)} of {max(of)} files of {name}; fetch the others"
        )


def _file_rows(files: list[Path], source: str) -> Iterator[Row]:
    index = 0
    for file in files:
        for where, fields in read_rows(file):
            yield Row(where, source, index, fields)
            index += 1


def _rows_of(rows: Iterable[tuple[str, dict[str, Any]]], source: str) -> Iterator[Row]:
    for index, (where, fields) in enumerate(rows):
        yield Row(where, source, index, fields)


def hub_rows(
    task: str, name: str, config: str | None, split: str, **arguments: Any
) -> Iterator[tuple[str, dict[str, Any]]]:
    """("ORG/NAME SPLIT row N", columns) of a split of a dataset; `arguments` of load_dataset."""
    # They take seconds; files and generated tasks do not need them.
    import datasets  # noqa: PLC0415

    def load() -> Any:
        return datasets.load_dataset(name, config, split=split, **arguments)

    rows = _from_hub(task, name, load)
    classes = {
        column: feature
        for column, feature in rows.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    for index, fields in enumerate(rows):
        named = {  # the hub stores their numbers; -1 is none
            column: feature.int2str(fields[column])
            for column, feature in classes.items()
            if (fields[column] if fields[column] is not None else -1) >= 0
        }
        yield f"{name} {split} row {index + 1}", {**fields, **named}


def hub_splits(task: str, name: str, config: str | None, **arguments: Any) -> list[str]:
    import datasets  # noqa: PLC0415

    def load() -> list[str]:
        return list(map(str, datasets.get_dataset_split_names(name, config, **arguments)))

    return _from_hub(task, name, load)


def _from_hub(task: str, name: str, load: Callable[[], T]) -> T:
    from datasets.exceptions import DatasetsError  # noqa: PLC0415

    try:
        return load()
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:  # the third: scripts
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"task {task}: {name} cannot be had from the hub ({type(error).__name__}: {said}); set "
            "task.path to a folder or file with its rows"
        ) from error


def from_json(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}") from error


def _object(item: Any, where: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise UserError(f'{where}: expected an object such as {{"question": "..."}}')
    return item


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number of JSON")
