"""The problems of one split in a Parquet file: counted, iterated and read by row number.

No process holds them all: a reader keeps a few row groups.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from fastdistill_ray.digests import text_digest
from fastdistill_ray.records import PROBLEM_SCHEMA, Problem
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import open_parquet, write_parquet

ROWS_PER_ROW_GROUP = 1024
DIGEST = "S16"


def content_digest(problem: Problem | Mapping[str, Any]) -> str:
    """Digest of what makes a problem: where it is equal, a completion of one serves the other."""
    fields = problem if isinstance(problem, Mapping) else vars(problem)
    names = ("problem_id", "question", "reference", "kind")
    judged_by = [*(fields["options"] or []), repr(fields["tolerance"])]
    if fields["scorer"]:
        judged_by.append(fields["scorer"])
    return text_digest([*(fields[name] for name in names), *judged_by])


def write_problems(problems: list[Problem], file: Place) -> None:
    table = pa.Table.from_pylist([vars(problem) for problem in problems], schema=PROBLEM_SCHEMA)
    write_parquet(table, file, row_group_size=ROWS_PER_ROW_GROUP)


class ProblemFile:
    def __init__(self, file: str | Place) -> None:
        self.file = str(file)
        with open_parquet(Place(file)) as table:
            metadata = table.metadata
            self.num_row_groups = metadata.num_row_groups
            sizes = [metadata.row_group(i).num_rows for i in range(self.num_row_groups)]
        self.starts = np.cumsum([0, *sizes])  # row number of each row group's first row

    def __len__(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def digest(self) -> str:
        """Digest of all problems in their order, whatever wrote the file."""
        return text_digest(content_digest(problem) for problem in self)

    def __iter__(self) -> Iterator[Problem]:
        for i in range(self.num_row_groups):
            yield from _problems(_row_group(self.file, i))

    def columns(self, *names: str) -> Iterator[list[list[str]]]:
        """The named columns of one row group after the other."""
        with open_parquet(Place(self.file)) as file:
            for i in range(self.num_row_groups):
                table = file.read_row_group(i, columns=list(names))
                yield [table[name].to_pylist() for name in names]

    def take(self, rows: np.ndarray) -> list[Problem]:
        """The problems at these row numbers, in this order."""
        groups = np.searchsorted(self.starts, rows, side="right") - 1
        return [
            _problems(_row_group(self.file, int(i)).slice(row - self.starts[i], 1))[0]
            for i, row in zip(groups, rows, strict=True)
        ]

    def rows_without(self, known: np.ndarray) -> np.ndarray:
        """Row numbers of the problems whose id is not among the `known` digests."""
        missing = []
        for start, (ids,) in zip(self.starts, self.columns("problem_id"), strict=False):
            wanted = np.array([_digest(one) for one in ids], DIGEST)
            found = np.searchsorted(known, wanted)
            is_there = np.zeros(len(ids), bool)
            inside = found < len(known)
            is_there[inside] = known[found[inside]] == wanted[inside]
            missing.append(start + np.flatnonzero(~is_there))
        return np.concatenate([np.empty(0, np.int64), *missing])


def digests(keys: Iterable[str]) -> np.ndarray:
    """Sorted, 16 bytes each, in place of millions of strings."""
    return np.sort(np.fromiter(map(_digest, keys), DIGEST))


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


def _problems(table: pa.Table) -> list[Problem]:
    return [Problem(**row) for row in table.to_pylist()]


@lru_cache(maxsize=4)
def _row_group(file: str, number: int) -> pa.Table:
    with open_parquet(Place(file)) as table:
        return table.read_row_group(number)
