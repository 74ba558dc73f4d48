"""Problems of several tasks together."""

import json

import pytest

from fastdistill_ray.errors import UserError
from fastdistill_ray.run.inputs import write_tasks
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import read_rows
from fastdistill_ray.tasks import TaskKnobs


def task(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TaskKnobs(name="jsonl", path=str(file))


FIRST = [
    {"id": "a", "question": "1 + 1?", "answer": "2"},
    {"id": "d", "question": "4 + 4?", "answer": "8"},
    {"id": "b", "question": "2 + 2?", "answer": "4", "split": "test"},
]


def tasks_of(folder, *files):
    return [task(folder / f"{place}.jsonl", rows) for place, rows in enumerate(files)]


def test_tasks_that_share_an_id_are_refused(tmp_path):
    other = {"id": "a", "question": "3 + 3?", "answer": "6"}
    with pytest.raises(UserError, match="problem_id a appears twice"):
        write_tasks(tasks_of(tmp_path, FIRST, [other]), out=Place(tmp_path))


def test_training_question_that_another_task_tests_leaves(tmp_path):
    other = [
        {"id": "c", "question": "1 + 1?", "answer": "2", "split": "test"},
    ]
    result = write_tasks(tasks_of(tmp_path, FIRST, other), out=Place(tmp_path))
    assert (result.rows_in, result.rows_out) == (4, 3)
    assert result.set_aside == {"overlaps_test": 1}
    kept = {
        split: [
            row["problem_id"]
            for row in read_rows(Place(tmp_path) / f"{split}.parquet", ["problem_id"])
        ]
        for split in ("train", "test")
    }
    assert kept == {"train": ["d"], "test": ["b", "c"]}
