"""Small files of a store -> few larger ones, their log lines -> one each; rows keep their order.

Every state a kill can leave is repaired by `Store.recover`: merged files that the log does not
name yet hold only logged keys and go; after the new log is in place the same is true of the parts.
"""

import os
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fastdistill_ray.groups.store import (
    ROWS_PER_ROW_GROUP,
    Commit,
    Store,
    part_name,
    write_options,
)

MERGED_ROWS = 1024
MERGED_BYTES = 256 * 2**20


def small_runs(store: Store) -> Iterator[list[str]]:
    """Files that follow each other in the log, of groups of one stage, and fit one larger file."""
    run: list[str] = []
    rows = size = 0
    taken_from = ""
    for commit in store.commits():
        more = len(commit.keys)
        bytes_more = (store.folder / commit.file).stat().st_size
        fits = rows + more <= MERGED_ROWS and size + bytes_more <= MERGED_BYTES
        if run and (commit.parts or not fits or commit.taken_from != taken_from):
            yield from [run] if len(run) > 1 else []
            run, rows, size = [], 0, 0
        if not commit.parts:
            taken_from = commit.taken_from
            run.append(commit.file)
            rows, size = rows + more, size + bytes_more
    if len(run) > 1:
        yield run


def merge_files(store: Store, files: list[str]) -> str:
    """Worker side: the rows of the files in this order in one file -> its name."""
    keys: list[str] = []
    temporary = store.folder / f".part-merged.{uuid.uuid4().hex}"
    first = pq.read_table(store.folder / files[0])
    rest = first.slice(0, 0)
    with pq.ParquetWriter(temporary, first.schema, **write_options(first)) as writer:
        for file in files:
            table = pq.read_table(store.folder / file)
            keys += table[store.key].to_pylist()
            rest = pa.concat_tables([rest, table])
            whole = rest.num_rows // ROWS_PER_ROW_GROUP * ROWS_PER_ROW_GROUP
            if whole:
                writer.write_table(rest.slice(0, whole), row_group_size=ROWS_PER_ROW_GROUP)
                rest = rest.slice(whole)
        if rest.num_rows:
            writer.write_table(rest)
    name = part_name(keys)
    os.replace(temporary, store.folder / name)
    return name


def replace_log(store: Store, merged: dict[str, tuple[str, int]]) -> None:
    """Driver side: first file of a run -> (merged file, files of the run); the parts go."""
    parts: list[Path] = []

    def lines() -> Iterator[Commit]:
        commits = store.commits()
        for commit in commits:
            if commit.file in merged:
                name, count = merged[commit.file]
                run = [commit, *(next(commits) for _ in range(count - 1))]
                parts.extend(store.folder / part.file for part in run)
                commit = _merge_commits(name, run)
            yield commit

    store.rewrite_log(lines())
    for part in parts:
        part.unlink()


def _merge_commits(name: str, run: list[Commit]) -> Commit:
    return Commit(
        file=name,
        keys=[key for commit in run for key in commit.keys],
        dropped=[dropped for commit in run for dropped in commit.dropped],
        num_tokens=sum(commit.num_tokens for commit in run),
        prompt_tokens=sum(commit.prompt_tokens for commit in run),
        verdicts=dict(sum((Counter(commit.verdicts) for commit in run), Counter())),
        cost=sum(commit.cost for commit in run),
        time=run[-1].time,
        parts=[(commit.file, len(commit.keys), commit.time) for commit in run],
        taken_from=run[0].taken_from,
    )
