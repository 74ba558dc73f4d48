"""Problems -> committed groups: the teacher's completions, judged, rewarded, weighted, selected.

One Ray Data execution: engine actors, then judging actors that commit what they judged. The driver
only logs commits.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from ray.data import ActorPoolStrategy

from fastdistill_ray.advantages import (
    AdvantageKnobs,
    SelectionKnobs,
    drop_reason,
    group_advantages,
    select_completions,
    softmax_weights,
)
from fastdistill_ray.config import PoolsKnobs
from fastdistill_ray.generation import EngineSpec, build_requests, completions, split_by_length
from fastdistill_ray.generation.outputs import with_arrays, without_arrays
from fastdistill_ray.groups import FAILED, Commit, Store
from fastdistill_ray.models import fetch_model, load_tokenizer
from fastdistill_ray.progress import Progress
from fastdistill_ray.records import GROUP_SCHEMA, Problem
from fastdistill_ray.rewards import RewardKnobs
from fastdistill_ray.run_dir import StageResult
from fastdistill_ray.scoring import Response, score_group
from fastdistill_ray.teachers import EndpointKnobs, SamplingKnobs, TeacherKnobs, assign
from fastdistill_ray.verifiers import Judge

MAX_GROUPS_PER_FILE = 64
MAX_VALUES_PER_FILE = 1 << 27  # token ids or log-probabilities
REFUSED = "refused_by_teacher"


class Judging(NamedTuple):
    reward: RewardKnobs
    advantage: AdvantageKnobs
    selection: SelectionKnobs
    tau: float


class GroupWriter:
    """Ray Data UDF: rows with raw completions -> committed groups; returns their log lines."""

    def __init__(self, folder: str, judging: Judging, sampling: str) -> None:
        self.store = Store(folder)
        self.judging = judging
        self.judge = Judge(judging.reward.verifier)
        self.sampling = sampling

    def __call__(self, batch: pa.Table) -> pa.Table:
        failures = [failure for failure in batch["failure"].to_pylist() if failure]
        batch = batch.filter(pc.equal(batch["failure"], ""))
        commits = [json.dumps(self._commit(batch)._asdict())] if batch.num_rows else []
        return pa.table(
            {
                "commit": pa.array([*commits, *[""] * len(failures)], pa.string()),
                "failure": pa.array([*[""] * len(commits), *failures], pa.string()),
            }
        )

    def _commit(self, batch: pa.Table) -> Commit:
        rows = [
            {**judge_group(row, self.judging, self.judge), "sampling": self.sampling}
            for row in without_arrays(batch)
        ]
        return self.store.write(with_arrays(pa.Table.from_pylist(rows, schema=GROUP_SCHEMA), batch))


def judge_group(row: dict[str, Any], judging: Judging, judge: Judge) -> dict[str, Any]:
    """A row with raw completions -> a row of GROUP_SCHEMA (without sampling and arrays).

    A completion that selection leaves out keeps its verdict and scores, has no advantage and no
    weight, and takes no part in its group's statistics.
    """
    raw = row["completions"]
    chosen = select_completions([one["text"] for one in raw], judging.selection, row["problem_id"])
    members = _scored(row, [raw[i] for i in chosen], judging, judge)
    others = _scored(row, [one for i, one in enumerate(raw) if i not in chosen], judging, judge)
    left_out = iter([{**one, "advantage": None, "weight": None} for one in others])
    selected = iter(members)
    return {
        **row,
        "completions": [
            {**one, **next(selected if i in chosen else left_out)} for i, one in enumerate(raw)
        ],
        "dropped": drop_reason(
            [member["verdict"] == "correct" for member in members],
            [member["reward"] for member in members],
            judging.selection,
        )
        if raw
        else REFUSED,
    }


def _scored(
    row: dict[str, Any], raw: list[dict[str, Any]], judging: Judging, judge: Judge
) -> list[dict[str, Any]]:
    responses = [Response(one["text"], one["num_tokens"], one["finish_reason"]) for one in raw]
    scored = score_group(
        row["kind"],
        row["reference"],
        row["options"],
        responses,
        tolerance=row["tolerance"],
        judge=judge,
        reward=judging.reward,
        advantage=judging.advantage,
        tau=judging.tau,
    )
    return [
        {**vars(one), "scores": [{"name": k, "value": v} for k, v in (one.scores or {}).items()]}
        for one in scored
    ]


def curate(
    problems: list[Problem],
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
    committed = store.recover()
    missing = [problem for problem in problems if problem.problem_id not in committed]
    datasets, num_too_long = [], 0
    for place, teacher in enumerate(teachers):
        mine = [one for one in missing if assign(teachers, one.problem_id, one.task) == place]
        requests, too_long = teacher_requests(mine, teacher, sampling)
        num_too_long += len(too_long)
        if requests:
            spec = EngineSpec(teacher.model, teacher.engine, sampling, judging.reward.verifier)
            datasets.append(completions(requests, spec, pools.of_teacher(place)))
    if datasets:
        dataset = datasets[0].union(*datasets[1:]) if datasets[1:] else datasets[0]
        dataset = dataset.map_batches(
            GroupWriter,
            fn_constructor_args=(str(out), judging, sampling.model_dump_json()),
            batch_size=groups_per_file(len(problems), sampling),
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=pools.judges.workers),
            num_cpus=pools.judges.cpus,
        )
        log_commits(dataset, store, len(problems) - num_too_long)
    return _result(store, problems, num_too_long)


def groups_per_file(num_problems: int, sampling: SamplingKnobs) -> int:
    values = sampling.most * sampling.max_new_tokens * (1 + sampling.logprobs)
    return max(1, min(MAX_GROUPS_PER_FILE, num_problems // 64, MAX_VALUES_PER_FILE // values))


def teacher_requests(
    problems: list[Problem], teacher: TeacherKnobs, sampling: SamplingKnobs
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(requests, those whose prompt leaves no room); an endpoint says itself what is too long."""
    if isinstance(teacher.engine, EndpointKnobs):
        return build_requests(problems, teacher.prompt, None, sampling.seed), []
    tokenizer = load_tokenizer(fetch_model(teacher.model))
    requests = build_requests(problems, teacher.prompt, tokenizer, sampling.seed)
    return split_by_length(requests, teacher.engine.max_model_len - sampling.max_new_tokens)


def reselect(
    groups: Path, selection: SelectionKnobs, advantage: AdvantageKnobs, tau: float, *, out: Path
) -> StageResult:
    """A store of the same groups with other completions selected; judgements are kept."""
    source, store = Store(groups), Store(out)
    committed = store.recover()
    for table in source.tables():
        rows = [
            reselected_group(row, selection, advantage, tau)
            for row in table.to_pylist()
            if row["problem_id"] not in committed
        ]
        if rows:
            store.append(store.write(pa.Table.from_pylist(rows, schema=GROUP_SCHEMA)))
    dropped = Counter(reason for commit in store.commits() for reason in commit.dropped)
    kept = dropped.pop("", 0)
    if not kept:
        raise ValueError(
            f"selection.group_size: none of the groups is kept with {selection.group_size} "
            f"completions ({dict(dropped)})"
        )
    return StageResult(kept + dropped.total(), kept, dict(dropped))


def reselected_group(
    row: dict[str, Any], selection: SelectionKnobs, advantage: AdvantageKnobs, tau: float
) -> dict[str, Any]:
    """A GROUP_SCHEMA row with advantages and weights relative to the completions now selected."""
    completions = row["completions"]
    if any(one["reward"] is None for one in completions):  # of a reference that cannot be used
        return row
    texts = [one["text"] for one in completions]
    chosen = select_completions(texts, selection, row["problem_id"])
    rewards = [completions[i]["reward"] for i in chosen]
    advantages = group_advantages(rewards, advantage)
    weights = softmax_weights(advantages, tau)
    signals: dict[int, dict[str, float | None]] = {
        i: {"advantage": float(a), "weight": float(w)}
        for i, a, w in zip(chosen, advantages, weights, strict=True)
    }
    none = {"advantage": None, "weight": None}
    is_correct = [completions[i]["verdict"] == "correct" for i in chosen]
    return {
        **row,
        "completions": [{**one, **signals.get(i, none)} for i, one in enumerate(completions)],
        "dropped": drop_reason(is_correct, rewards, selection),
    }


def log_commits(dataset: Any, store: Store, total: int) -> None:
    """Run the dataset; log each commit as it arrives, then tell why groups are missing, if any."""
    failure = ""
    commits = store.commits()
    groups = sum(len(commit.keys) for commit in commits)
    kept = sum(commit.dropped.count("") for commit in commits)
    progress = Progress(f"generate {store.folder.name}", total, done=groups)
    for row in dataset.iter_rows():
        if row["failure"]:
            failure = failure or row["failure"]
            continue
        commit = Commit(**json.loads(row["commit"]))
        store.append(commit)
        groups += len(commit.keys)
        kept += commit.dropped.count("")
        progress.advance(len(commit.keys), commit.num_tokens, f"kept {kept / groups:.0%}")
    if failure:
        raise ValueError(
            f"{failure}; {groups} of {total} groups are committed, start again to go on"
        )


def _result(store: Store, problems: list[Problem], num_too_long: int) -> StageResult:
    commits = store.commits()
    seen: dict[str, str] = {}
    for commit in commits:
        for key, dropped in zip(commit.keys, commit.dropped, strict=True):
            seen.setdefault(key, dropped)
    if not seen:
        raise ValueError(
            f"teacher.engine.max_model_len: the prompts of all {len(problems)} problems leave no "
            "room for sampling.max_new_tokens"
        )
    set_aside = Counter(dropped for dropped in seen.values() if dropped)
    if num_too_long:
        set_aside["prompt_too_long"] = num_too_long
    kept = sum(not dropped for dropped in seen.values())
    if not kept:
        raise ValueError(
            f"no group of {len(seen)} was kept ({dict(set_aside)}); look at the completions in "
            f"{store.folder} and at teacher.prompt, reward.verifier and selection"
        )
    return StageResult(
        rows_in=len(problems),
        rows_out=kept,
        set_aside=dict(set_aside),
        prompt_tokens=sum(commit.prompt_tokens for commit in commits),
        completion_tokens=sum(commit.num_tokens for commit in commits),
        facts={"cost": cost} if (cost := sum(commit.cost for commit in commits)) else {},
    )
