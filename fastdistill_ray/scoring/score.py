"""Committed groups -> a store of signals: a model is asked about every token that is trained."""

from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.completions import Asked
from fastdistill_ray.generation.requests import has_one_that_fits
from fastdistill_ray.groups.aside import forget_aside, set_aside
from fastdistill_ray.groups.ask import MakeRows, ask
from fastdistill_ray.groups.curation import compact
from fastdistill_ray.groups.log import Commit
from fastdistill_ray.groups.steps import read_index
from fastdistill_ray.groups.store import Store
from fastdistill_ray.progress import Progress
from fastdistill_ray.run_files import StageResult
from fastdistill_ray.scoring.engine import FAILURE, ScoringEngine, ScoringSpec
from fastdistill_ray.scoring.requests import TextRequests, Texts
from fastdistill_ray.storage.place import Place

IN_FLIGHT = 4  # groups an actor asks about at once; an engine's step reads one or two
LABEL = "score texts"
MOST_TOKENS_PER_FILE = 2**18  # a file holds a few groups of long texts, or many of short ones


@dataclass(frozen=True)
class Scoring:
    """Where the scorer's actors and those that write run, and what may fail."""

    pool: PoolKnobs
    writers: PoolKnobs
    max_set_aside: float  # share of the groups
    stall_minutes: float


def score(
    groups: Place, texts: Texts, spec: ScoringSpec, scoring: Scoring, *, out: Place
) -> StageResult:
    """Ask about every kept group that is not committed yet; commit group by group."""
    store = Store(out)
    store.begin()
    forget_aside(store)
    index = read_index(Store(groups))
    progress = Progress(
        LABEL, index.num_rows, done=sum(len(commit.keys) for commit in store.commits())
    )
    left = index.num_rows + 1
    while has_one_that_fits(missing := _missing(groups, index, texts, store)):
        before, left = left, len(missing)
        assert left < before, "what was asked is not in the store"
        ask(
            [Asked(missing, spec.model, partial(ScoringEngine, spec), IN_FLIGHT, scoring.pool)],
            _row_maker,
            {"": store},
            judges=scoring.writers,
            rows_per_file=max(1, MOST_TOKENS_PER_FILE // (8 * texts.max_seq_len)),
            max_aside=scoring.max_set_aside,
            stall_minutes=scoring.stall_minutes,
            progress=progress,
            note=lambda commit: "",
        )
    compact(store, scoring.writers)
    return _result(store, index.num_rows)


def _row_maker() -> MakeRows:
    return _rows


def _rows(batch: pa.Table) -> pa.Table:
    return batch.drop_columns([FAILURE.name])


def _missing(groups: Place, index: pa.Table, texts: Texts, store: Store) -> TextRequests:
    done = pa.array([*store.keys(), *set_aside(store)], pa.string())
    rest = index.filter(pc.invert(pc.is_in(index["key"], done)))
    return TextRequests(str(groups), rest, texts)


def _result(store: Store, num_groups: int) -> StageResult:
    commits: list[Commit] = list(store.commits())
    scored, aside = sum(len(one.keys) for one in commits), len(set_aside(store))
    if not scored:
        raise UserError(
            "training.max_seq_len: no completion of any group fits, so that there is none to score"
        )
    left = {"not_answered": aside, "too_long": num_groups - scored - aside}
    return StageResult(
        num_groups,
        scored,
        {why: number for why, number in left.items() if number},
        prompt_tokens=sum(one.prompt_tokens for one in commits),
        completion_tokens=sum(one.num_tokens for one in commits),
        facts={"bytes": float(sum(one.size for one in commits))},
    )
