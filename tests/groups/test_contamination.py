"""Tested problems in training texts, against a comparison of all pairs of places."""

import random
import re
from pathlib import Path

import pytest
from support.groups import make_completion, make_group, write_store

from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.groups.contamination import LookForTested, count_overlaps
from fastdistill_ray.records import Problem
from fastdistill_ray.run_files import OVERLAPS, read_json
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.problem_file import ProblemFile, write_problems

SIZE = 3


def words_of(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).split()


def has_run_of(text: str, question: str) -> bool:
    said, asked = words_of(text), words_of(question)
    if len(asked) < SIZE or len(said) < SIZE:
        return said == asked
    return any(
        said[i : i + SIZE] == asked[j : j + SIZE]
        for i in range(len(said) - SIZE + 1)
        for j in range(len(asked) - SIZE + 1)
    )


def sentence(rng: random.Random) -> str:
    return rng.choice([" ", ", "]).join(rng.choices("abcdeF", k=rng.randint(1, 7))) + "."


def problem_file(folder: Path, questions: list[str]) -> ProblemFile:
    file = Place(folder / "test.parquet")
    problems = [
        Problem(f"test/{i}", "t", "test", question, "1", "number", [])
        for i, question in enumerate(questions)
    ]
    write_problems(problems, file)
    return ProblemFile(file)


def test_what_is_found_is_what_a_comparison_of_all_pairs_finds(tmp_path: Path) -> None:
    rng = random.Random(0)
    questions = [sentence(rng) for _ in range(60)]
    texts = [[sentence(rng) for _ in range(2)] for _ in range(6)]
    groups = [
        make_group(f"p{i}", [make_completion(one) for one in two]) for i, two in enumerate(texts)
    ]
    store = write_store(tmp_path / "store", groups, per_file=6)
    (commit,) = store.commits()
    look = LookForTested(store.folder, [problem_file(tmp_path, questions)], SIZE).look
    found = look(store.folder / commit.file)
    expected = {
        f"test/{i}": {
            f"p{k}" for k, two in enumerate(texts) for one in two if has_run_of(one, asked)
        }
        for i, asked in enumerate(questions)
    }
    expected = {name: groups for name, groups in expected.items() if groups}
    assert 5 < len(expected) < 55
    assert found.keys() == expected.keys()
    assert all(group in expected[name] for name, group in found.items())


def test_dropped_groups_do_not_count(tmp_path: Path) -> None:
    completion = make_completion("The sum of the two is nine.")
    groups = [make_group("p", [completion], dropped="all_wrong")]
    (commit,) = (store := write_store(tmp_path / "store", groups)).commits()
    file = problem_file(tmp_path, ["What is the sum of the two?"])
    assert LookForTested(store.folder, [file], SIZE).look(store.folder / commit.file) == {}


@pytest.mark.long
@pytest.mark.usefixtures("cluster")
def test_stage_counts_every_tested_problem_once(tmp_path: Path) -> None:
    groups = [make_group(f"p{i}", [make_completion(f"we add {i} and two")]) for i in range(3)]
    store = write_store(tmp_path / "store", groups)
    questions = ["Add 1 and two, then add 2 and two.", "Add 3 and two", "Add!"]
    out = Place(tmp_path / "out")
    result = count_overlaps(
        store.folder, [problem_file(tmp_path, questions)], SIZE, PoolKnobs(), out=out
    )
    assert (result.rows_in, result.rows_out) == (3, 1)
    assert result.set_aside == {"overlaps_training_text": 1, "too_short": 1}
    found = read_json(out / OVERLAPS, {})
    assert found.keys() == {"test/0"} and found["test/0"] in {"p1", "p2"}
