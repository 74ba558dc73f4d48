"""Committed completions judged or selected again; the teacher is not asked. No torch, no Ray."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from fastdistill_ray.verifiers import Judge


def rescore(groups: Store, judging: Judging, *, out: Path) -> StageResult:
    """Every committed group judged and weighted again, in the same order and the same files.

    Its tokens were paid for by the run they come from, so none are counted here.
    """
    store = Store(out)
    store.recover()
    done = set(store.keys())
    total = sum(len(commit.keys) for commit in groups.commits())
    progress = Progress("score groups", total, done=len(done))
    with Judge(judging.reward.verifier) as judge, Scorer(judging.reward, out / LLM_JUDGE) as scorer:
        for table in _missing(groups, done):
            rows = judge_rows(_without_signals(table), judging, judge, scorer)
            commit = store.write(_with_signals(rows, table))
            store.append(commit)
            progress.advance(len(commit.keys), commit.num_tokens)
    check_failures(count_verdicts(store), judging.reward.max_failed_share, store)
    result = store_result(store, total, {})
    return replace(result, prompt_tokens=0, completion_tokens=0, facts={})


def reselect(
    groups: Path, selection: SelectionKnobs, advantage: AdvantageKnobs, tau: float, *, out: Path
) -> StageResult:
    """A store of the same groups with other completions selected; judgements are kept."""
    store = Store(out)
    store.recover()
    for table in _missing(Store(groups), set(store.keys())):
        rows = [select(row, selection, advantage, tau) for row in _without_signals(table)]
        store.append(store.write(_with_signals(rows, table)))
    dropped = Counter(reason for commit in store.commits() for reason in commit.dropped)
    kept = dropped.pop("", 0)
    if not kept:
        raise UserError(
            f"selection.group_size: none of the groups is kept with {selection.group_size} "
            f"completions ({dict(dropped)})"
        )
    return StageResult(kept + dropped.total(), kept, dict(dropped))


def _missing(groups: Store, done: set[str]) -> Iterator[pa.Table]:
    for table in groups.tables():
        is_missing = [key not in done for key in table[groups.key].to_pylist()]
        if any(is_missing):
            yield table.filter(pa.array(is_missing))


def _without_signals(table: pa.Table) -> list[dict[str, Any]]:
    """What was captured of each token stays an Arrow array."""
    return table.drop_columns([name for name, _ in SIGNALS]).to_pylist()


def _with_signals(rows: list[dict[str, Any]], table: pa.Table) -> pa.Table:
    made = pa.Table.from_pylist(rows, schema=GROUP_SCHEMA)
    for name, _ in SIGNALS:
        made = made.set_column(made.schema.get_field_index(name), name, table[name])
    return made
