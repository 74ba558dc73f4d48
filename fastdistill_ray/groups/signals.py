"""Stored signals: what a model says of each token of a group's completions, as flat arrays.

A row has the key of its group, so that signals lie in a store like any other. Its completions are
told by their place in the group and by a digest of the token ids that were asked about: a signal
never meets other tokens. No torch: draws and states are made in `scoring/`.
Legend: T tokens of a completion, M ids of a token, E width of hidden states.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.outputs import lists

Array = Any  # numpy here, a torch.Tensor once it is on a device
Arrays = dict[str, np.ndarray]
SHORT_IDS = 2**16  # of vocabularies up to this size ids take two bytes
KEYS = [
    ("problem_id", pa.string()),
    ("places", pa.list_(pa.int16())),  # of the completions in their group
    ("num_tokens", pa.list_(pa.int32())),  # of each of them
    ("digests", pa.list_(pa.int64())),  # of the ids of each
    ("prompt_num_tokens", pa.int32()),
]


class Signal(NamedTuple):
    """What a model says of each token of the texts, stored before training (`scoring/`).

    chosen: log-probabilities of the tokens. random: `size` tokens drawn with replacement from the
    whole distribution. topk: the `size` likeliest tokens and the exact mass of all others. hidden:
    the states that the head reads, in numbers of `size` bits. drawn: as chosen, noted by whoever
    drew the tokens.
    """

    kind: Literal["chosen", "random", "topk", "hidden", "drawn"]
    size: int = 0
    temperature: float = 1.0  # of the distribution; of hidden states there is none
    by: Literal["teacher", "student"] = "teacher"  # the student as it begins

    @property
    def name(self) -> str:
        parts = [self.kind, f"{self.size}" * (self.size > 0), self.by * (self.by != "teacher")]
        parts += [f"at_{self.temperature:g}" * (self.temperature != 1)]
        return "_".join(filter(None, parts))


class Signals(NamedTuple):
    """What is stored of K target tokens; ids of a row differ, -1 stands for none."""

    ids: Array  # [K, M] int64
    # [K, M]: chosen, M = 1, and topk: log-probabilities; random: each id's share of the draws.
    values: Array
    rest: Array  # [K], topk: the log-mass of all other tokens; else 0
    hidden: Array  # [K, E], of hidden states, else E = 0


def schema_of(signal: Signal, vocabulary: int) -> pa.Schema:
    """Flat lists, of all tokens of all completions in order."""
    ids = pa.uint16() if vocabulary <= SHORT_IDS else pa.uint32()
    columns = {
        "chosen": {"values": pa.float32()},
        "drawn": {"values": pa.float32()},
        "random": {"sizes": pa.uint8(), "ids": ids, "counts": pa.uint8()},  # sizes: ids of a token
        "topk": {"ids": ids, "values": pa.float32(), "rest": pa.float32()},
        "hidden": {"hidden": pa.uint16()},  # the upper halves of float32
    }[signal.kind]
    if signal.kind == "hidden" and signal.size == 8:
        columns = {"hidden": pa.int8(), "row_scale": pa.float32(), "column_scale": pa.float32()}
    return pa.schema([*KEYS, *((name, pa.list_(kind)) for name, kind in columns.items())])


def bytes_of(signal: Signal, width: int) -> int:
    """Of a token, at most; `width`: of hidden states."""
    match signal.kind:
        case "chosen" | "drawn":
            return 4
        case "random":
            return 1 + 5 * signal.size
        case "topk":
            return 4 + 8 * signal.size
    return width * signal.size // 8 + 4


class Spoken(NamedTuple):
    """What was said of a group's completions: their places, ids and flat arrays."""

    problem_id: str
    places: Sequence[int]
    token_ids: Sequence[Sequence[int]]
    prompt_num_tokens: int
    arrays: Arrays


def to_table(rows: Sequence[Spoken], schema: pa.Schema) -> pa.Table:
    columns: dict[str, Any] = {
        "problem_id": [row.problem_id for row in rows],
        "places": [list(row.places) for row in rows],
        "num_tokens": [[len(ids) for ids in row.token_ids] for row in rows],
        "digests": [[digest_of(ids) for ids in row.token_ids] for row in rows],
        "prompt_num_tokens": [row.prompt_num_tokens for row in rows],
    }
    for field in schema:
        if field.name not in columns:
            dtype = field.type.value_type.to_pandas_dtype()
            columns[field.name] = lists(
                [row.arrays[field.name].astype(dtype) for row in rows], dtype
            )
    return pa.table(columns, schema=schema)


def digest_of(ids: Iterable[int]) -> int:
    """64 bits."""
    data = np.asarray(list(ids), dtype="<i4").tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


class GroupSignals:
    """The signals of one group: `of` gives those of a completion."""

    def __init__(self, row: Mapping[str, Any], signal: Signal) -> None:
        self.row, self.signal = row, signal
        self.places = row["places"].tolist()
        self.ends = np.cumsum(row["num_tokens"])

    def of(self, place: int, ids: Sequence[int]) -> Signals:
        """UserError where they were made of other ids, or of none."""
        row = self.row
        number = self.places.index(place) if place in self.places else -1
        if number < 0 or row["digests"][number] != digest_of(ids):
            raise UserError(
                f"problem {row['problem_id']}: the stored signals are of other tokens than "
                f"completion {place} has; move the run's stages/signals away and start again"
            )
        return self.decoded(number)

    def decoded(self, number: int) -> Signals:
        """Of one stored completion after the other."""
        row, kind, end = self.row, self.signal.kind, int(self.ends[number])
        part = slice(end - int(row["num_tokens"][number]), end)
        num_tokens, total = part.stop - part.start, int(self.ends[-1])
        none = no_signals(num_tokens)
        if kind in ("chosen", "drawn"):
            return none._replace(values=row["values"][part, None])
        if kind == "topk":
            ids, values = (row[name].reshape(total, -1)[part] for name in ("ids", "values"))
            return none._replace(ids=ids.astype(np.int64), values=values, rest=row["rest"][part])
        if kind == "random":
            ids, shares = self.draws
            width = int(row["sizes"][part].max())
            return none._replace(ids=ids[part, :width], values=shares[part, :width])
        return none._replace(hidden=self._hidden(row["hidden"].reshape(total, -1)[part], part))

    @cached_property
    def draws(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids and their shares, of all completions at once: [T, M], M those of one token."""
        sizes, counts = self.row["sizes"], self.row["counts"]
        ids = np.full((len(sizes), int(sizes.max())), -1, dtype=np.int64)
        shares = np.zeros(ids.shape, dtype=np.float32)
        is_one = np.arange(ids.shape[1]) < sizes[:, None]
        ids[is_one] = self.row["ids"]
        shares[is_one] = counts / np.float32(self.signal.size)
        return ids, shares

    def _hidden(self, stored: np.ndarray, part: slice) -> np.ndarray:
        if self.signal.size == 16:
            return (stored.astype(np.uint32) << 16).view(np.float32)
        scale = self.row["row_scale"][part, None] * self.row["column_scale"]
        return stored.astype(np.float32) * scale


def no_signals(num_tokens: int, width: int = 0) -> Signals:
    """Of tokens of which nothing is stored; `width` is that of hidden states."""
    return Signals(
        ids=np.zeros((num_tokens, 0), dtype=np.int64),
        values=np.zeros((num_tokens, 0), dtype=np.float32),
        rest=np.zeros(num_tokens, dtype=np.float32),
        hidden=np.zeros((num_tokens, width), dtype=np.float32),
    )


def empty_signals(width: int) -> Signals:
    """Of a token of weight 0, whose loss is finite whatever the kind."""
    one = no_signals(1, width)
    return one._replace(ids=np.zeros((1, 1), np.int64), values=np.zeros((1, 1), np.float32))


def joined(parts: Sequence[Signals]) -> Signals:
    """Of one completion after the other; those with fewer ids are filled up with -1."""
    ends = np.cumsum([len(part.rest) for part in parts])
    width = max(part.ids.shape[1] for part in parts)
    ids = np.full((ends[-1], width), -1, dtype=np.int64)
    values = np.zeros((ends[-1], max(part.values.shape[1] for part in parts)), dtype=np.float32)
    for part, end in zip(parts, ends, strict=True):
        rows = slice(end - len(part.rest), end)
        ids[rows, : part.ids.shape[1]] = part.ids
        values[rows, : part.values.shape[1]] = part.values
    rest, hidden = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("rest", "hidden")
    )
    return Signals(ids, values, rest, hidden)


def packed_int8(states_TE: np.ndarray) -> Arrays:
    """Columns are divided by their mean size first: a few are many times as large as the others."""
    column = np.maximum(np.abs(states_TE).mean(0), 1e-12).astype(np.float32)
    scaled = states_TE / column
    row = np.maximum(np.abs(scaled).max(1), 1e-12).astype(np.float32) / 127
    numbers = np.rint(scaled / row[:, None]).astype(np.int8)
    return {"hidden": numbers.ravel(), "row_scale": row, "column_scale": column}


def arrays_of(row: pa.Table) -> dict[str, Any]:
    """A table of one row -> its lists as numpy arrays, without an object per number."""
    found: dict[str, Any] = {}
    for name in row.column_names:
        value = row[name].combine_chunks()[0]
        is_list = pa.types.is_list(value.type)
        found[name] = value.values.to_numpy(zero_copy_only=False) if is_list else value.as_py()
    return found
