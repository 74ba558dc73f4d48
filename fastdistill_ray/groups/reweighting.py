"""Committed completions for another stage: taken along, judged or selected again.

The teacher is not asked, and what it was paid for is not counted again. No torch, no Ray.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.accounting import check_failures, count_verdicts, store_result
from fastdistill_ray.groups.store import Store
from fastdistill_ray.progress import Progress
from fastdistill_ray.records import GROUP_SCHEMA, SIGNALS
from fastdistill_ray.rewards import Scorer
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.rewards.scorer import LLM_JUDGE
from fastdistill_ray.rewards.selection import Judging, SelectionKnobs, judge_rows, select
from fastdistill_ray.run_files import StageResult
from fastdistill_ray.tasks.problem_file import ProblemFile, content_digest
from fastdistill_ray.verifiers import Judge

Rows = list[dict[str, Any]]


class Source(NamedTuple):
    """A store whose completions were asked for alike, and what of its rows is to be made anew."""

    folder: Path
    renew: Literal["nothing", "selection", "judgements"]


def take_along(
    sources: list[Source], problems: ProblemFile, judging: Judging, store: Store
) -> None:
    """Into the store: every group of the sources that is of one of the problems and not in it yet.

    A problem that has kept its id and changed its question or reference is another problem.
    """
    if not sources:
        return
    wanted = {content_digest(problem) for problem in problems}
    done = set(store.keys())
    progress = Progress("take groups along", len(problems), done=len(done))
    grades = store.folder / LLM_JUDGE
    for source in sources:
        if (source.folder / LLM_JUDGE).is_dir():  # paid for too
            shutil.copytree(source.folder / LLM_JUDGE, grades, dirs_exist_ok=True)
    with Judge(judging.reward.verifier) as judge, Scorer(judging.reward, grades) as scorer:
        renew: dict[str, Callable[[Rows], Rows]] = {
            "nothing": lambda rows: rows,
            "selection": lambda rows: [
                select(row, judging.selection, judging.advantage) for row in rows
            ],
            "judgements": lambda rows: judge_rows(rows, judging, judge, scorer),
        }
        for source in sources:
            for table in _missing(Store(source.folder), done, wanted):
                rows = renew[source.renew](_without_signals(table))
                commit = store.write(_taken(rows, table, source.folder.name))
                store.append(commit)
                done.update(commit.keys)
                progress.advance(len(commit.keys), commit.num_tokens)
    progress.end()


def rescore(
    sources: list[Source], problems: ProblemFile, judging: Judging, *, out: Path
) -> StageResult:
    """The groups of a stage from those of other stages alone; as many as these have."""
    store = Store(out)
    store.recover()
    take_along(sources, problems, judging, store)
    check_failures(count_verdicts(store), judging.reward.max_failed_share, store)
    return store_result(store, sum(len(commit.keys) for commit in store.commits()), {})


def reselect(
    groups: Path, selection: SelectionKnobs, advantage: AdvantageKnobs, *, out: Path
) -> StageResult:
    """A store of the same groups with other completions selected; judgements are kept."""
    store = Store(out)
    store.recover()
    for table in _missing(Store(groups), set(store.keys()), None):
        rows = [select(row, selection, advantage) for row in _without_signals(table)]
        store.append(store.write(_taken(rows, table, groups.name)))
    dropped = Counter(reason for commit in store.commits() for reason in commit.dropped)
    kept = dropped.pop("", 0)
    if not kept:
        raise UserError(
            f"selection.group_size: none of the groups is kept with {selection.group_size} "
            f"completions ({dict(dropped)})"
        )
    return StageResult(kept + dropped.total(), kept, dict(dropped))


def _missing(groups: Store, done: set[str], wanted: set[str] | None) -> Iterator[pa.Table]:
    """Rows that are not `done`; of the `wanted` problems only, where these are given."""
    for table in groups.tables():
        is_missing = [key not in done for key in table[groups.key].to_pylist()]
        if wanted is not None:
            digests = (content_digest(row) for row in _problem_rows(table))
            is_missing = [
                missing and digest in wanted
                for missing, digest in zip(is_missing, digests, strict=True)
            ]
        if any(is_missing):
            yield table.filter(pa.array(is_missing))


def _problem_rows(table: pa.Table) -> list[dict[str, Any]]:
    names = ["problem_id", "question", "reference", "kind", "options", "tolerance"]
    return table.select(names).to_pylist()


def _without_signals(table: pa.Table) -> Rows:
    """What was captured of each token stays an Arrow array."""
    return table.drop_columns([name for name, _ in SIGNALS]).to_pylist()


def _taken(rows: Rows, table: pa.Table, stage: str) -> pa.Table:
    """Rows made of the table's, with its signals again."""
    taken = [{**row, "taken_from": stage} for row in rows]
    made = pa.Table.from_pylist(taken, schema=GROUP_SCHEMA)
    for name, _ in SIGNALS:
        made = made.set_column(made.schema.get_field_index(name), name, table[name])
    return made
