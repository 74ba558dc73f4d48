"""Answers that completions agree on, counted by hand."""

import pytest
from support.groups import make_completion, make_group

from fastdistill_ray.rewards import RewardKnobs, Scorer
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.rewards.assess import Response, ToScore
from fastdistill_ray.rewards.selection import Judging, SelectionKnobs, judge_rows
from fastdistill_ray.rewards.voting import hold_vote
from fastdistill_ray.verifiers import Judge, VerifierKnobs


def boxed(*answers: str) -> list[Response]:
    """One response each; "": none."""
    texts = [f"So it is \\boxed{{{one}}}." if one else "I do not know." for one in answers]
    return [Response(text, 5) for text in texts]


def held(kind: str, *answers: str, reference: str = "", options: tuple[str, ...] = ()):
    with Judge(VerifierKnobs()) as judge:
        group = ToScore(kind, reference, options, boxed(*answers))  # type: ignore[arg-type]
        return hold_vote(group, judge)


def test_votes_of_the_papers_example():
    """Of [4, 4, 5, none, 4] the answer is 4, by 3 of 4 votes; who gives none abstains."""
    vote, judgements = held("number", "4", "4", "5", "", "4")
    assert vote == {"answer": "4", "num_votes": 4, "agreement": 0.75, "verdict": None}
    verdicts = [one.verdict for one in judgements]
    assert verdicts == ["correct", "correct", "wrong", "unparsable", "correct"]


@pytest.mark.parametrize(
    ("kind", "answers", "num_equal", "num_votes"),
    [
        ("number", ("0.5", "1/2", r"\frac{1}{2}", "2"), 3, 4),
        ("number", ("1,000", "1000", "about a lot"), 2, 2),
        ("number", ("3 and 5", "3 and 5", "3"), 1, 1),
        ("math", (r"x+1", r"1+x", r"x"), 2, 3),
        ("math", (r"\frac{", r"\frac{", "7"), 1, 1),
        ("choice", ("B", "(B)", "C", "Z"), 2, 3),
        ("list", ("1, 2", "2, 1", "3"), 2, 3),
        ("text", ("Oslo", "oslo", "Bergen"), 2, 3),
    ],
)
def test_equal_answers_vote_together_and_unreadable_ones_abstain(
    kind, answers, num_equal, num_votes
):
    options = ("one", "two", "three") if kind == "choice" else ()
    vote, judgements = held(kind, *answers, options=options)
    assert vote["num_votes"] == num_votes
    assert vote["agreement"] == num_equal / num_votes
    assert [one.verdict for one in judgements].count("correct") == num_equal


def test_reference_only_says_whether_the_vote_is_right():
    vote, judgements = held("number", "7", "7", "8", reference="8")
    assert (vote["answer"], vote["verdict"]) == ("7", "wrong")
    assert [one.verdict for one in judgements] == ["correct", "correct", "wrong"]
    assert held("number", "7", "8.0", "8", reference="8").vote["verdict"] == "correct"


def test_no_answer_is_preferred_for_being_the_one_that_is_compared_with():
    """A bare answer is read only beside an equal reference: it never votes."""
    with Judge(VerifierKnobs()) as judge:
        for kind, text in (("number", "1"), ("choice", "A")):
            group = ToScore(kind, "", ("x", "y"), [Response(text, 1)])  # type: ignore[arg-type]
            vote, (judgement,) = hold_vote(group, judge)
            assert (vote["num_votes"], vote["agreement"]) == (0, 0.0)
            assert judgement.verdict == "unparsable"


@pytest.mark.parametrize(
    ("answers", "knobs", "dropped"),
    [
        (("4", "4", "5"), {}, ""),
        (("4", "4", "5"), {"min_agreement": 0.7}, "low_agreement"),
        (("4", "5", "4", "5"), {}, "low_agreement"),
        (("4", "4", ""), {}, "low_agreement"),
        (("4", "4", ""), {"min_votes": 2}, ""),
        (("", "", ""), {"min_correct": 0}, "low_agreement"),
    ],
)
def test_group_is_kept_where_its_vote_is_clear(answers, knobs, dropped):
    completions = [make_completion(one.text, seed=k) for k, one in enumerate(boxed(*answers))]
    row = make_group("p", completions, reference="")
    selection = SelectionKnobs(**knobs)
    judging = Judging(RewardKnobs(reference="vote"), AdvantageKnobs(), selection)
    with Judge(VerifierKnobs()) as judge, Scorer(judging.reward) as scorer:
        (judged,) = judge_rows([row], judging, judge, scorer)
    assert judged["dropped"] == dropped
    assert judged["reference"] == ""
    if not dropped:
        assert [one["verdict"] for one in judged["completions"]][:2] == ["correct", "correct"]
        assert judged["completions"][0]["reward"] > judged["completions"][2]["reward"]
