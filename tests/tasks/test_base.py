"""What holds for every task."""

import pytest

from fastdistill_ray.records import Problem
from fastdistill_ray.tasks import TaskKnobs, load_problems
from fastdistill_ray.tasks.base import Problems, check_problems, divide


def test_load_problems_of_unknown_task_names_the_known() -> None:
    with pytest.raises(ValueError, match=r"no task is named 'gsm9k'; known: word_problems, gsm8k"):
        load_problems(TaskKnobs(name="gsm9k"))


@pytest.mark.parametrize("name", ["gsm8k", "jsonl"])
def test_load_problems_of_missing_path_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"task\.path: /no/such/file: no such file"):
        load_problems(TaskKnobs(name=name, path="/no/such/file"))


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (Problem("a", "t", "test", "other?", "1", "number"), "problem_id a appears twice"),
        (Problem("b", "t", "test", "Q? ", "1", "number"), "ask the same question"),
        (Problem("b", "t", "test", "other?", " ", "number"), "question or reference is empty"),
    ],
)
def test_check_problems_refuses_what_would_spoil_a_run(second: Problem, message: str) -> None:
    first = Problem("a", "t", "train", "q?", "1", "number")
    with pytest.raises(ValueError, match=message):
        check_problems({"train": [first], "validation": [], "test": [second], "ood": []})


def test_variants_of_one_question_are_held_out_together() -> None:
    """20 problems in 5 clusters, of which a test of 9 has room for two, and some of their own."""
    problems = [
        Problem(f"p{i}", "t", "train", f"q {i}", "1", "number", cluster=f"c{i // 4}")
        for i in range(20)
    ] + [Problem(f"alone{i}", "t", "train", f"alone {i}", "1", "number") for i in range(3)]
    none: Problems = {"train": problems, "validation": [], "test": [], "ood": []}
    found = divide(none, TaskKnobs(name="t", num_test=9, num_validation=4))
    clusters = {split: {p.cluster for p in members} - {""} for split, members in found.items()}
    assert len(found["test"]) == 9 and len(clusters["test"]) == 2
    assert not clusters["test"] & clusters["train"]
    assert not clusters["validation"] & (clusters["train"] | clusters["test"])
    told: Problems = {**none, "train": problems[1:], "test": problems[:1]}
    left = divide(told, TaskKnobs(name="t"))["train"]
    assert {p.cluster for p in left} == {"c1", "c2", "c3", "c4", ""}
