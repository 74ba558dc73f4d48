"""Completions and a reference answer -> verdicts, scores, rewards, advantages. No torch, no Ray."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastdistill_ray.records import Judgement, Kind, Verdict
from fastdistill_ray.rewards import Scorer
from fastdistill_ray.rewards.advantages import AdvantageKnobs, group_advantages, softmax_weights
from fastdistill_ray.rewards.scorer import Answered, Scores
from fastdistill_ray.verifiers import Judge


class Response(NamedTuple):
    text: str
    num_tokens: int
    finish_reason: str = "stop"


class ToScore(NamedTuple):
    """A problem with the responses to judge by its reference answer."""

    kind: Kind
    reference: str
    options: tuple[str, ...] | list[str]
    responses: list[Response]
    tolerance: float | None = None
    question: str = ""
    scorer: str = ""

    @classmethod
    def of(cls, problem: Mapping[str, Any], said: Iterable[Mapping[str, Any]]) -> "ToScore":
        """Of rows of a problem and its completions."""
        return cls(
            problem["kind"],
            problem["reference"],
            problem["options"],
            [Response(one["text"], one["num_tokens"], one["finish_reason"]) for one in said],
            problem["tolerance"],
            problem["question"],
            problem["scorer"],
        )


class Assessed(NamedTuple):
    """One completion by itself. An error has no reward, and no scores where it was not judged."""

    verdict: Verdict
    answer: str
    reason: str
    scores: dict[str, float | None] | None
    reward: float | None


# Nobody knows whether such a completion is right: it has no reward and is trained on as neither.
UNDECIDED = ("error", "timeout")


def assess(groups: list[ToScore], judge: Judge, scorer: Scorer) -> list[list[Assessed]]:
    """One entry per response of each group, in order."""
    return score_judged(groups, [judge_group(group, judge) for group in groups], scorer)


def score_judged(
    groups: list[ToScore], judged: list[list[Judgement]], scorer: Scorer
) -> list[list[Assessed]]:
    answered = [
        Answered(
            text=response.text,
            num_tokens=response.num_tokens,
            finish_reason=response.finish_reason,
            question=group.question,
            kind=group.kind,
            reference=group.reference,
            verdict=judgement.verdict,
            answer=judgement.answer,
        )
        for group, judgements in zip(groups, judged, strict=True)
        for response, judgement in zip(group.responses, judgements, strict=True)
        if judgement.verdict not in UNDECIDED
    ]
    scores = iter(scorer.score(answered))
    return [[_assessed(judgement, scores) for judgement in judgements] for judgements in judged]


def judge_group(group: ToScore, judge: Judge) -> list[Judgement]:
    fault = judge.reference_error(group.kind, group.reference, group.options)
    if fault:
        return [Judgement("error", "", fault) for _ in group.responses]
    return [
        judge.judge(
            group.kind,
            response.text,
            group.reference,
            group.options,
            response.finish_reason,
            tolerance=group.tolerance,
            scorer=group.scorer,
        )
        for response in group.responses
    ]


def _assessed(judgement: Judgement, scores: Iterator[Scores]) -> Assessed:
    """Takes the next scores, which are those of the judgement unless it has none."""
    verdict, answer, reason = judgement.verdict, judgement.answer, judgement.reason
    if verdict in UNDECIDED:
        return Assessed(verdict, answer, reason, scores=None, reward=None)
    values, reward, fault = next(scores)
    if fault:
        return Assessed("error", answer, fault, values, reward=None)
    return Assessed(verdict, answer, reason, values, reward)


def relative(rewards: list[float | None], advantage: AdvantageKnobs) -> list[float | None]:
    """Advantage of each completion of a group among those that have a reward."""
    known = [reward for reward in rewards if reward is not None]
    advantages = iter(group_advantages(known, advantage).tolist())
    return [None if reward is None else next(advantages) for reward in rewards]


def relative_weights(advantages: list[float | None], tau: float) -> list[float | None]:
    """Weight of each completion of a group among those that have an advantage (eq. 7)."""
    known = [value for value in advantages if value is not None]
    weights = iter(softmax_weights(np.array(known), tau).tolist())
    return [None if value is None else next(weights) for value in advantages]
