"""Problems of several tasks together."""

import json

import pytest

from fastdistill_ray.errors import UserError
from fastdistill_ray.run.inputs import write_tasks
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks import TaskKnobs


def task(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TaskKnobs(name="jsonl", path=str(file))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"id": "a", "question": "3 + 3?", "answer": "6"}, "problem_id a appears twice"),
        (
            {"id": "c", "question": "1 + 1?", "answer": "2", "split": "test"},
            r"a \(train\) and c \(test\) ask the same question",
        ),
    ],
)
def test_tasks_that_share_an_id_or_a_tested_question_are_refused(tmp_path, other, message):
    first = [
        {"id": "a", "question": "1 + 1?", "answer": "2"},
        {"id": "b", "question": "2 + 2?", "answer": "4", "split": "test"},
    ]
    tasks = [task(tmp_path / "first.jsonl", first), task(tmp_path / "second.jsonl", [other])]
    with pytest.raises(UserError, match=message):
        write_tasks(tasks, out=Place(tmp_path))
