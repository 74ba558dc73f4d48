"""Rows with raw completions -> rows of the group store: judged, rewarded, selected, weighted.

What generation does as completions arrive, and re-scoring with what is committed. No torch, no Ray.
"""

from collections import Counter
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from fastdistill_ray.advantages import (
    AdvantageKnobs,
    SelectionKnobs,
    drop_reason,
    select_completions,
)
from fastdistill_ray.config import Recipe
from fastdistill_ray.groups import Store
from fastdistill_ray.objectives import AdvDistill
from fastdistill_ray.rewards import RewardKnobs, Scorer
from fastdistill_ray.run_dir import StageResult
from fastdistill_ray.scoring import Assessed, Response, ToScore, assess, relative
from fastdistill_ray.verifiers import Judge

FAILED_VERDICTS = ("error", "timeout")
REFUSED = "refused_by_teacher"
FEWEST_JUDGED = 200  # completions a share of failures is taken of, so that a few mean nothing


class Judging(NamedTuple):
    reward: RewardKnobs
    advantage: AdvantageKnobs
    selection: SelectionKnobs
    tau: float


def judging_of(recipe: Recipe) -> Judging:
    tau = getattr(recipe.objective, "tau", AdvDistill().tau)
    return Judging(recipe.reward, recipe.advantage, recipe.selection, tau)


def judge_rows(
    rows: list[dict[str, Any]], judging: Judging, judge: Judge, scorer: Scorer
) -> list[dict[str, Any]]:
    """Rows of GROUP_SCHEMA from rows with `completions`, whose earlier judgements are replaced."""
    groups = [
        ToScore(
            row["kind"],
            row["reference"],
            row["options"],
            [
                Response(one["text"], one["num_tokens"], one["finish_reason"])
                for one in row["completions"]
            ],
            row["tolerance"],
            row["question"],
        )
        for row in rows
    ]
    judged = zip(rows, assess(groups, judge, scorer), strict=True)
    return [
        select(_with_judgements(row, group), judging.selection, judging.advantage, judging.tau)
        for row, group in judged
    ]


def _with_judgements(row: dict[str, Any], group: list[Assessed]) -> dict[str, Any]:
    completions = []
    for raw, one in zip(row["completions"], group, strict=True):
        scores = [{"name": name, "value": value} for name, value in (one.scores or {}).items()]
        completions.append({**raw, **one._asdict(), "scores": scores})
    return {**row, "completions": completions}


def select(
    row: dict[str, Any], selection: SelectionKnobs, advantage: AdvantageKnobs, tau: float
) -> dict[str, Any]:
    """The judged row with its chosen completions weighted, and why it is dropped if it is.

    A completion that is left out, or that has no reward, takes no part in its group's statistics:
    it has no advantage and no weight.
    """
    completions = row["completions"]
    chosen = select_completions([one["text"] for one in completions], selection, row["problem_id"])
    members = [completions[i] for i in chosen]
    signals = relative([one["reward"] for one in members], advantage, tau)
    places = dict(zip(chosen, signals, strict=True))
    weighted = []
    for i, one in enumerate(completions):
        value, weight = places.get(i, (None, None))
        weighted.append({**one, "advantage": value, "weight": weight})
    rewarded = [one for one in members if one["reward"] is not None]
    dropped = drop_reason(
        [one["verdict"] == "correct" for one in rewarded],
        [one["reward"] for one in rewarded],
        selection,
    )
    return {**row, "completions": weighted, "dropped": dropped if completions else REFUSED}


def check_failures(verdicts: Counter[str], max_share: float, store: Store) -> None:
    """ValueError when too many of a store's completions could not be judged."""
    total = verdicts.total()
    failed = sum(verdicts[verdict] for verdict in FAILED_VERDICTS)
    if failed <= max_share * max(total, FEWEST_JUDGED):
        return
    reasons = _failure_reasons(store).most_common(1)
    run = store.folder.parent.parent
    raise ValueError(
        f"reward.max_failed_share: {failed} of {total} completions ({failed / total:.1%}) have "
        f"verdict error or timeout, more than {max_share:.1%}"
        + "".join(f"; the most frequent reason, {n} times: {text}" for text, n in reasons)
        + f". What is committed stays: see it with 'fastdistill audit {run}'; then raise "
        "reward.max_failed_share and start again, or mend the reward and take the completions "
        f"along with 'fastdistill score {run} --output NEW_RUN'"
    )


def count_verdicts(store: Store) -> Counter[str]:
    verdicts: Counter[str] = Counter()
    for commit in store.commits():
        verdicts.update(commit.verdicts)
    return verdicts


def _failure_reasons(store: Store) -> Counter[str]:
    reasons: Counter[str] = Counter()
    columns = [f"completions.list.element.{name}" for name in ("verdict", "reason")]
    for commit in store.commits():
        with pq.ParquetFile(store.folder / commit.file) as file:
            groups = file.read(columns=columns)["completions"].to_pylist()
        for group in groups:
            reasons.update(
                " ".join(one["reason"].split())[:160]
                for one in group
                if one["verdict"] in FAILED_VERDICTS
            )
    return reasons


def store_result(store: Store, num_problems: int, set_aside: dict[str, int]) -> StageResult:
    """The count law of a store; `set_aside` are problems that are not in it."""
    reasons: Counter[str] = Counter()
    prompt_tokens = completion_tokens = 0
    cost = 0.0
    for commit in store.commits():
        reasons.update(commit.dropped)
        prompt_tokens += commit.prompt_tokens
        completion_tokens += commit.num_tokens
        cost += commit.cost
    kept = reasons.pop("", 0)
    lost = dict(reasons) | set_aside
    if not kept:
        raise ValueError(
            f"no group of {reasons.total()} was kept ({lost}); look at the completions in "
            f"{store.folder} and at teacher.prompt, reward.verifier and selection"
        )
    return StageResult(
        rows_in=num_problems,
        rows_out=kept,
        set_aside=lost,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        facts={"cost": cost} if cost else {},
    )
