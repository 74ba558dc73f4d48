"""What holds for every task."""

import pytest

from fastdistill_ray.records import Problem
from fastdistill_ray.tasks import TaskKnobs, load_problems
from fastdistill_ray.tasks.base import check_problems


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
