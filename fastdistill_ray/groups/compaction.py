"""Small files of a store -> few larger ones, their log lines -> one each; rows keep their order.

Every state a kill can leave is repaired by `Store.begin`: merged files that the log does not
name yet hold only logged keys and go; after the new log is in place the same is true of the parts.
"""

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from fastdistill_ray.groups.log import Commit
from fastdistill_ray.groups.store import ROWS_PER_ROW_GROUP, Store, part_name, write_options
from fastdistill_ray.storage.tables import digest, read_parquet

MERGED_ROWS = 1024
MERGED_BYTES = 256 * 2**20


def small_runs(store: Store) -> Iterator[list[Commit]]:
    """Files that follow each other in the log, of groups of one stage, and fit one larger file."""
    run: list[Commit] = []
    rows = size = 0
    taken_from = ""
    for commit in store.commits():
        more = len(commit.keys)
        fits = rows + more <= MERGED_ROWS and size + commit.size <= MERGED_BYTES
        if run and (commit.parts or not fits or commit.taken_from != taken_from):
            yield from [run] if len(run) > 1 else []
            run, rows, size = [], 0, 0
        if not commit.parts:
            taken_from = commit.taken_from
            run.append(commit)
            rows, size = rows + more, size + commit.size
    if len(run) > 1:
        yield run


def merge_files(store: Store, run: list[Commit]) -> Commit:
    """Worker side: the rows of these files in this order in one -> its line."""
    name = part_name([key for commit in run for key in commit.keys])
    first = read_parquet(store.folder / run[0].file)
    rest = first.slice(0, 0)
    with (
        (store.folder / name).create() as file,
        pq.ParquetWriter(
            file, first.schema, write_page_checksum=True, **write_options(first)
        ) as writer,
    ):
        for commit in run:
            rest = pa.concat_tables([rest, read_parquet(store.folder / commit.file)])
            whole = rest.num_rows // ROWS_PER_ROW_GROUP * ROWS_PER_ROW_GROUP
            if whole:
                writer.write_table(rest.slice(0, whole), row_group_size=ROWS_PER_ROW_GROUP)
                rest = rest.slice(whole)
        if rest.num_rows:
            writer.write_table(rest)
    place = store.folder / name
    return _merge_commits(name, run)._replace(size=place.size(), digest=digest(place))


def replace_log(store: Store, merged: dict[str, Commit]) -> None:
    """Driver side: first file of a run -> the line of the merged file; the parts go."""
    parts: list[str] = []

    def lines() -> Iterator[Commit]:
        commits = store.commits()
        for commit in commits:
            if commit.file in merged:
                line = merged[commit.file]
                parts.extend(file for file, _, _ in line.parts)
                for _ in line.parts[1:]:
                    next(commits)
                commit = line
            yield commit

    store.rewrite_log(lines())
    for part in parts:
        (store.folder / part).unlink()


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
