"""The answer that most of a problem's completions give, in place of a reference.

Data Distillation (arXiv 1712.04440) for text: one teacher answers an unlabelled problem several
times, what most answers agree on is the label (self-consistency, arXiv 2203.11171, eq. 1 without
weights), and problems on which they agree too little are left out.
"""

from typing import NamedTuple

from fastdistill_ray.records import WRITTEN_KINDS, Judgement, Verdict, Vote
from fastdistill_ray.rewards.assess import ToScore
from fastdistill_ray.verifiers import Judge
from fastdistill_ray.verifiers.extraction import WHOLE
from fastdistill_ray.verifiers.judge import MAX_SHOWN, SEVERAL_NUMBERS

# Only shows whether an answer can be read; none is counted for being equal to it.
ANY: dict[str, str] = dict.fromkeys(WRITTEN_KINDS, "1") | {"choice": "A"}


class Voted(NamedTuple):
    vote: Vote
    judgements: list[Judgement]  # by the vote


class Cluster(NamedTuple):
    answer: str
    places: list[int]  # of the completions that give it


def clusters_of(group: ToScore, judge: Judge) -> list[Cluster]:
    """Completions of equal answers, in the order in which each was given first; those whose answer
    cannot be read are of none."""
    return _clusters(group, _answers(group, judge), judge)


def _answers(group: ToScore, judge: Judge) -> list[Judgement]:
    return [_read(group, place, judge) for place in range(len(group.responses))]


def _clusters(group: ToScore, answers: list[Judgement], judge: Judge) -> list[Cluster]:
    found: list[Cluster] = []
    for place, one in enumerate(answers):
        if not one.answer:
            continue
        for cluster in found:
            if _is_same(group, cluster.answer, one.answer, judge):
                cluster.places.append(place)
                break
        else:
            found.append(Cluster(one.answer, [place]))
    return found


def hold_vote(group: ToScore, judge: Judge) -> Voted:
    """A completion is right that gives the answer most give; the reference decides nothing.

    Answers are equal as the judge compares an answer with a reference, in either order. Where as
    many give another answer, the one that was given first is taken: its agreement is at most one
    half.
    """
    answers = _answers(group, judge)
    kinds = _clusters(group, answers, judge)
    answer, most = max(kinds, key=lambda one: len(one.places), default=Cluster("", []))
    num_votes = sum(len(one.places) for one in kinds)
    vote = Vote(
        answer=answer,
        num_votes=num_votes,
        agreement=len(most) / num_votes if num_votes else 0.0,
        verdict=_by_reference(group, answer, judge),
    )
    judgements = [
        Judgement("correct", one.answer, "as most answers")
        if place in most
        else Judgement("wrong", one.answer, "not as most answers")
        if one.answer
        else one
        for place, one in enumerate(answers)
    ]
    return Voted(vote, judgements)


def _read(group: ToScore, place: int, judge: Judge) -> Judgement:
    """With an answer only where the completion casts a vote."""
    response = group.responses[place]
    found = judge.judge(
        group.kind,
        response.text,
        ANY[group.kind],
        group.options,
        response.finish_reason,
        tolerance=group.tolerance,
    )
    is_read = found.verdict in ("correct", "wrong") and len(found.answer) < MAX_SHOWN
    is_one = not found.reason.endswith(SEVERAL_NUMBERS) and not judge.reference_error(
        group.kind, found.answer, group.options
    )
    # A response that is nothing but its answer is read only beside a reference that it equals.
    if is_read and is_one and not found.reason.startswith(WHOLE):
        return found
    verdict = "unparsable" if is_read else found.verdict
    return Judgement(verdict, "", found.reason if verdict == found.verdict else "no vote")


def _is_same(group: ToScore, one: str, other: str, judge: Judge) -> bool:
    return any(
        judge.compare(group.kind, *pair, group.options, group.tolerance).verdict == "correct"
        for pair in ((one, other), (other, one))
    )


def _by_reference(group: ToScore, answer: str, judge: Judge) -> Verdict | None:
    if not answer or judge.reference_error(group.kind, group.reference, group.options):
        return None
    kind, reference = group.kind, group.reference
    return judge.compare(kind, reference, answer, group.options, group.tolerance).verdict
