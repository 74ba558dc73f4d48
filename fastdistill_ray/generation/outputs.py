"""What an engine adds to its requests: flat Arrow columns, no Python object per token.

Legend: T tokens of a completion, K likeliest tokens stored with each.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fastdistill_ray.records import SIGNALS

RAW_COMPLETION = pa.struct(
    [
        ("text", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("finish_reason", pa.string()),
        ("num_tokens", pa.int32()),
        ("seed", pa.int64()),
    ]
)
SIGNAL_NAMES = [name for name, _ in SIGNALS]
NO_IDS = np.zeros(0, dtype=np.int32)


class EngineDiedError(Exception):
    """The engine's processes are gone; another must be started."""


class RawCompletion(NamedTuple):
    text: str
    token_ids: np.ndarray  # [T] int32; empty where the text alone is to be trusted
    finish_reason: str
    num_tokens: int
    seed: int
    logprob_ids: np.ndarray | None = None  # [T, 1 + K] int32, the token drawn first
    logprobs: np.ndarray | None = None  # [T, 1 + K] float32


class Reply(NamedTuple):
    """What came of one request. No completions: the teacher refused; `failure`: no answer came."""

    completions: list[RawCompletion]
    prompt_num_tokens: int
    cost: float = 0.0
    failure: str = ""


NOTHING = Reply([], 0)


def with_completions(batch: pa.Table, answers: Sequence[Reply], teacher: str) -> pa.Table:
    """`answers[i]` is that of row i."""
    assert len(answers) == batch.num_rows
    flat = [one for answer in answers for one in answer.completions]
    fields = [
        pa.array([one.text for one in flat], pa.string()),
        lists([one.token_ids for one in flat], np.int32),
        pa.array([one.finish_reason for one in flat], pa.string()),
        pa.array([one.num_tokens for one in flat], pa.int32()),
        pa.array([one.seed for one in flat], pa.int64()),
    ]
    structs = pa.StructArray.from_arrays(fields, fields=list(RAW_COMPLETION))
    sizes = [len(answer.completions) for answer in answers]
    columns = {
        "completions": pa.ListArray.from_arrays(_offsets(sizes), structs),
        **_signals(answers),
        "prompt_num_tokens": pa.array([a.prompt_num_tokens for a in answers], pa.int32()),
        "cost": pa.array([a.cost for a in answers], pa.float64()),
        "failure": pa.array([a.failure for a in answers], pa.string()),
        "teacher": pa.array([teacher] * len(answers), pa.string()),
    }
    for name, column in columns.items():
        batch = batch.append_column(name, column)
    return batch


def _signals(answers: Sequence[Reply]) -> dict[str, pa.Array]:
    """The columns of SIGNALS, one flat list per group."""
    columns = {}
    for name, dtype in zip(SIGNAL_NAMES, (np.int32, np.float32), strict=True):
        parts = [
            [getattr(one, name) for one in answer.completions if getattr(one, name) is not None]
            for answer in answers
        ]
        sizes = [sum(part.size for part in group) for group in parts]
        values = [part.ravel() for group in parts for part in group]
        columns[name] = pa.ListArray.from_arrays(
            _offsets(sizes),
            pa.array(np.concatenate(values, dtype=dtype) if values else np.zeros(0, dtype)),
            mask=pa.array([not group for group in parts], pa.bool_()),
        )
    return columns


def lists(parts: Sequence[np.ndarray], dtype: Any) -> pa.ListArray:
    """Arrays of any lengths -> one Arrow list each."""
    values = np.concatenate(parts, dtype=dtype) if parts else np.zeros(0, dtype)
    return pa.ListArray.from_arrays(_offsets([len(part) for part in parts]), pa.array(values))


def _offsets(sizes: Sequence[int]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(sizes, dtype=np.int32)]).astype(np.int32))


def without_arrays(batch: pa.Table) -> list[dict[str, Any]]:
    """The rows as Python objects, but for everything that has an entry per token."""
    completions = batch["completions"].combine_chunks()
    structs = completions.flatten()
    names = [field.name for field in structs.type if field.name != "token_ids"]
    kept = pa.StructArray.from_arrays([structs.field(name) for name in names], names=names)
    sizes = pc.list_value_length(completions).to_pylist()
    left = {"completions", "prompt_token_ids", "others", *SIGNAL_NAMES}
    rows = batch.select([name for name in batch.column_names if name not in left]).to_pylist()
    found = iter(kept.to_pylist())
    return [
        {**row, "completions": [next(found) for _ in range(size)]}
        for row, size in zip(rows, sizes, strict=True)
    ]


def with_arrays(rows: pa.Table, batch: pa.Table) -> pa.Table:
    """Rows made from `without_arrays(batch)`, with the batch's arrays in their places again."""
    completions = rows["completions"].combine_chunks()
    structs = completions.flatten()
    names = [field.name for field in structs.type]
    arrays = {name: structs.field(name) for name in names}
    arrays["token_ids"] = batch["completions"].combine_chunks().flatten().field("token_ids")
    whole = pa.StructArray.from_arrays(list(arrays.values()), fields=list(structs.type))
    sizes = pc.list_value_length(completions).to_pylist()
    columns = {"completions": pa.ListArray.from_arrays(_offsets(sizes), whole)}
    columns |= {name: batch[name] for name in SIGNAL_NAMES}
    for name, column in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows


def completion_logprobs(
    ids: np.ndarray, logprobs: np.ndarray, num_tokens: Sequence[int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """A group's flat signals -> (ids [T, 1 + K], log-probabilities [T, 1 + K]) per completion."""
    ends = np.cumsum(num_tokens)[:-1]
    shape = (sum(num_tokens), -1)
    parts = zip(
        np.split(ids.reshape(shape), ends), np.split(logprobs.reshape(shape), ends), strict=True
    )
    return list(parts)
