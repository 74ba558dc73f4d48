"""After which steps a training writes a student: always after its last one, whatever cuts it."""

from types import SimpleNamespace
from typing import Any

import pytest

from fastdistill_ray.training.worker import is_exported

PER_EPOCH = 4  # steps


@pytest.mark.parametrize(
    ("epochs", "max_steps", "exported", "after"),
    [
        (2, None, [2], [8]),
        (2, None, [1, 2], [4, 8]),
        (3, None, [1], [4]),
        (4, 4, [4], [4]),  # at an epoch's end, which is not the last
        (4, 8, [1, 4], [4, 8]),
        (4, 6, [4], [6]),
        (4, 6, [1, 4], [4, 6]),
        (2, 8, [2], [8]),
        (2, 8, [1], [4]),  # not cut: its last epoch was not asked for
        (4, 6, [], []),  # a metric of held-out groups chooses
    ],
)
def test_student_is_written_after_asked_epochs_and_where_max_steps_cuts(
    epochs: int, max_steps: int | None, exported: list[int], after: list[int]
) -> None:
    plan = SimpleNamespace(epochs=epochs, max_steps=max_steps)
    job: Any = SimpleNamespace(plan=plan, export_epochs=exported)
    steps = range(min(epochs * PER_EPOCH, max_steps or epochs * PER_EPOCH))
    rows = [
        {"step": i, "epoch": i // PER_EPOCH, "ends_epoch": i % PER_EPOCH == PER_EPOCH - 1}
        for i in steps
    ]
    assert [row["step"] + 1 for row in rows if is_exported(job, row)] == after
