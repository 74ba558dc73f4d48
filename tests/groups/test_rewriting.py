"""Which of a writer's answers stand, what a student is asked anew, and what is left out."""

import pytest
from pydantic import ValidationError

from fastdistill_ray.groups.rewriting import (
    Final,
    RewriteKnobs,
    asked_again,
    chosen_texts,
    final_of,
    is_leak,
    uncertainty_of,
)
from fastdistill_ray.records import Problem
from fastdistill_ray.verifiers import Judge, VerifierKnobs

KNOBS = RewriteKnobs()
JUDGE = Judge(VerifierKnobs())


def group(key: str, *answers: str, kind: str = "number", text: str = "") -> dict:
    completions = [
        {
            "text": text or f"<answer>\\boxed{{{one}}}</answer>",
            "num_tokens": place,
            "finish_reason": "stop",
        }
        for place, one in enumerate(answers)
    ]
    return {
        "problem_id": key,
        "question": f"question {key}",
        "kind": kind,
        "reference": "1",
        "options": [],
        "tolerance": None,
        "scorer": "",
        "completions": completions,
    }


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        # The paper's case: A three times, B twice, C once, which is dropped.
        ("5 5 7 5 9 7", Final(0, [("5", 3), ("7", 2)])),
        ("7 5 5.0", Final(1, [("5", 2)])),  # sure: 7 is given once
        ("1 2 3", None),
        ("8 6 6 8", Final(0, [("8", 2), ("6", 2)])),  # of equals the one given first
    ],
)
def test_answer_that_stands_is_the_most_frequent_of_those_given_twice(answers, expected):
    found = final_of(group("a", *answers.split()), JUDGE)
    assert found == expected
    assert final_of(group("a", *answers.split(), kind="scored"), JUDGE) is None


def test_uncertainty_names_every_answer_given_twice_and_counts_the_others():
    said = uncertainty_of(Final(0, [("5", 3), ("7", 2)]), 6)
    assert (
        said == "I answered 6 times: 5 3 times, 7 2 times, and 1 other answers once or none. "
        "I am not sure of 5."
    )


def test_student_is_asked_with_texts_as_they_are_whatever_braces_they_hold():
    problem = Problem("a", "t", "train", "What is {own}?", "1", "number")
    row = group("a", "5", "5", "7", "7")
    asked = asked_again(
        problem, "mine {other} \\boxed{3}", row, Final(0, [("5", 2), ("7", 2)]), KNOBS
    )
    assert asked.question.startswith("What is {own}?\n\nMy own answer:\nmine {other} \\boxed{3}\n")
    assert "Another answer:\n<answer>\\boxed{5}</answer>\n" in asked.question
    assert "I answered 4 times: 5 2 times, 7 2 times. I am not sure of 5." in asked.question
    assert (asked.problem_id, asked.reference) == ("a", "1")
    with pytest.raises(ValidationError, match=r"expected .other. in it"):
        RewriteKnobs(text="{question} {own} {uncertainty}")


def test_one_text_of_each_problem_is_trained_on_and_those_that_tell_of_others_are_not():
    written = [
        group("sure", "3", "3", "9"),
        group("doubted", "3", "3", "9", "9"),
        group("unanswered", "3", "3", "9", "9"),
        group("told", "3", "3", "9", "9"),
        group("lost", "1", "2"),
    ]
    again = {
        "doubted": {**group("doubted", "9"), "question": "composed"},
        "told": {**group("told", "9", text="As Another Answer says, 9"), "question": "composed"},
        "unanswered": {**group("unanswered"), "question": "composed"},
    }
    finals = {row["problem_id"]: final_of(row, JUDGE) for row in written}
    rows, sources, left = chosen_texts(written, finals, again, KNOBS)
    assert [(row["problem_id"], row["question"]) for row in rows] == [
        ("sure", "question sure"),
        ("doubted", "question doubted"),
    ]
    texts = [[one["text"] for one in row["completions"]] for row in rows]
    assert texts == [["<answer>\\boxed{3}</answer>"], ["<answer>\\boxed{9}</answer>"]]
    assert dict(sources) == {"original": 1, "rewritten": 1}
    assert dict(left) == {"not_answered": 1, "mentions_other_answers": 1, "no_answer": 1}
    assert not is_leak("I am sure of 9", KNOBS)
