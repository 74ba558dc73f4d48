"""Labelled texts: made, or of the user's file -> train and test, without a text in both."""

import random
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from fastdistill_ray.condensing.knobs import TextKnobs
from fastdistill_ray.errors import UserError
from fastdistill_ray.run_files import StageResult
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import read_parquet, write_parquet
from fastdistill_ray.tasks.source import read_rows
from fastdistill_ray.tasks.word_problems import by_operation

TEXTS = "texts.parquet"
SPLITS = ("train", "test")


class Labelled(NamedTuple):
    """`labels` are numbers of `classes`, which are sorted."""

    texts: list[str]
    labels: list[int]
    classes: list[str]


def load_texts(task: TextKnobs) -> dict[str, list[tuple[str, str]]]:
    """(text, label) of `train` and `test`; UserError where they make no task."""
    if task.name == "word_problems":
        found = by_operation(task.operations, task.num_train, task.num_test, task.seed)
    else:
        found = _divided(_rows(task), task)
    _check(found)
    return found


def write_texts(task: TextKnobs, *, out: Place) -> StageResult:
    found = load_texts(task)
    rows = [
        {"split": split, "text": text, "label": label}
        for split in SPLITS
        for text, label in found[split]
    ]
    write_parquet(pa.Table.from_pylist(rows), out / TEXTS)
    return StageResult(len(rows), len(rows))


def read_texts(folder: Place) -> dict[str, Labelled]:
    """What `write_texts` left."""
    rows = read_parquet(folder / TEXTS).to_pylist()
    classes = sorted({row["label"] for row in rows})
    numbers = {name: number for number, name in enumerate(classes)}
    return {
        split: Labelled(
            [row["text"] for row in rows if row["split"] == split],
            [numbers[row["label"]] for row in rows if row["split"] == split],
            classes,
        )
        for split in SPLITS
    }


def check_per_class(labels: list[str], per_class: int) -> None:
    """UserError names a class of which there are too few texts for a real subset."""
    for name, count in sorted(Counter(labels).items()):
        if count < per_class:
            raise UserError(
                f"method.per_class: {per_class}, but {count} training texts have the label "
                f"{name!r}; raise task.num_train or lower it"
            )


def _rows(task: TextKnobs) -> list[tuple[str, str]]:
    """Each text once; UserError where one has two labels."""
    places: dict[str, tuple[str, str]] = {}
    for where, row in read_rows(Path(task.path)):
        text, label = row.get(task.text), row.get(task.label)
        for field, column, value in (("text", task.text, text), ("label", task.label, label)):
            if (
                isinstance(value, bool)
                or not isinstance(value, str | int)
                or not str(value).strip()
            ):
                raise UserError(
                    f"{where}: {column}, which task.{field} names, must be text, is {value!r} (its "
                    f"columns: {', '.join(row) or 'none'})"
                )
        text, label = str(text).strip(), str(label).strip()
        known, place = places.setdefault(text, (label, where))
        if known != label:
            raise UserError(f"{where}: its text has the label {label!r}, and {known!r} in {place}")
    return [(text, label) for text, (label, _) in places.items()]


def _divided(rows: list[tuple[str, str]], task: TextKnobs) -> dict[str, list[tuple[str, str]]]:
    wanted = task.num_train + task.num_test
    if len(rows) < wanted:
        raise UserError(
            f"task.num_train: {task.num_train} and {task.num_test} for the test are {wanted}, but "
            f"{task.path} has {len(rows)} different texts"
        )
    random.Random(f"condense/{task.seed}").shuffle(rows)
    return {"test": rows[: task.num_test], "train": rows[task.num_test : wanted]}


def _check(found: dict[str, list[tuple[str, str]]]) -> None:
    trained, tested = ({label for _, label in found[split]} for split in SPLITS)
    if len(trained) < 2:
        raise UserError(
            f"task: all training texts have the label {', '.join(map(repr, trained))}; at least "
            "two labels are needed"
        )
    if unknown := sorted(tested - trained):
        raise UserError(
            f"task: no training text has the label {unknown[0]!r}, which a test text has; raise "
            "task.num_train"
        )
