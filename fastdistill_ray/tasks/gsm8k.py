"""GSM8K (openai/gsm8k, MIT): grade-school word problems whose answer is a number."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastdistill_ray.records import Problem, Split
from fastdistill_ray.tasks.base import Problems, TaskKnobs, divide, read_rows, require_text

HUB_ID, HUB_CONFIG = "openai/gsm8k", "main"
SPLITS: tuple[Split, Split] = ("train", "test")
NUMBER = re.compile(r"-?\d+(\.\d+)?")


def load(knobs: TaskKnobs) -> Problems:
    """From the hub; or `path`: a folder with train.jsonl and test.jsonl, or one file as train.

    Validation is held out of train, and so is test where the path is one file.
    """
    found: Problems = {"train": [], "validation": [], "test": [], "ood": []}
    path = Path(knobs.path)
    if not knobs.path:
        for split in SPLITS:
            found[split] = _parse(_hub_rows(split), split, split)
    elif path.is_dir():
        for split in SPLITS:
            found[split] = _parse(read_rows(_find_file(path, split)), split, split)
    elif path.is_file():
        found["train"] = _parse(read_rows(path), "train", path.stem)
        if not found["train"]:
            raise ValueError(f"{path}: no problems in it")
    else:
        raise ValueError(f"task.path: {path}: no such file or folder")
    return divide(found, knobs)


def reference_of(solution: str, where: str) -> str:
    """The number after the one `####`, without thousands commas."""
    parts = solution.split("####")
    reference = parts[-1].strip().replace(",", "")
    if len(parts) != 2 or not NUMBER.fullmatch(reference):
        raise ValueError(f"{where}: answer must end with '#### ' and a number")
    return reference


def _parse(rows: Iterable[tuple[str, dict[str, Any]]], split: Split, source: str) -> list[Problem]:
    problems = []
    for index, (where, row) in enumerate(rows):
        require_text(row, ("question", "answer"), where)
        problem = Problem(
            problem_id=f"gsm8k/{source}/{index:05d}",
            task="gsm8k",
            split=split,
            question=row["question"].strip(),
            reference=reference_of(row["answer"], where),
            kind="number",
        )
        problems.append(problem)
    return problems


def _find_file(folder: Path, split: str) -> Path:
    for suffix in (".jsonl", ".parquet"):
        if (folder / f"{split}{suffix}").is_file():
            return folder / f"{split}{suffix}"
    raise ValueError(f"task.path: {folder} holds neither {split}.jsonl nor {split}.parquet")


def _hub_rows(split: str) -> Iterable[tuple[str, dict[str, Any]]]:
    import datasets  # noqa: PLC0415  takes seconds; files and generated tasks do not need it

    try:
        rows = datasets.load_dataset(HUB_ID, HUB_CONFIG, split=split)
    except (OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"task gsm8k: {HUB_ID} cannot be had from the hub ({type(error).__name__}); set "
            "task.path to a folder with train.jsonl and test.jsonl"
        ) from error
    return ((f"{HUB_ID} {split} row {i}", row) for i, row in enumerate(rows, start=1))
