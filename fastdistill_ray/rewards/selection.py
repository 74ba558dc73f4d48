"""Rows with raw completions -> judged, rewarded, selected. No torch, no Ray."""

import hashlib
import json
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from fastdistill_ray.knobs import Knobs
from fastdistill_ray.records import Vote
from fastdistill_ray.rewards import RewardKnobs, Scorer
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.rewards.assess import (
    Assessed,
    ToScore,
    assess,
    relative,
    score_judged,
)
from fastdistill_ray.rewards.voting import hold_vote
from fastdistill_ray.verifiers import Judge

WHOLE = (0.0, 1.0)


def _checked(part: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= part[0] < part[1] <= 1:
        raise ValueError("expected [from, to] with 0 <= from < to <= 1")
    return part


Part = Annotated[tuple[float, float], AfterValidator(_checked)]  # of the problems, by shares


class SelectionKnobs(Knobs):
    min_correct: int = Field(
        default=1, ge=0, description="Fewest correct completions of a kept group."
    )
    max_correct: int | None = Field(
        default=None, description="Most correct completions of a kept group; none: all may be."
    )
    drop_zero_variance: bool = Field(
        default=False, description="Drop groups whose rewards are all equal."
    )
    min_size: int = Field(default=2, ge=1, description="Fewest completions of a kept group.")
    dedup: bool = Field(
        default=False, description="Drop repeated texts inside a group, keeping the first."
    )
    group_size: int | None = Field(
        default=None,
        ge=1,
        description="Use this many completions of each group, the correct ones that "
        "sampling.max_n drew for among them; none: all.",
    )
    group_select: Literal["random", "first"] = Field(
        default="random",
        description="Which ones when group_size is set: seeded random, or the first.",
    )
    seed: int = Field(default=0, description="Seed of the random choice of group_size.")
    problems: Part = Field(
        default=WHOLE,
        description="Groups of this part of the problems are kept, by a hash of their ids: "
        "[0, 0.5] is about one half, [0.5, 1] the other.",
    )
    min_agreement: float = Field(
        default=0.6,
        gt=0.5,
        le=1,
        description="With reward.reference: vote, least share of a kept group's votes that the "
        "answer has; completions without an answer that can be read do not vote.",
    )
    min_votes: int = Field(
        default=3, ge=1, description="With reward.reference: vote, fewest votes of a kept group."
    )


def select_completions(texts: list[str], knobs: SelectionKnobs, problem_id: str) -> list[int]:
    """Positions of the completions a group keeps, ascending; rewards are relative to these."""
    kept = _without_repeats(texts, knobs)
    if knobs.group_size is None or len(kept) <= knobs.group_size:
        return kept
    if knobs.group_select == "first":
        return kept[: knobs.group_size]
    # Not hash(): it differs between processes.
    digest = hashlib.sha256(f"{knobs.seed}:{problem_id}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return sorted(generator.choice(kept, knobs.group_size, replace=False).tolist())


def with_correct(chosen: list[int], correct: list[int], enough: int) -> list[int]:
    """The first `correct` completions that were not chosen take the place of the last chosen ones
    that are not correct, until `enough` are."""
    others = [i for i in chosen if i not in correct]
    spare = [i for i in correct if i not in chosen]
    number = min(len(others), len(spare), max(0, enough - (len(chosen) - len(others))))
    leaving = others[len(others) - number :]
    return sorted([*(i for i in chosen if i not in leaving), *spare[:number]])


def _without_repeats(texts: list[str], knobs: SelectionKnobs) -> list[int]:
    if not knobs.dedup:
        return list(range(len(texts)))
    return sorted({text: i for i, text in reversed(list(enumerate(texts)))}.values())


def drop_reason(
    is_correct: list[bool], rewards: NDArray[np.float64] | list[float], knobs: SelectionKnobs
) -> str:
    """Why the group is not trained on: "" or a word that reports count."""
    num_correct = sum(is_correct)
    if len(is_correct) < knobs.min_size:
        return "too_few_completions"
    if num_correct < knobs.min_correct:
        return "too_few_correct"
    if knobs.max_correct is not None and num_correct > knobs.max_correct:
        return "too_many_correct"
    if knobs.drop_zero_variance and np.ptp(np.asarray(rewards, dtype=np.float64)) == 0:
        return "zero_variance"
    return ""


REFUSED, LOW_AGREEMENT = "refused_by_teacher", "low_agreement"
OTHER_PART = "not_in_selection_problems"


def is_in(part: tuple[float, float], problem_id: str) -> bool:
    """Whether a problem is in a part of all; parts that do not overlap share none."""
    digest = hashlib.sha256(f"part:{problem_id}".encode()).digest()
    return part[0] <= int.from_bytes(digest[:6], "big") / 2**48 < part[1]


class Judging(NamedTuple):
    reward: RewardKnobs
    advantage: AdvantageKnobs
    selection: SelectionKnobs


def judge_rows(
    rows: list[dict[str, Any]], judging: Judging, judge: Judge, scorer: Scorer
) -> list[dict[str, Any]]:
    """Rows of GROUP_SCHEMA from rows with `completions`, whose earlier judgements are replaced."""
    groups = [ToScore.of(row, row["completions"]) for row in rows]
    votes: list[Vote | None] = [None] * len(rows)
    if judging.reward.reference == "vote":
        voted = [hold_vote(group, judge) for group in groups]
        votes = [one.vote for one in voted]
        groups = [
            group._replace(reference=one.vote["answer"])
            for group, one in zip(groups, voted, strict=True)
        ]
        assessed = score_judged(groups, [one.judgements for one in voted], scorer)
    else:
        assessed = assess(groups, judge, scorer)
    return [
        select(_with_judgements(row, vote, group), judging.selection, judging.advantage)
        for row, vote, group in zip(rows, votes, assessed, strict=True)
    ]


def _with_judgements(
    row: dict[str, Any], vote: Vote | None, group: list[Assessed]
) -> dict[str, Any]:
    completions = []
    for raw, one in zip(row["completions"], group, strict=True):
        scores = [{"name": name, "value": value} for name, value in (one.scores or {}).items()]
        completions.append({**raw, **one._asdict(), "scores": scores})
    return {**row, "vote": vote, "completions": completions}


def _is_right(completion: dict[str, Any]) -> bool:
    return completion["verdict"] == "correct" and completion["reward"] is not None


def select(
    row: dict[str, Any], selection: SelectionKnobs, advantage: AdvantageKnobs
) -> dict[str, Any]:
    """The judged row with the advantages of its chosen completions, and why it is dropped if it is.

    A completion that is left out, or that has no reward, takes no part in its group's statistics:
    it is not selected and has no advantage. Where completions were drawn until enough were correct
    (`sampling.max_n`), these are among the chosen: the group was paid for because of them.
    """
    completions = row["completions"]
    texts = [one["text"] for one in completions]
    chosen = select_completions(texts, selection, row["problem_id"])
    sampling = json.loads(row["sampling"])
    if sampling.get("max_n"):
        correct = [i for i in _without_repeats(texts, selection) if _is_right(completions[i])]
        chosen = with_correct(chosen, correct, sampling["enough"])
    members = [completions[i] for i in chosen]
    advantages = relative([one["reward"] for one in members], advantage)
    places = dict(zip(chosen, advantages, strict=True))
    compared = []
    for i, one in enumerate(completions):
        value = places.get(i)
        compared.append({**one, "is_selected": value is not None, "advantage": value})
    rewarded = [one for one in members if one["reward"] is not None]
    dropped = drop_reason(
        [one["verdict"] == "correct" for one in rewarded],
        [one["reward"] for one in rewarded],
        selection,
    )
    if not is_in(selection.problems, row["problem_id"]):
        dropped = OTHER_PART
    elif not completions:
        dropped = REFUSED
    elif not is_agreed(row["vote"], selection):
        dropped = LOW_AGREEMENT
    return {**row, "completions": compared, "dropped": dropped}


def is_agreed(vote: Vote | None, selection: SelectionKnobs) -> bool:
    """Whether completions are judged by a reference, or by a vote that is clear enough."""
    if vote is None:
        return True
    enough = vote["num_votes"] >= selection.min_votes
    return enough and vote["agreement"] >= selection.min_agreement
