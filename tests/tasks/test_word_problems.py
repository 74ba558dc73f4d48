"""Word problems against a reader that was written apart from them."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from fastdistill_ray.records import Problem
from fastdistill_ray.tasks import TaskKnobs, load_problems

DISTRACTION = re.compile(r"[^.\s][^.]*\b(years old|takes|trees|birds)\b[^.]*\. ")
# What a reader understands: a phrase of the question and what to do with its numbers, in order.
READINGS: list[tuple[str, Callable[..., float]]] = [
    (r"got \d+ more and then found", lambda a, b, c: a + b + c),
    (r"got \d+ more and then lost", lambda a, b, c: a + b - c),
    (r"on Monday, .* on Tuesday and .* on Wednesday", lambda a, b, c: a + b + c),
    (r"adds \d+\. Then \d+ fall off", lambda a, b, c: a + b - c),
    (r"has \d+ \w+ and (buys|finds) \d+ more\.", lambda a, b: a + b),
    (r"A jar holds .* drops in", lambda a, b: a + b),
    (r"the two counts come to", lambda a, b: a + b),
    (r"and (gave|lost) \d+ of them", lambda a, b: a - b),
    (r"Out of .* used up", lambda a, b: a - b),
    (r"but owns only", lambda a, b: a - b),
    (r"boxes with \d+ \w+ in each box", lambda a, b: a * b),
    (r"rows with \d+ \w+ in each row", lambda a, b: a * b),
    (r"Each of \d+ shelves carries", lambda a, b: a * b),
]


def solve(question: str) -> float:
    story = DISTRACTION.sub("", question)
    numbers = [int(number) for number in re.findall(r"\d+", story)]
    readings = [reading for phrase, reading in READINGS if re.search(phrase, story)]
    assert len(readings) == 1, question
    return readings[0](*numbers)


def word_problems(**changes: Any) -> TaskKnobs:
    counts = {"num_train": 60, "num_validation": 20, "num_test": 30, "num_ood": 30}
    return TaskKnobs(name="word_problems", **{**counts, **changes})


def phrases_of(problems: list[Problem]) -> set[str]:
    return {phrase for phrase, _ in READINGS for p in problems if re.search(phrase, p.question)}


def ids_of(problems: list[Problem]) -> list[str]:
    return [problem.problem_id for problem in problems]


def test_word_problems_references_equal_those_of_an_independent_reader() -> None:
    splits = load_problems(word_problems(num_train=1500, num_validation=100, num_ood=600))
    for problems in splits.values():
        for problem in problems:
            assert solve(problem.question) == int(problem.reference), problem
            assert int(problem.reference) >= 0


def test_word_problems_2000_share_no_question_and_no_id() -> None:
    splits = load_problems(
        word_problems(num_train=1000, num_validation=200, num_test=400, num_ood=400)
    )
    assert [len(splits[split]) for split in ("train", "validation", "test", "ood")] == [
        *(1000, 200, 400, 400)
    ]
    problems = [problem for members in splits.values() for problem in members]
    assert len({problem.question for problem in problems}) == 2000
    assert len({problem.problem_id for problem in problems}) == 2000


def test_word_problems_in_another_process_are_the_same() -> None:
    program = (
        "from fastdistill_ray.tasks import TaskKnobs, load_problems\n"
        "print(load_problems(TaskKnobs(name='word_problems', seed=3, num_train=60, "
        "num_validation=20, num_test=30, num_ood=30)))"
    )
    expected = str(load_problems(word_problems(seed=3)))
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.getcwd()}
        printed = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert printed.stdout.strip() == expected


def test_word_problems_with_more_train_keep_the_other_splits() -> None:
    few, many = (load_problems(word_problems(num_train=count)) for count in (10, 500))
    assert few["train"] == many["train"][:10]
    assert all(few[split] == many[split] for split in ("validation", "test", "ood"))


def test_word_problems_of_another_seed_are_others() -> None:
    first, second = (load_problems(word_problems(seed=seed))["test"] for seed in (0, 1))
    assert len(set(ids_of(first)) & set(ids_of(second))) < 3


def test_word_problems_id_is_the_hash_of_the_question() -> None:
    problem = load_problems(word_problems())["train"][0]
    digest = hashlib.sha1(problem.question.encode()).hexdigest()[:12]
    assert problem.problem_id == f"word_problems/{digest}"


def test_word_problems_train_is_small_and_of_one_and_two_steps() -> None:
    train = load_problems(word_problems(num_train=500))["train"]
    numbers = [[int(each) for each in re.findall(r"\d+", problem.question)] for problem in train]
    assert max(max(each) for each in numbers) <= 30
    assert sum(int(problem.reference) <= 30 for problem in train) > 480
    assert {len(each) for each in numbers} == {2, 3}
    assert len(phrases_of(train)) == 6


def test_word_problems_ood_parts_are_perturbed_as_their_ids_say() -> None:
    splits = load_problems(word_problems(num_train=500, num_ood=200))
    parts: dict[str, list[Problem]] = {}
    for problem in splits["ood"]:
        parts.setdefault(problem.problem_id.split("/")[2], []).append(problem)
    assert {name: len(members) for name, members in parts.items()} == {
        "larger": 67,
        "reworded": 67,
        "distracted": 66,
    }
    largest = max(int(n) for p in splits["train"] for n in re.findall(r"\d+", p.question))
    larger = [max(int(n) for n in re.findall(r"\d+", p.question)) for p in parts["larger"]]
    assert sum(number > largest for number in larger) > len(larger) / 2
    assert not phrases_of(splits["train"]) & phrases_of(parts["reworded"])
    assert phrases_of(parts["larger"]) <= phrases_of(splits["train"])
    assert all(DISTRACTION.search(problem.question) for problem in parts["distracted"])
    assert not any(DISTRACTION.search(problem.question) for problem in splits["train"])


def test_word_problems_without_counts_names_them_together() -> None:
    with pytest.raises(ValueError, match="as many problems as asked for; give num_train, num_ood"):
        load_problems(TaskKnobs(name="word_problems", num_test=10))


def test_word_problems_more_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastdistill_ray.tasks import word_problems as module

    monkeypatch.setattr(module, "OPERATIONS", {"add": module.OPERATIONS["add"]})
    monkeypatch.setattr(module, "NAMES", "Anna Ben")
    monkeypatch.setattr(module, "THINGS", "books")
    with pytest.raises(ValueError, match="cannot make 5000 different"):
        load_problems(word_problems(num_train=5000, num_ood=0))


def test_word_problems_with_path_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task\.path: word_problems are made, not read"):
        load_problems(word_problems(path="x.jsonl"))
