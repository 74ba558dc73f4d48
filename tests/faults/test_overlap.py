"""A teacher that fails while a student trains on its groups: one line, exit code 2."""

import pytest
from support.jobs import start_job, tiny_recipe, write_recipe
from support.models import make_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_failing_teacher_ends_an_overlapped_run_in_one_line(tmp_path, head):
    model = make_tiny_model(str(tmp_path / "model"))
    engine = {"kind": "scripted", "max_model_len": 1024, "max_num_seqs": 4}
    teacher = {"model": model, "engine": {**engine, "extra": {"seconds_per_request": "soon"}}}
    recipe = write_recipe(
        tmp_path,
        tiny_recipe(model, teacher=teacher, training={"overlap": True, "groups_per_step": 2}),
    )
    run = tmp_path / "run"
    job = start_job("overlapped", recipe, run, head)
    assert job.wait() == 2, (tmp_path / "run.log").read_text()[-3000:]
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert lines[-1].startswith("error: ") and "does not start: ValueError" in lines[-1]
    assert "Traceback" not in "\n".join(lines)
