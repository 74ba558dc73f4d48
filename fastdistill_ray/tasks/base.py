"""What every task shares: its knobs, reading rows, dividing them into splits, checking problems."""

import dataclasses
import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from fastdistill_ray.knobs import Knobs
from fastdistill_ray.records import Problem, Split

logger = logging.getLogger(__name__)
Problems = dict[Split, list[Problem]]
Item = TypeVar("Item")


class TaskKnobs(Knobs):
    name: str = Field(description="A name in TASKS: word_problems, gsm8k, jsonl.")
    path: str = Field("", description="A local file or folder instead of the hub's dataset.")
    seed: int = Field(0, description="Of generated problems and of held-out splits.")
    num_train: int | None = Field(None, ge=1, description="Problems to use; none: all.")
    num_validation: int = Field(0, ge=0, description="Held out of train.")
    num_test: int | None = Field(None, ge=0, description="Problems to use; none: all.")
    num_ood: int | None = Field(None, ge=0, description="Problems to use; none: all.")


def read_jsonl(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("FILE line N", object); blank lines are skipped, anything else raises."""
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 text (byte {error.start})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file} line {number}"
        try:
            row = json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f'{where}: expected an object such as {{"question": "..."}}')
        yield where, row


def read_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """As `read_jsonl`, for .jsonl and .parquet files."""
    if file.suffix == ".parquet":
        try:
            table = pq.read_table(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise ValueError(f"{file}: not a readable Parquet file") from error
        yield from ((f"{file} row {i}", row) for i, row in enumerate(table.to_pylist(), start=1))
    elif file.suffix == ".jsonl":
        yield from read_jsonl(file)
    else:
        raise ValueError(f"{file}: expected a .jsonl or .parquet file")


def require_text(row: dict[str, Any], names: tuple[str, ...], where: str) -> None:
    """Raises unless every named field is a text with something in it."""
    if missing := [name for name in names if row.get(name) is None]:
        raise ValueError(f"{where}: missing {', '.join(missing)}")
    for name in names:
        if not isinstance(row[name], str):
            raise ValueError(f"{where}: {name} must be text, is {row[name]!r}")
        if not row[name].strip():
            raise ValueError(f"{where}: {name} is empty")


def divide(found: Problems, knobs: TaskKnobs) -> Problems:
    """Source splits -> the splits asked for: seeded subsets, each in the source's order.

    Without test (validation) problems in the source, they are held out of train. A train question
    of any other split and a validation question of test or ood leave, counted in the log. Ids are
    those of the source and do not depend on the division.
    """
    rng = random.Random(f"divide/{knobs.seed}")
    train, validation = found["train"], found["validation"]
    ood, _ = take(found["ood"], knobs.num_ood, rng, "task.num_ood")
    if found["test"]:
        test, _ = take(found["test"], knobs.num_test, rng, "task.num_test")
    else:
        test, train = take(train, knobs.num_test or 0, rng, "task.num_test")
    train = _without(train, test + ood, "train")
    if validation:
        validation = _without(validation, test + ood, "validation")
        validation, _ = take(validation, knobs.num_validation, rng, "task.num_validation")
    else:
        validation, train = take(train, knobs.num_validation, rng, "task.num_validation")
    train = _without(train, validation, "train")
    train, _ = take(train, knobs.num_train, rng, "task.num_train")
    chosen: Problems = {"train": train, "validation": validation, "test": test, "ood": ood}
    return {
        split: [dataclasses.replace(problem, split=split) for problem in problems]
        for split, problems in chosen.items()
    }


def take(
    items: list[Item], count: int | None, rng: random.Random, name: str
) -> tuple[list[Item], list[Item]]:
    """(`count` random items, the others), both in their order; None takes all."""
    if count is None:
        return items, []
    if count > len(items):
        raise ValueError(f"{name}: {count} problems asked for, {len(items)} are there")
    chosen = set(rng.sample(range(len(items)), count))
    return (
        [item for i, item in enumerate(items) if i in chosen],
        [item for i, item in enumerate(items) if i not in chosen],
    )


def normalise(question: str) -> str:
    """Questions that differ in case or white space only are the same question."""
    return " ".join(question.lower().split())


def check_problems(problems: Problems) -> None:
    """Ids unique, nothing empty, no trained or chosen-on question asked again in evaluation."""
    seen: dict[str, Split] = {}
    for split, members in problems.items():
        for problem in members:
            if problem.problem_id in seen:
                raise ValueError(
                    f"task {problem.task}: problem_id {problem.problem_id} appears twice "
                    f"({seen[problem.problem_id]} and {split})"
                )
            seen[problem.problem_id] = split
            if not problem.question.strip() or not problem.reference.strip():
                raise ValueError(f"{problem.problem_id}: question or reference is empty")
    questions = {
        split: {normalise(problem.question): problem.problem_id for problem in members}
        for split, members in problems.items()
    }
    for first, second in (
        ("train", "validation"),
        ("train", "test"),
        ("train", "ood"),
        ("validation", "test"),
        ("validation", "ood"),
    ):
        for question in questions[first].keys() & questions[second].keys():
            raise ValueError(
                f"{questions[first][question]} ({first}) and {questions[second][question]} "
                f"({second}) ask the same question"
            )


def _without(problems: list[Problem], others: list[Problem], split: Split) -> list[Problem]:
    asked = {normalise(problem.question) for problem in others}
    kept = [problem for problem in problems if normalise(problem.question) not in asked]
    if len(kept) < len(problems):
        logger.warning(
            "%d %s problems left out: their questions are asked in evaluation splits",
            len(problems) - len(kept),
            split,
        )
    return kept


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number of JSON")
