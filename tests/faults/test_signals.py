"""`fastdistill` told to stop, or killed: nothing of what it started stays, and it says how to go
on."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support.jobs import tiny_recipe, wait_for, write_recipe
from support.marked import is_running, kill_all, wait_until_none
from support.models import make_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.long]


@pytest.mark.slow
def test_training_told_to_stop_has_a_checkpoint_of_its_last_step_and_goes_on_from_there(tmp_path):
    """The command, the job, the driver, two ranks; then the same command to the end."""
    model = make_tiny_model(str(tmp_path / "model"))
    training = {"epochs": 60, "checkpoint_every": 10_000, "groups_per_step": 2}
    recipe = write_recipe(
        tmp_path,
        tiny_recipe(model, training=training, pools={"student": {"workers": 2, "cpus": 0.5}}),
    )
    run, temporary = tmp_path / "run", tempfile.mkdtemp(dir="/tmp")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [str(Path(sys.executable).parent / "fastdistill"), "train", str(recipe)]

    def start(verb: str) -> subprocess.Popen:
        with open(tmp_path / "said.txt", "a") as said:
            return subprocess.Popen(
                [*command[:1], verb, *command[2:], "--run-dir", str(run)],
                stdout=said,
                stderr=said,
                env={**environment, "TMPDIR": temporary},
            )

    def steps() -> list[str]:
        (file,) = run.glob("stages/train/*/steps.jsonl")
        return file.read_text().splitlines()

    try:
        assert start("generate").wait() == 0
        process = start("train")
        wait_for(lambda: list(run.glob("stages/train/*/steps.jsonl")) and len(steps()) > 3, process)
        process.terminate()
        assert process.wait() == 143
        wait_until_none("TMPDIR", temporary)
        done = steps()
        assert list(run.glob(f"stages/train/*/checkpoints/step_{len(done)}"))
        assert start("train").wait() == 0
        assert steps()[: len(done)] == done and len(steps()) > len(done)
    finally:
        kill_all("TMPDIR", temporary)
        shutil.rmtree(temporary, ignore_errors=True)
    said = (tmp_path / "said.txt").read_text()
    assert "Traceback" not in said
    assert "stopped; finished work is kept: the same command goes on from there" in said


@pytest.mark.parametrize(
    ("number", "once_there_is", "code"),
    [
        (signal.SIGINT, "gcs_server", 130),  # the head has only begun to start
        pytest.param(signal.SIGHUP, "gcs_server", 129, marks=pytest.mark.slow),
        (signal.SIGTERM, "ray::MapWorker", 143),
        pytest.param(signal.SIGKILL, "raylet/raylet ", -9, marks=pytest.mark.slow),
    ],
    ids=["ctrl-c", "closed terminal", "told to end", "killed"],
)
def test_head_job_and_engines_end_with_the_command(tmp_path, number, once_there_is, code):
    model = make_tiny_model(str(tmp_path / "model"))
    engine = {"kind": "scripted", "max_model_len": 1024, "extra": {"seconds_per_request": 1000}}
    recipe = write_recipe(tmp_path, tiny_recipe(model, teacher={"model": model, "engine": engine}))
    temporary = tempfile.mkdtemp(dir="/tmp")  # paths of Ray's sockets must be short
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [str(Path(sys.executable).parent / "fastdistill"), "generate", str(recipe)]
    with open(tmp_path / "said.txt", "w") as said:
        process = subprocess.Popen(
            [*command, "--run-dir", str(tmp_path / "run")],
            stdout=said,
            stderr=said,
            env={**environment, "TMPDIR": temporary},
        )
    try:
        wait_for(lambda: is_running(once_there_is, "TMPDIR", temporary), process)
        process.send_signal(number)
        assert process.wait() == code
        wait_until_none("TMPDIR", temporary)
    finally:
        kill_all("TMPDIR", temporary)
        shutil.rmtree(temporary, ignore_errors=True)
    said = (tmp_path / "said.txt").read_text()
    assert "Traceback" not in said
    if number != signal.SIGKILL:
        last = said.splitlines()[-1]
        assert last == "stopped; finished work is kept: the same command goes on from there"
