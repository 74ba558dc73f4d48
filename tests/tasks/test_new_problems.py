"""Which texts of a model are new problems."""

import pytest

from fastdistill_ray.records import Problem
from fastdistill_ray.tasks.new_problems import kept, question_of


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
