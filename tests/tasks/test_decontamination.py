"""Runs of words shared with tested problems, against a comparison of all pairs."""

import json
import random
import re

import pytest
from support.jobs import tiny_recipe

from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.records import Problem, Split
from fastdistill_ray.run.folder import RunFolder
from fastdistill_ray.run.pipeline import prepare_problems
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks import TaskKnobs, decontaminated
from fastdistill_ray.tasks.base import Problems
from fastdistill_ray.tasks.decontamination import overlaps, runs_of_words, without_overlaps

GSM = "Tina saw {} red birds on the old fence and then some more of them came by at noon."


def problem(name: str, question: str, split: Split = "train", options: tuple = ()) -> Problem:
    return Problem(name, "t", split, question, "1", "number", list(options))


def splits_of(**questions: list[str]) -> Problems:
    names: tuple[Split, ...] = ("train", "validation", "test", "ood")
    return {
        split: [problem(f"{split}/{i}", q, split) for i, q in enumerate(questions.get(split, []))]
        for split in names
    }


def share_a_run(first: str, second: str, size: int) -> bool:
    """All pairs of places, word by word."""
    one, two = (re.sub(r"[^a-z0-9]+", " ", text.lower()).split() for text in (first, second))
    if len(one) < size or len(two) < size:
        return one == two
    return any(
        one[i : i + size] == two[j : j + size]
        for i in range(len(one) - size + 1)
        for j in range(len(two) - size + 1)
    )


def test_what_leaves_is_what_a_comparison_of_all_pairs_finds() -> None:
    rng = random.Random(0)

    def question() -> str:
        words = rng.choices("abc", k=rng.randint(1, 9))
        return rng.choice([" ", ", "]).join(rng.choice([w, w.upper()]) for w in words) + "?"

    lost = 0
    for size in (2, 3, 4):
        made = {
            name: [question() for _ in range(30 if name == "train" else 3)]
            for name in ("train", "validation", "test", "ood")
        }
        problems = splits_of(**made)
        found = without_overlaps(problems, size)
        for split in ("train", "validation"):
            kept = [
                one
                for one in problems[split]
                if not any(share_a_run(one.question, t, size) for t in made["test"] + made["ood"])
            ]
            assert found[split] == kept
            lost += len(problems[split]) - len(kept)
        assert (found["test"], found["ood"]) == (problems["test"], problems["ood"])
    assert 20 < lost < 90


def test_case_and_punctuation_do_not_hide_an_overlap_and_another_number_does() -> None:
    same = GSM.format("three").upper().replace(" THE ", " -- the; ")
    problems = splits_of(train=[same, GSM.format(4), "Other?"], test=[GSM.format("three")])
    kept = without_overlaps(problems, 13)["train"]
    assert [one.question for one in kept] == ["Other?"], "13 of 19 words are the same"
    assert len(without_overlaps(problems, 17)["train"]) == 2, "17 in a row hold the number"


def test_short_questions_overlap_only_where_all_of_them_is_the_same_with_the_options() -> None:
    which = "Which is true?"
    train = [problem("a", which, options=("red", "blue")), problem("b", which, options=("x", "y"))]
    test = [problem("c", "which IS true", "test", ("Red", "blue."))]
    found = without_overlaps({"train": train, "validation": [], "test": test, "ood": []}, 13)
    assert [one.problem_id for one in found["train"]] == ["b"]


def test_overlap_names_the_tested_problem() -> None:
    tested = runs_of_words([problem("x/7", GSM.format(5), "ood")], 13)
    assert overlaps(GSM.format(6), tested, 13) == {"x/7"}
    assert overlaps("What is 6 + 6?", tested, 13) == set()


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("jsonl", 13, 1),
        ("gsm8k", 13, 1),
        ("jsonl", 0, 2),
        ("word_problems", 13, 2),
        ("reasoning_gym:chain_sum", 13, 2),
    ],
)
def test_made_problems_and_those_of_0_words_stay(name: str, words: int, expected: int) -> None:
    problems = splits_of(train=[GSM.format(2), "Other?"], test=[GSM.format(3)])
    kept = decontaminated(problems, TaskKnobs(name=name, decontaminate=words))
    assert len(kept["train"]) == expected


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_split_of_which_nothing_is_left_is_refused(split: str) -> None:
    problems = splits_of(**{split: [GSM.format(2), GSM.format(4)], "test": [GSM.format(3)]})
    with pytest.raises(ValueError, match=rf"task\.decontaminate: all 2 {split} problems share 13"):
        decontaminated(problems, TaskKnobs(name="jsonl"))


def test_problems_that_overlap_are_counted_as_set_aside_and_not_written(tmp_path) -> None:
    lines = [
        {"question": GSM.format(2), "answer": 1, "split": "train"},
        {"question": "Other?", "answer": 1, "split": "train"},
        {"question": GSM.format(4), "answer": 1, "split": "validation"},
        {"question": "One more?", "answer": 1, "split": "validation"},
        {"question": GSM.format(3), "answer": 1, "split": "test"},
    ]
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = {"name": "jsonl", "path": str(file), "num_validation": 2}
    task |= {"num_train": 2, "num_test": 1, "num_ood": 0}
    run = RunFolder(Place(tmp_path / "run"), Recipe.model_validate(tiny_recipe("m", task=task)))
    counts = {split: len(found) for split, found in prepare_problems(run).items()}
    assert counts == {"train": 1, "validation": 1, "test": 1, "ood": 0}
    (file,) = (tmp_path / "run").glob("stages/problems/*/manifest.json")
    manifest = json.loads(file.read_text())
    assert (manifest["rows_in"], manifest["rows_out"]) == (5, 3)
    assert manifest["set_aside"] == {"overlaps_test": 2}
