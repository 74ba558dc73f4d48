"""Problems -> committed groups: the teacher's completions, judged, rewarded, weighted, selected.

One Ray Data execution: engine actors, then judging actors that commit what they judged. The driver
only logs commits; of a problem it keeps its row number.
"""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from ray.data import ActorPoolStrategy

from fastdistill_ray.cluster.pools import PoolKnobs, PoolsKnobs
from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.completions import EngineSpec, completions, num_bundles, unbundle
from fastdistill_ray.generation.knobs import EndpointKnobs, SamplingKnobs, TeacherKnobs
from fastdistill_ray.generation.outputs import with_arrays, without_arrays
from fastdistill_ray.generation.requests import ProblemRequests, assign, has_one_that_fits
from fastdistill_ray.groups.accounting import check_failures, count_verdicts, store_result
from fastdistill_ray.groups.compaction import merge_files, replace_log, small_runs
from fastdistill_ray.groups.store import FAILED, Commit, Store
from fastdistill_ray.progress import Progress
from fastdistill_ray.records import GROUP_SCHEMA
from fastdistill_ray.rewards import Scorer
from fastdistill_ray.rewards.scorer import LLM_JUDGE
from fastdistill_ray.rewards.selection import Judging, judge_rows
from fastdistill_ray.run_files import StageResult
from fastdistill_ray.tasks.problem_file import ProblemFile, digests
from fastdistill_ray.verifiers import Judge

MAX_GROUPS_PER_FILE = 64
MAX_VALUES_PER_FILE = 1 << 27  # token ids or log-probabilities


class GroupWriter:
    """Ray Data UDF: bundles of raw completions -> committed groups; returns their log lines."""

    def __init__(self, folder: str, judging: Judging, sampling: str, groups_per_file: int) -> None:
        self.store = Store(folder)
        self.judging = judging
        self.judge = Judge(judging.reward.verifier)
        self.scorer = Scorer(judging.reward, Path(folder) / LLM_JUDGE)
        self.sampling = sampling
        self.groups_per_file = groups_per_file

    def __call__(self, batch: pa.Table) -> pa.Table:
        batch = unbundle(batch)
        failures = [failure for failure in batch["failure"].to_pylist() if failure]
        batch = batch.filter(pc.equal(batch["failure"], ""))
        commits = [
            json.dumps(self._commit(batch.slice(first, self.groups_per_file))._asdict())
            for first in range(0, batch.num_rows, self.groups_per_file)
        ]
        return pa.table(
            {
                "commit": pa.array([*commits, *[""] * len(failures)], pa.string()),
                "failure": pa.array([*[""] * len(commits), *failures], pa.string()),
            }
        )

    def _commit(self, batch: pa.Table) -> Commit:
        asked = [{**row, "sampling": self.sampling} for row in without_arrays(batch)]
        rows = judge_rows(asked, self.judging, self.judge, self.scorer)
        return self.store.write(with_arrays(pa.Table.from_pylist(rows, schema=GROUP_SCHEMA), batch))


def curate(
    problems: ProblemFile,
    teachers: list[TeacherKnobs],
    sampling: SamplingKnobs,
    judging: Judging,
    pools: PoolsKnobs,
    *,
    out: Path,
) -> StageResult:
    """Ask the teachers for every problem that is not committed yet; commit group by group."""
    store = Store(out)
    (out / FAILED).unlink(missing_ok=True)
    store.recover()
    datasets, batch_sizes = [], []
    at_once = groups_per_file(len(problems), sampling)
    for place, requests in enumerate(missing_requests(problems, store, teachers, sampling)):
        if len(requests):
            teacher = teachers[place]
            spec = EngineSpec(teacher.model, teacher.engine, sampling, judging.reward.verifier)
            datasets.append(completions(requests, spec, pools.of_teacher(place)))
            batch_sizes.append(num_bundles(at_once, spec, pools.of_teacher(place)))
    if datasets:
        dataset = datasets[0].union(*datasets[1:]) if datasets[1:] else datasets[0]
        dataset = dataset.map_batches(
            GroupWriter,
            fn_constructor_args=(str(out), judging, sampling.model_dump_json(), at_once),
            batch_size=min(batch_sizes),
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=pools.judges.workers),
            **pools.judges.remote_args(),
        )
        price = sum(pools.price_per_hour(pools.of_teacher(i)) for i in range(len(teachers)))
        most = judging.reward.max_failed_share
        log_commits(dataset, store, len(problems), price_per_hour=price, max_failed_share=most)
    check_failures(count_verdicts(store), judging.reward.max_failed_share, store)
    compact(store, pools.judges)
    unanswered = missing_requests(problems, store, teachers, sampling)
    assert not any(map(has_one_that_fits, unanswered)), "a problem whose prompt fits has no group"
    num_too_long = sum(map(len, unanswered))
    if num_too_long == len(problems):
        raise UserError(
            f"teacher.engine.max_model_len: the prompts of all {num_too_long} problems leave no "
            "room for sampling.max_new_tokens"
        )
    set_aside = {"prompt_too_long": num_too_long} if num_too_long else {}
    return store_result(store, len(problems), set_aside)


def groups_per_file(num_problems: int, sampling: SamplingKnobs) -> int:
    values = sampling.most * sampling.max_new_tokens * (1 + sampling.logprobs)
    return max(1, min(MAX_GROUPS_PER_FILE, num_problems // 64, MAX_VALUES_PER_FILE // values))


def missing_requests(
    problems: ProblemFile, store: Store, teachers: list[TeacherKnobs], sampling: SamplingKnobs
) -> list[ProblemRequests]:
    """For each teacher, what it is still to be asked; an endpoint says itself what is too long."""
    places = [
        assign(teachers, *one)
        for columns in problems.columns("problem_id", "task")
        for one in zip(*columns, strict=True)
    ]
    rows = problems.rows_without(digests(store.keys()))
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
        )
        for place, teacher in enumerate(teachers)
    ]


def log_commits(
    dataset: ray.data.Dataset,
    store: Store,
    total: int,
    *,
    price_per_hour: float,
    max_failed_share: float,
) -> None:
    """Run the dataset; log each commit as it arrives, then tell why groups are missing, if any.

    Stops where too many completions cannot be judged.
    """
    failure = ""
    verdicts: Counter[str] = Counter()
    groups = kept = 0
    paid, start = 0.0, time.monotonic()
    for commit in store.commits():
        groups, kept = groups + len(commit.keys), kept + commit.dropped.count("")
        paid += commit.cost
        verdicts.update(commit.verdicts)
    progress = Progress(f"generate {store.folder.name}", total, done=groups)
    for row in dataset.iter_rows():
        if row["failure"]:
            failure = failure or row["failure"]
            continue
        commit = Commit(**json.loads(row["commit"]))
        store.append(commit)
        groups, kept = groups + len(commit.keys), kept + commit.dropped.count("")
        paid += commit.cost
        cost = paid + price_per_hour * (time.monotonic() - start) / 3600
        facts = f"kept {kept / groups:.0%}" + (f"  cost {cost:.2f}" if cost else "")
        progress.advance(len(commit.keys), commit.num_tokens, facts)
        verdicts.update(commit.verdicts)
        check_failures(verdicts, max_failed_share, store)
    progress.end()
    if failure:
        raise UserError(
            f"{failure}; {groups} of {total} groups are committed, start again to go on"
        )


def compact(store: Store, pool: PoolKnobs) -> None:
    """Merge the store's small files; training that follows the store meanwhile goes on."""
    runs = list(small_runs(store))
    if not runs:
        return

    def merge(run: dict[str, Any]) -> dict[str, Any]:
        files = list(run["files"])
        return {"first": files[0], "merged": merge_files(store, files), "count": len(files)}

    dataset = ray.data.from_items([{"files": run} for run in runs])
    dataset.context.enable_progress_bars = False
    rows = dataset.map(merge, **pool.remote_args()).iter_rows()
    replace_log(store, {row["first"]: (row["merged"], row["count"]) for row in rows})
