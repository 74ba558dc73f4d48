import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastdistill_ray.records import Problem
from fastdistill_ray.tasks import TaskKnobs, load_problems
from fastdistill_ray.tasks.base import check_problems

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


def write_lines(file: Path, rows: list[Any]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def gsm_rows(count: int, name: str = "q") -> list[dict[str, str]]:
    return [
        {"question": f"{name} {i}?", "answer": f"Add. <<1+{i}={1 + i}>>\n#### {1 + i}"}
        for i in range(count)
    ]


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


def test_load_problems_of_unknown_task_names_the_known() -> None:
    with pytest.raises(ValueError, match=r"no task is named 'gsm9k'; known: word_problems, gsm8k"):
        load_problems(TaskKnobs(name="gsm9k"))


@pytest.fixture
def gsm_folder(tmp_path: Path) -> str:
    write_lines(tmp_path / "train.jsonl", gsm_rows(20))
    write_lines(tmp_path / "test.jsonl", gsm_rows(5, "t"))
    return str(tmp_path)


def test_gsm8k_folder_holds_validation_out_of_train_and_keeps_ids(gsm_folder: str) -> None:
    knobs = TaskKnobs(name="gsm8k", path=gsm_folder, num_validation=6)
    splits = load_problems(knobs)
    assert {split: len(members) for split, members in splits.items()} == {
        "train": 14,
        "validation": 6,
        "test": 5,
        "ood": 0,
    }
    train_ids = set(ids_of(splits["train"])) | set(ids_of(splits["validation"]))
    assert train_ids == {f"gsm8k/train/{i:05d}" for i in range(20)}
    for split, members in splits.items():
        for problem in members:
            assert problem.split == split
            assert problem.reference == str(1 + int(problem.question[2:-1]))
    assert load_problems(knobs) == splits
    other = load_problems(knobs.model_copy(update={"seed": 1}))
    assert ids_of(other["validation"]) != ids_of(splits["validation"])


def test_gsm8k_counts_are_honoured_or_refused(gsm_folder: str) -> None:
    knobs = TaskKnobs(name="gsm8k", path=gsm_folder, num_train=3, num_test=2)
    splits = load_problems(knobs)
    assert (len(splits["train"]), len(splits["test"])) == (3, 2)
    with pytest.raises(ValueError, match=r"task\.num_train: 21 problems asked for, 20 are there"):
        load_problems(knobs.model_copy(update={"num_train": 21}))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_gsm8k_one_file_holds_test_and_validation_out(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"mine.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(gsm_rows(20)), file)
    else:
        write_lines(file, gsm_rows(20))
    knobs = TaskKnobs(name="gsm8k", path=str(file), num_validation=4, num_test=5)
    splits = load_problems(knobs)
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [11, 4, 5]
    assert splits["train"][0].problem_id.startswith("gsm8k/mine/000")


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("#### 1,080", "1080"), ("a\n#### -5 ", "-5"), ("#### 0.25", "0.25"), ("####7", "7")],
)
def test_gsm8k_reference_is_the_number_after_the_mark(
    tmp_path: Path, answer: str, reference: str
) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"question": "q?", "answer": answer}])
    (problem,) = load_problems(TaskKnobs(name="gsm8k", path=path))["train"]
    assert problem.reference == reference


@pytest.mark.parametrize("answer", ["7", "#### ", "#### a #### 7", "#### seven", "#### 1 2"])
def test_gsm8k_answer_without_one_marked_number_is_refused(tmp_path: Path, answer: str) -> None:
    rows = [*gsm_rows(1), {"question": "q?", "answer": answer}]
    path = write_lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(ValueError, match=r"a\.jsonl line 2: answer must end with '#### '"):
        load_problems(TaskKnobs(name="gsm8k", path=path))


def test_gsm8k_folder_without_test_file_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", gsm_rows(2))
    with pytest.raises(ValueError, match=r"holds neither test\.jsonl nor test\.parquet"):
        load_problems(TaskKnobs(name="gsm8k", path=str(tmp_path)))


@pytest.mark.parametrize("name", ["gsm8k", "jsonl"])
def test_load_problems_of_missing_path_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"task\.path: /no/such/file: no such file"):
        load_problems(TaskKnobs(name=name, path="/no/such/file"))


def test_gsm8k_train_question_asked_in_test_leaves_train(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", gsm_rows(4))
    write_lines(tmp_path / "test.jsonl", [{"question": " Q  2? ", "answer": "#### 3"}])
    splits = load_problems(TaskKnobs(name="gsm8k", path=str(tmp_path), num_validation=1))
    kept = ids_of(splits["train"]) + ids_of(splits["validation"])
    assert sorted(kept) == ["gsm8k/train/00000", "gsm8k/train/00001", "gsm8k/train/00003"]


@pytest.mark.skipif("FASTDISTILL_DATA" not in os.environ, reason="needs a folder of data files")
def test_gsm8k_files_of_the_benchmark_load_whole() -> None:
    path = str(Path(os.environ["FASTDISTILL_DATA"]) / "gsm8k")
    splits = load_problems(TaskKnobs(name="gsm8k", path=path, num_validation=473))
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [7000, 473, 1319]
    references = [problem.reference for members in splits.values() for problem in members]
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", reference) for reference in references)
    assert sum(reference.startswith("-") for reference in references) == 5
    test = {problem.problem_id: problem.reference for problem in splits["test"]}
    assert [test[f"gsm8k/test/{i:05d}"] for i in range(3)] == ["18", "3", "70000"]


def test_jsonl_reads_all_its_fields(tmp_path: Path) -> None:
    rows = [
        {"question": "1 + 1?", "answer": 2, "note": "ignored"},
        {
            "question": " Which? ",
            "answer": "B",
            "kind": "choice",
            "options": ["red", "blue"],
            "id": 7,
            "split": "test",
        },
        {"question": "Roots?", "answer": [1, -2.5], "kind": "list", "id": "r", "split": "ood"},
    ]
    splits = load_problems(TaskKnobs(name="jsonl", path=write_lines(tmp_path / "a.jsonl", rows)))
    digest = hashlib.sha1(b"1 + 1?").hexdigest()[:12]
    assert splits == {
        "train": [Problem(f"jsonl/{digest}", "jsonl", "train", "1 + 1?", "2", "number")],
        "validation": [],
        "test": [Problem("7", "jsonl", "test", "Which?", "B", "choice", ["red", "blue"])],
        "ood": [Problem("r", "jsonl", "ood", "Roots?", "1, -2.5", "list")],
    }


def test_jsonl_blank_lines_byte_order_mark_and_line_separators_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    question = "one\u2028two \u0085 three?"
    line = json.dumps({"question": question, "answer": "1"}, ensure_ascii=False)
    file.write_text(f"\ufeff{line}\r\n\n  \n", encoding="utf-8", newline="")
    (problem,) = load_problems(TaskKnobs(name="jsonl", path=str(file)))["train"]
    assert problem.question == question


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "b?"', "line 2: not JSON: "),
        ('{"question": "b?", "answer": NaN}', "line 2: not JSON: NaN is not a number of JSON"),
        ("[" * 100_000, "line 2: not JSON: "),
        ('["b?", "2"]', "line 2: expected an object"),
        ("{}", "line 2: missing question, answer"),
        ('{"question": "b?", "answer": null}', "line 2: missing answer"),
        ('{"question": " ", "answer": "2"}', "line 2: question is empty"),
        ('{"question": "b?", "answer": ""}', "line 2: answer is empty"),
        ('{"question": 5, "answer": "2"}', "line 2: question must be text, is 5"),
        ('{"question": "b?", "answer": true}', "line 2: answer must be text, is True"),
        ('{"question": "b?", "answer": "2", "kind": "maths"}', "line 2: kind 'maths' is not one"),
        ('{"question": "b?", "answer": "2", "kind": []}', r"line 2: kind \[\] is not one"),
        ('{"question": "b?", "answer": "A", "options": "x"}', "line 2: options must be a list"),
        ('{"question": "b?", "answer": "2", "split": "dev"}', "line 2: split 'dev' is not one of"),
        ('{"question": "b?", "answer": "2", "id": ""}', "line 2: id must be text or a whole"),
        ('{"question": "b?", "answer": "2", "id": "x"}', "line 2: id x is that of line 1"),
    ],
)
def test_jsonl_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(f'{{"question": "a?", "answer": "1", "id": "x"}}\n{line}\n')
    with pytest.raises(ValueError, match=rf"a\.jsonl {message}") as error:
        load_problems(TaskKnobs(name="jsonl", path=str(file)))
    assert "\n" not in str(error.value)


def test_jsonl_same_question_without_ids_is_refused(tmp_path: Path) -> None:
    rows = [{"question": "a?", "answer": "1"}] * 2
    path = write_lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(ValueError, match=r"line 2: id jsonl/\w+ is that of line 1; lines that ask"):
        load_problems(TaskKnobs(name="jsonl", path=path))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "no problems in it"), (b"\n \n", "no problems in it"), (b"\xff\xfe{", "not UTF-8")],
)
def test_jsonl_file_without_problems_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.jsonl: {message}"):
        load_problems(TaskKnobs(name="jsonl", path=str(file)))


def test_jsonl_without_path_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task\.path: task jsonl needs the file"):
        load_problems(TaskKnobs(name="jsonl"))


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
