"""Which head on this machine is joined. Real ones are joined in tests/faults/."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.jobs import wait_for

from fastdistill_ray.cluster import running
from fastdistill_ray.cluster.running import find_head

SCRIPT = Path(__file__).parents[1] / "support" / "processes" / "dashboard.py"


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Starts one process that Ray's dashboard looks like; -> its address. No other head that
    happens to run here has this folder of temporary files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(running, "PATIENCE_SECONDS", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("DASHBOARD_METRIC_PORT", str(port))
    monkeypatch.setattr(running, "DASHBOARD_METRIC_PORT", port)  # read when Ray is imported
    (tmp_path / "ray" / "dashboard").mkdir(parents=True)
    script = shutil.copy(SCRIPT, tmp_path / "ray" / "dashboard" / "dashboard.py")
    processes = []

    def start_one(kind: str, **environment: str) -> str:
        file = tmp_path / str(len(processes))
        command = [sys.executable, script, kind, str(file)]
        processes.append(subprocess.Popen(command, env={**os.environ, **environment}))
        wait_for(file.exists, processes[-1])
        return file.read_text()

    yield start_one
    for process in processes:
        process.kill()
        process.wait()


def test_no_head_of_this_user_means_none_is_joined(start):
    assert find_head().address == ""


def test_the_only_head_is_joined(start):
    address = start("well")
    assert find_head().address == address


def test_none_of_several_is_joined_and_all_are_named(start):
    one, two = start("well"), start("well")
    found = find_head()
    assert found.address == ""
    assert one in found.reason and two in found.reason and "--address" in found.reason


@pytest.mark.parametrize(("kind", "why"), [("token", "another token"), ("hangs", "takes no jobs")])
def test_head_that_does_not_answer_this_user_is_not_joined(start, kind, why):
    address = start(kind)
    found = find_head()
    assert found.address == ""
    assert address in found.reason and why in found.reason


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"FASTDISTILL_HEAD": "1"}, "another fastdistill command"),
        ({"TMPDIR": "/tmp"}, "another TMPDIR"),
    ],
)
def test_head_that_others_need_is_not_joined(start, environment, why):
    start("well", **environment)
    found = find_head()
    assert found.address == ""
    assert why in found.reason
