"""Which texts of a model are new problems."""

import pytest
from support.groups import make_completion, make_group

from fastdistill_ray.records import Problem
from fastdistill_ray.rewards import Scorer
from fastdistill_ray.rewards.selection import judge_rows
from fastdistill_ray.run.new_problems import UNJUDGED
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.new_problems import KINDS, kept, question_of
from fastdistill_ray.verifiers import Judge


def problem(name: str, question: str) -> Problem:
    return Problem(name, "t", "train", question, "7", "number", tolerance=0.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ann has 2 hats. How many hats?", "Ann has 2 hats. How many hats?"),
        ("New Problem: Ann has 2 hats.\nHow many?", "Ann has 2 hats.\nHow many?"),
        ("<think>easy</think>\nQuestion:\nAnn has 2 hats, how many?", "Ann has 2 hats, how many?"),
        ("Ann has 2 hats. How many?\n\nAnn has 3 hats. How many?", ""),
        ("Ann has 2 hats. How many? \\boxed{2}", ""),
        ("Ann has 2 hats. How many?\nAnswer: 2", ""),
        ("How many?", ""),
        ("", ""),
    ],
)
def test_text_that_is_one_question_alone_is_a_problem(text, expected):
    assert question_of(text) == expected


def test_new_problems_have_no_answer_and_repeat_and_overlap_nothing():
    first = problem("a", "Ann has 2 hats and buys 1 more.")
    second = problem("b", "Bob has 2 hats and buys 1 more.")
    tested = [problem("t", "Carl had nine red apples and ate all but two of them")]
    texts = [
        ("Dan has 4 caps and buys 5 more.", "stop"),
        ("dan has  4 caps and buys 5 more.", "stop"),
        ("Bob has 2 hats and buys 1 more.", "stop"),
        ("Eve had nine red apples and ate all but two of hers", "stop"),
        ("Fay has 4 caps and buys", "length"),
        ("\\boxed{4} is the answer of it", "stop"),
    ]
    written = [(first, texts), (second, [("Gus has 4 caps and buys 5 more.", "stop")])]
    found, left = kept(written, [first, second], tested, 6)
    assert [(one.problem_id, one.question) for one in found] == [
        ("a+1", "Dan has 4 caps and buys 5 more."),
        ("b+1", "Gus has 4 caps and buys 5 more."),
    ]
    assert {(one.reference, one.kind, one.split, one.tolerance) for one in found} == {
        ("", "number", "train", 0.5)
    }
    counts = {"repeated": 2, "overlaps_test": 1, "cut": 1, "no_single_question": 1}
    assert dict(left) == counts
    found, left = kept(written, [first, second], tested, 0)
    assert "a+4" in [one.problem_id for one in found], "made of templates, any run may be shared"
    assert "overlaps_test" not in left


@pytest.mark.parametrize("reference", ["", "7"])
@pytest.mark.parametrize("kind", KINDS)
def test_text_for_a_new_problem_is_kept_without_a_verdict_whatever_is_known_of_its_source(
    kind, reference
):
    texts = ["Ann has 2 hats. How many?", "It is \\boxed{2}.", ""]
    groups = [
        make_group(str(number), [make_completion(one) for one in texts[:number]], kind=kind)
        for number in (1, 3)
    ]
    rows = [{**group, "reference": reference} for group in groups]
    reward = UNJUDGED.reward
    with Judge(reward.verifier) as judge:
        judged = judge_rows(rows, UNJUDGED, judge, Scorer(reward, Place("unused")))
    assert [row["dropped"] for row in judged] == ["", ""]
    verdicts = [one["verdict"] for row in judged for one in row["completions"]]
    assert len(verdicts) == 4 and "error" not in verdicts
