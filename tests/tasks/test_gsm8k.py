"""Files of GSM8K: one or two of them, their references, and what is refused."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastdistill_ray.records import Problem
from fastdistill_ray.tasks import TaskKnobs, load_problems


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
