"""Rows of GROUP_SCHEMA with every field, so that a test names only those it is about."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import pyarrow as pa

from fastdistill_ray.groups.store import Store
from fastdistill_ray.records import COMPLETION, GROUP_SCHEMA
from fastdistill_ray.run_files import MANIFEST


def make_completion(text: str = "", token_ids: Sequence[int] = (1, 2, 3), **fields: Any) -> dict:
    """A wrong one of as many tokens as ids that ended by itself."""
    row = {
        "text": text,
        "token_ids": list(token_ids),
        "finish_reason": "stop",
        "num_tokens": len(token_ids),
        "seed": 0,
        "verdict": "wrong",
        "answer": "",
        "reason": "",
        "scores": [],
        "reward": 0.0,
        "is_selected": True,
        "advantage": 0.0,
    }
    return _with_fields(row, fields, [field.name for field in COMPLETION])


def make_group(problem_id: str, completions: Sequence[dict], **fields: Any) -> dict:
    """A kept group of a training problem whose answer is the number 1."""
    row = {
        "problem_id": problem_id,
        "task": "t",
        "split": "train",
        "question": "q?",
        "reference": "1",
        "kind": "number",
        "options": [],
        "tolerance": None,
        "scorer": "",
        "messages": [],
        "template_hash": "",
        "prompt_num_tokens": 5,
        "teacher": "",
        "sampling": "{}",
        "cost": 0.0,
        "taken_from": None,
        "round": None,
        "vote": None,
        "completions": list(completions),
        "logprob_ids": None,
        "logprobs": None,
        "dropped": "",
    }
    return _with_fields(row, fields, GROUP_SCHEMA.names)


def _with_fields(row: dict, fields: dict, names: list[str]) -> dict:
    row = row | fields
    assert list(row) == names, f"not a field of the schema, or one too few: {set(row) ^ set(names)}"
    return row


def make_table(groups: Sequence[dict]) -> pa.Table:
    return pa.Table.from_pylist(list(groups), schema=GROUP_SCHEMA)


def write_store(
    folder: PathLike[str], groups: Sequence[dict], *, per_file: int = 1, is_complete: bool = False
) -> Store:
    """Commits files of that many groups to the store in `folder`, after those it has."""
    store = Store(folder)
    for start in range(0, len(groups), per_file):
        store.append([store.write(make_table(groups[start : start + per_file]))])
    if is_complete:
        (store.folder / MANIFEST).put("{}")
    return store


def commits_of(folder: PathLike[str]) -> list[dict]:
    """The lines of a store's log; [] where there is none."""
    return [commit._asdict() for commit in Store(folder).commits()]
