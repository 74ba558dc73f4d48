"""Completions and a reference answer -> verdicts, scores, rewards, advantages and weights.

`assess` and `relative` serve every stage; `score_file` is the verb `fastdistill score` on a file,
whose lines keep the words of that format: gold is the reference, a response is a completion. No
torch, no Ray.
"""

from collections.abc import Iterator
from typing import NamedTuple

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


class Assessed(NamedTuple):
    """One completion by itself. An error has no reward, and no scores where it was not judged."""

    verdict: Verdict
    answer: str
    reason: str
    scores: dict[str, float | None] | None
    reward: float | None


def assess(groups: list[ToScore], judge: Judge, scorer: Scorer) -> list[list[Assessed]]:
    """One entry per response of each group, in order."""
    judged = [_judge_group(group, judge) for group in groups]
    answered = [
        Answered(*response, *_asked(group), judgement.verdict, judgement.answer)
        for group, judgements in zip(groups, judged, strict=True)
        for response, judgement in zip(group.responses, judgements, strict=True)
        if judgement.verdict != "error"
    ]
    scores = iter(scorer.score(answered))
    return [[_assessed(judgement, scores) for judgement in judgements] for judgements in judged]


def _judge_group(group: ToScore, judge: Judge) -> list[Judgement]:
    fault = judge.reference_error(group.kind, group.reference, group.options)
    if fault:
        return [Judgement("error", "", fault) for _ in group.responses]
    return [
        judge.judge(
            *(group.kind, response.text, group.reference, group.options, response.finish_reason),
            tolerance=group.tolerance,
        )
        for response in group.responses
    ]


def _asked(group: ToScore) -> tuple[str, Kind, str]:
    return group.question, group.kind, group.reference


def _assessed(judgement: Judgement, scores: Iterator[Scores]) -> Assessed:
    """Takes the next scores, which are those of the judgement unless it has none."""
    if judgement.verdict == "error":
        return Assessed(*vars(judgement).values(), None, None)
    values, reward, fault = next(scores)
    if fault:
        return Assessed("error", judgement.answer, fault, values, None)
    return Assessed(*vars(judgement).values(), values, reward)


def relative(
    rewards: list[float | None], advantage: AdvantageKnobs, tau: float
) -> list[tuple[float, float] | tuple[None, None]]:
    """Advantage and weight of each completion of a group among those that have a reward."""
    advantages = group_advantages([one for one in rewards if one is not None], advantage)
    pairs = iter(zip(advantages.tolist(), softmax_weights(advantages, tau).tolist(), strict=True))
    return [(None, None) if one is None else next(pairs) for one in rewards]
