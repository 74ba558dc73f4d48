"""Problems -> committed groups: the teacher's completions, judged, rewarded, selected."""

import json
import time
from collections import Counter
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from fastdistill_ray.cluster.metrics import show
from fastdistill_ray.cluster.pools import PoolKnobs, PoolsKnobs
from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.completions import to_write
from fastdistill_ray.generation.knobs import EndpointKnobs, EngineSpec, SamplingKnobs, TeacherKnobs
from fastdistill_ray.generation.outputs import with_arrays, without_arrays
from fastdistill_ray.generation.requests import ProblemRequests, assign, has_one_that_fits
from fastdistill_ray.groups.accounting import (
    FOLLOWED,
    JUDGED_AGAIN,
    check_failures,
    count_verdicts,
    store_result,
)
from fastdistill_ray.groups.aside import forget_aside, set_aside
from fastdistill_ray.groups.ask import ask
from fastdistill_ray.groups.compaction import merge_files, replace_log, small_runs
from fastdistill_ray.groups.log import Commit
from fastdistill_ray.groups.reweighting import Source, judge_failed_again, take_along
from fastdistill_ray.groups.store import FAILED, Store
from fastdistill_ray.progress import Progress, amount
from fastdistill_ray.records import GROUP_SCHEMA
from fastdistill_ray.rewards import Scorer
from fastdistill_ray.rewards.scorer import LLM_JUDGE
from fastdistill_ray.rewards.selection import Judging, judge_rows
from fastdistill_ray.run_files import StageResult
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.problem_file import ProblemFile, digests
from fastdistill_ray.verifiers import Judge

LABEL = "generate groups"
MAX_GROUPS_PER_FILE = 64
MAX_VALUES_PER_FILE = 1 << 27  # token ids or log-probabilities


class GroupMaker:
    """Requests with raw completions -> judged groups."""

    def __init__(self, folder: Place, judging: Judging, sampling: SamplingKnobs) -> None:
        self.judging = judging
        self.judge = Judge(judging.reward.verifier)
        self.scorer = Scorer(judging.reward, folder / LLM_JUDGE)
        self.sampling = sampling.model_dump_json()

    def __call__(self, batch: pa.Table) -> pa.Table:
        asked = [{**row, "sampling": self.sampling} for row in without_arrays(batch)]
        rows = judge_rows(asked, self.judging, self.judge, self.scorer)
        return with_arrays(pa.Table.from_pylist(rows, schema=GROUP_SCHEMA), batch)


def curate(
    problems: ProblemFile,
    teachers: list[TeacherKnobs],
    sampling: SamplingKnobs,
    judging: Judging,
    pools: PoolsKnobs,
    sources: list[Source],
    *,
    is_followed: bool = False,
    out: Place,
) -> StageResult:
    """Ask the teachers for every problem that is not committed yet; commit group by group.

    What the sources have of these problems is taken from there. `is_followed`: by a training, which
    has trained on the first groups in their order: none of them is judged again.
    """
    store = Store(out)
    (out / FAILED).unlink()
    store.begin()
    if not is_followed:
        judge_failed_again(store, judging)
    take_along(sources, problems, judging, store)
    forget_aside(store)
    tally = Tally(store, judging.reward.max_failed_share, pools, len(teachers), is_followed)
    progress = Progress(LABEL, len(problems), done=tally.groups)
    # Answers of an engine that died while it handed them over are lost: then they are asked again.
    left = len(problems) + 1
    while any(map(has_one_that_fits, missing := _missing(problems, store, teachers, sampling))):
        before, left = left, sum(map(len, missing))
        assert left < before, "what was asked is not in the store"
        ask(
            [
                to_write(
                    requests,
                    EngineSpec(
                        teacher.model, teacher.engine, sampling, judging.reward.verifier, out
                    ),
                    pools.of_teacher(place),
                )
                for place, (teacher, requests) in enumerate(zip(teachers, missing, strict=True))
            ],
            partial(GroupMaker, out, judging, sampling),
            {"": store},
            judges=pools.judges,
            rows_per_file=groups_per_file(len(problems), sampling),
            max_aside=sampling.max_set_aside,
            stall_minutes=pools.stall_minutes,
            progress=progress,
            note=tally.add,
        )
    check_failures(count_verdicts(store), judging.reward.max_failed_share, store, tally.remedy)
    compact(store, pools.judges)
    num_too_long = sum(map(len, missing))
    if num_too_long == len(problems):
        raise UserError(
            f"teacher.engine.max_model_len: the prompts of all {num_too_long} problems leave no "
            "room for sampling.max_new_tokens"
        )
    others = {"prompt_too_long": num_too_long, "not_answered": len(set_aside(store))}
    return store_result(store, len(problems), {why: n for why, n in others.items() if n})


def groups_per_file(num_problems: int, sampling: SamplingKnobs) -> int:
    values = sampling.most * sampling.max_new_tokens * (1 + sampling.logprobs)
    return max(1, min(MAX_GROUPS_PER_FILE, num_problems // 64, MAX_VALUES_PER_FILE // values))


def _missing(
    problems: ProblemFile, store: Store, teachers: list[TeacherKnobs], sampling: SamplingKnobs
) -> list[ProblemRequests]:
    """For each teacher, what it is still to be asked; an endpoint says itself what is too long."""
    places = [
        assign(teachers, *one)
        for columns in problems.columns("problem_id", "task")
        for one in zip(*columns, strict=True)
    ]
    rows = problems.rows_without(digests(chain(store.keys(), set_aside(store))))
    places_of_rows = np.array(places, np.int16)[rows]
    return [
        ProblemRequests(
            problems,
            rows[places_of_rows == place],
            "" if teacher.is_remote else teacher.model,
            teacher.prompt,
            sampling.seed,
            None
            if isinstance(teacher.engine, EndpointKnobs)
            else teacher.engine.max_model_len - sampling.max_new_tokens,
            tuple(teacher.all_prompts[1:]),
        )
        for place, teacher in enumerate(teachers)
    ]


class Tally:
    """What is committed so far, for the progress line and for stopping in time."""

    def __init__(
        self,
        store: Store,
        max_failed_share: float,
        pools: PoolsKnobs,
        num_teachers: int,
        is_followed: bool = False,
    ) -> None:
        self.store, self.max_failed_share = store, max_failed_share
        self.remedy = FOLLOWED if is_followed else JUDGED_AGAIN
        self.price = sum(map(pools.price_per_hour, pools.of_groups(num_teachers)))
        self.start = time.monotonic()
        self.verdicts: Counter[str] = Counter()
        self.groups = self.kept = 0
        self.paid = 0.0
        for commit in store.commits():
            self._count(commit)

    def add(self, commit: Commit) -> str:
        """UserError where too many completions cannot be judged."""
        self._count(commit)
        check_failures(self.verdicts, self.max_failed_share, self.store, self.remedy)
        cost = self.paid + self.price * (time.monotonic() - self.start) / 3600
        show(LABEL, {"kept_share": self.kept / self.groups, "cost": cost})
        return f"kept {self.kept / self.groups:.0%}" + (f"  cost {amount(cost)}" if cost else "")

    def _count(self, commit: Commit) -> None:
        self.groups += len(commit.keys)
        self.kept += commit.dropped.count("")
        self.paid += 0.0 if commit.taken_from else commit.cost
        self.verdicts.update(commit.verdicts)


def compact(store: Store, pool: PoolKnobs) -> None:
    """Merge the store's small files; training that follows the store meanwhile goes on."""
    runs = list(small_runs(store))
    if not runs:
        return

    def merge(row: dict[str, Any]) -> dict[str, Any]:
        run = [Commit(**line) for line in json.loads(row["run"])]
        return {"first": run[0].file, "merged": json.dumps(merge_files(store, run)._asdict())}

    dataset = ray.data.from_items(
        [{"run": json.dumps([commit._asdict() for commit in run])} for run in runs]
    )
    dataset.context.enable_progress_bars = False
    rows = dataset.map(merge, **pool.remote_args()).iter_rows()
    replace_log(store, {row["first"]: Commit(**json.loads(row["merged"])) for row in rows})
