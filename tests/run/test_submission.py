"""`fastdistill` from outside: starts a head, submits a job, streams its log, stops the head."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.jobs import lines_of, tiny_recipe, write_recipe
from support.models import make_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


def wait_for_heads(number: int) -> None:
    """A head that was told to stop takes a moment."""
    deadline = time.monotonic() + 20
    while num_heads() != number and time.monotonic() < deadline:
        time.sleep(0.2)
    assert num_heads() == number


def num_heads() -> int:
    return sum((p.info["name"] or "") == "gcs_server" for p in psutil.process_iter(["name"]))


def fastdistill(*arguments: str) -> subprocess.CompletedProcess:
    command = [str(Path(sys.executable).parent / "fastdistill"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)


def test_submitted_job_runs_on_a_head_of_its_own_and_leaves_none_behind(tmp_path):
    recipe = write_recipe(tmp_path, tiny_recipe(make_tiny_model(str(tmp_path / "model"))))
    heads = num_heads()
    done = fastdistill("generate", str(recipe), "--run-dir", str(tmp_path / "run"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"generate groups .*24/24  kept \d+%  \d+ tokens/s", done.stdout), done.stdout
    groups = tmp_path / "run" / "stages" / "groups"
    assert json.loads((groups / "manifest.json").read_text())["rows_in"] == 24
    (line,) = lines_of(groups / "log.jsonl")
    assert len(line["parts"]) > 1, "committed as they came, compacted at the end"
    versions = json.loads((tmp_path / "run" / "versions.json").read_text())
    recorded = (tmp_path / "run" / "git.txt").read_text()
    assert versions["git"] == recorded.split("\n", 1)[0], "the state of git travels with the job"
    wait_for_heads(heads)


def test_submitted_job_whose_pools_do_not_fit_ends_with_code_2_and_the_number_to_change(tmp_path):
    recipe = write_recipe(tmp_path, tiny_recipe(make_tiny_model(str(tmp_path / "model"))))
    done = fastdistill(
        "generate", str(recipe), "--run-dir", str(tmp_path / "run"), "--pools.teacher.workers=999"
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "lower pools.teacher.workers" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "run" / "stages" / "groups").exists()
