"""Committed completions for another stage: taken along, judged or selected again.

The teacher is not asked, and what it was paid for is not counted again. No torch, no Ray.
"""

import logging
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from itertools import compress
from operator import not_
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.accounting import (
    check_failures,
    count_verdicts,
    store_result,
)
from fastdistill_ray.groups.log import Commit
from fastdistill_ray.groups.store import Store
from fastdistill_ray.progress import Progress
from fastdistill_ray.records import GROUP_SCHEMA, SIGNALS, Problem
from fastdistill_ray.rewards import Scorer
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.rewards.assess import UNDECIDED
from fastdistill_ray.rewards.scorer import LLM_JUDGE
from fastdistill_ray.rewards.selection import Judging, SelectionKnobs, judge_rows, select
from fastdistill_ray.run_files import StageResult
from fastdistill_ray.storage.folders import copy
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import read_parquet
from fastdistill_ray.tasks.problem_file import ProblemFile
from fastdistill_ray.verifiers import Judge

logger = logging.getLogger(__name__)
Rows = list[dict[str, Any]]
ASKED = ("problem_id", "question", "options")  # what a teacher is asked depends on
JUDGED_BY = ("reference", "kind", "tolerance", "scorer")


class Source(NamedTuple):
    """A store whose completions were asked for alike, and what of its rows is to be made anew."""

    folder: Place
    renew: Literal["nothing", "selection", "judgements"]


def take_along(
    sources: list[Source], problems: ProblemFile, judging: Judging, store: Store
) -> None:
    """Into the store: every group of the sources that is of one of the problems and not in it yet.

    A problem that has kept its id and changed its question or options is another problem; one whose
    reference was mended is judged again.
    """
    if not sources:
        return
    wanted = {problem.problem_id: problem for problem in problems}
    done = set(store.keys())
    progress = Progress("take groups along", len(problems), done=len(done))
    grades = store.folder / LLM_JUDGE
    for source in sources:
        for file in (source.folder / LLM_JUDGE).list():  # paid for too; its ledger stays there
            if file.is_file():
                copy(file, grades / file.name)
    with Judge(judging.reward.verifier) as judge, Scorer(judging.reward, grades) as scorer:
        renew: dict[str, Callable[[Rows], Rows]] = {
            "nothing": lambda rows: rows,
            "selection": lambda rows: [
                select(row, judging.selection, judging.advantage) for row in rows
            ],
            "judgements": lambda rows: judge_rows(rows, judging, judge, scorer),
        }
        for source in sources:
            origin = Store(source.folder)
            damaged = origin.damaged(is_deep=True)
            for name, what in damaged.items():
                logger.warning("%s: %s; its groups are not taken along", origin.folder / name, what)
            for table in _missing(origin, done, wanted, damaged):
                rows = _renewed(_without_signals(table), wanted, renew, source.renew)
                commit = store.write(_taken(rows, table, source.folder.name))
                store.append([commit])
                done.update(commit.keys)
                progress.advance(len(commit.keys), commit.num_tokens)
    progress.end()


def rescore(
    sources: list[Source],
    problems: ProblemFile,
    judging: Judging,
    *,
    out: Place,
    is_followed: bool = False,
) -> StageResult:
    """The groups of a stage from those of other stages alone; as many as these have.
    `is_followed`: by a training, so that what is judged is not judged again."""
    store = Store(out)
    store.begin()
    if not is_followed:
        judge_failed_again(store, judging)
    take_along(sources, problems, judging, store)
    check_failures(count_verdicts(store), judging.reward.max_failed_share, store)
    return store_result(store, sum(len(commit.keys) for commit in store.commits()), {})


def reselect(
    groups: Place, selection: SelectionKnobs, advantage: AdvantageKnobs, *, out: Place
) -> StageResult:
    """A store of the same groups with other completions selected; judgements are kept."""
    store = Store(out)
    store.begin()
    for table in _missing(Store(groups), set(store.keys()), None):
        rows = [select(row, selection, advantage) for row in _without_signals(table)]
        store.append([store.write(_taken(rows, table, groups.name))])
    dropped = Counter(reason for commit in store.commits() for reason in commit.dropped)
    kept = dropped.pop("", 0)
    if not kept:
        raise UserError(
            f"selection.group_size: none of the groups is kept with {selection.group_size} "
            f"completions ({dict(dropped)})"
        )
    return StageResult(kept + dropped.total(), kept, dict(dropped))


def num_missing(sources: list[Source], problems: ProblemFile) -> int:
    """How many of the problems the sources have no group of."""
    wanted = {problem.problem_id: problem for problem in problems}
    for source in sources:
        store = Store(source.folder)
        for table in store.tables(list(ASKED), without=store.damaged(is_deep=False)):
            for row in table.to_pylist():
                if _is_asked_alike(row, wanted.get(row["problem_id"])):
                    del wanted[row["problem_id"]]
    return len(wanted)


def judge_failed_again(store: Store, judging: Judging) -> None:
    """Files with completions that could not be judged are judged again, what failed may have been
    an endpoint that was away; files of other names take their place."""
    commits = list(store.commits())
    failed = [one for one in commits if any(one.verdicts.get(name) for name in UNDECIDED)]
    if not failed:
        return
    renewed: dict[str, Commit] = {}
    grades = store.folder / LLM_JUDGE
    with Judge(judging.reward.verifier) as judge, Scorer(judging.reward, grades) as scorer:
        for commit in failed:
            table = read_parquet(store.folder / commit.file)
            rows = judge_rows(_without_signals(table), judging, judge, scorer)
            again = store.write(_with_signals(rows, table), is_new=True)
            renewed[commit.file] = again._replace(time=commit.time, parts=commit.parts)
    store.rewrite_log(renewed.get(commit.file, commit) for commit in commits)
    for commit in failed:
        (store.folder / commit.file).unlink()


def _renewed(
    rows: Rows,
    wanted: Mapping[str, Problem],
    renew: Mapping[str, Callable[[Rows], Rows]],
    what: str,
) -> Rows:
    """Rows of problems that were mended since are judged again, the others as said."""
    problems = [wanted[row["problem_id"]] for row in rows]
    mended = [
        {**row, **{name: getattr(one, name) for name in JUDGED_BY}}
        for row, one in zip(rows, problems, strict=True)
    ]
    is_mended = [after != row for after, row in zip(mended, rows, strict=True)]
    again = iter(renew["judgements"](list(compress(mended, is_mended))))
    others = iter(renew[what](list(compress(rows, map(not_, is_mended)))))
    return [next(again) if is_new else next(others) for is_new in is_mended]


def _missing(
    groups: Store,
    done: set[str],
    wanted: Mapping[str, Problem] | None,
    damaged: Container[str] = (),
) -> Iterator[pa.Table]:
    """Rows that are not `done`; of the `wanted` problems only, where these are given."""
    for table in groups.tables(without=damaged):
        rows = table.select(list(ASKED)).to_pylist()
        is_missing = [
            row["problem_id"] not in done
            and (wanted is None or _is_asked_alike(row, wanted.get(row["problem_id"])))
            for row in rows
        ]
        if any(is_missing):
            yield table.filter(pa.array(is_missing))


def _is_asked_alike(row: Mapping[str, Any], problem: Problem | None) -> bool:
    """Whether the row's completions are an answer to the problem as it is now."""
    return problem is not None and (row["question"], row["options"] or []) == (
        problem.question,
        list(problem.options),
    )


def _without_signals(table: pa.Table) -> Rows:
    """What was captured of each token stays an Arrow array."""
    return table.drop_columns([name for name, _ in SIGNALS]).to_pylist()


def _taken(rows: Rows, table: pa.Table, stage: str) -> pa.Table:
    return _with_signals([{**row, "taken_from": stage} for row in rows], table)


def _with_signals(rows: Rows, table: pa.Table) -> pa.Table:
    """Rows made of the table's, with its signals again."""
    made = pa.Table.from_pylist(rows, schema=GROUP_SCHEMA)
    for name, _ in SIGNALS:
        made = made.set_column(made.schema.get_field_index(name), name, table[name])
    return made
