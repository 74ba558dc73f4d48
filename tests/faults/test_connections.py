"""A head that is not ours: joined, left, lost for a while, away for good."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import pytest
from support.jobs import tiny_recipe, wait_for, write_recipe
from support.marked import is_running, kill_all, marked
from support.models import make_tiny_model
from support.proxy import Proxy

pytestmark = [pytest.mark.ray, pytest.mark.long]

FOLLOW = Path(__file__).parents[1] / "support" / "processes" / "follow.py"
BIN = Path(sys.executable).parent
LINES = 120


class Head(NamedTuple):
    """Started as a person does it; `environment` is that of this person's other terminal."""

    port: int
    environment: dict[str, str]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ray_job(self, *arguments: str) -> str:
        """`ray job ...`, -> what it says."""
        return subprocess.run(
            [str(BIN / "ray"), "job", *arguments, "--address", self.address],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def joined() -> Iterator[Head]:
    temporary = tempfile.mkdtemp(dir="/tmp")  # paths of Ray's sockets must be short
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"TMPDIR": temporary, "RAY_AUTH_MODE": "token"}
    head = Head(free_port(), environment)
    command = [str(BIN / "ray"), "start", "--head", "--disable-usage-stats", "--num-cpus=8"]
    ports = {"port": free_port(), "dashboard-agent-listen-port": free_port()}
    ports["dashboard-port"] = head.port
    try:
        subprocess.run([str(BIN / "ray"), "get-auth-token", "--generate"], capture_output=True)
        subprocess.run(
            [*command, *(f"--{name}={port}" for name, port in ports.items())],
            env=environment,
            check=True,
            capture_output=True,
        )
        yield head
    finally:
        kill_all("TMPDIR", temporary)
        shutil.rmtree(temporary, ignore_errors=True)


def fastdistill(recipe: Path, said: Path, environment: dict[str, str]) -> subprocess.Popen:
    command = [str(BIN / "fastdistill"), "generate", str(recipe)]
    with open(said, "w") as file:
        return subprocess.Popen(
            [*command, "--run-dir", str(said.parent / "run")],
            stdout=file,
            stderr=file,
            env=environment,
        )


@pytest.mark.slow
def test_ctrl_c_leaves_the_job_on_a_head_that_was_there_and_says_how_to_see_and_stop_it(
    joined, tmp_path
):
    model, key = make_tiny_model(str(tmp_path / "model")), "sk-planted-5c2e"
    engine = {"kind": "scripted", "max_model_len": 1024, "extra": {"seconds_per_request": 1000}}
    changes = {"teacher": {"model": model, "engine": engine}}
    recipe = write_recipe(tmp_path, tiny_recipe(model, **changes))
    said = tmp_path / "said.txt"
    process = fastdistill(recipe, said, joined.environment | {"TEACHER_KEY": key})
    wait_for(lambda: "groups: started" in said.read_text(), process)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    lines = said.read_text().splitlines()
    assert f"joined the Ray head at {joined.address}" in lines[0]
    assert "Traceback" not in said.read_text()
    found = re.fullmatch(
        "left; the job goes on. See it: RAY_AUTH_MODE=token (ray job logs (\\S+) --address \\S+) "
        "--follow; stop it: RAY_AUTH_MODE=token (ray job stop \\S+ --address \\S+)",
        lines[-1],
    )
    assert found, lines[-1]
    see, job, stop = found.groups()
    assert is_running("jobs/generate.py", "TMPDIR", joined.environment["TMPDIR"])
    assert "RUNNING" in joined.ray_job("status", job)
    driver = environment_of_driver(joined)
    assert driver["FASTDISTILL_JOB"] == job
    assert driver["FASTDISTILL_DASHBOARD"] == joined.address
    for told in (see, stop):
        subprocess.run(
            [str(BIN / "ray"), *told.split()[1:]], env=joined.environment, check=True, timeout=100
        )
    assert "stopped; finished work is kept" in joined.ray_job("logs", job)
    assert key not in joined.ray_job("list") + joined.ray_job("logs", job)
    logs = Path(joined.environment["TMPDIR"]).rglob("*.log")
    assert not [log for log in logs if key in log.read_text(errors="replace")]


def environment_of_driver(head: Head) -> dict[str, str]:
    return next(
        one.environ()
        for one in marked("TMPDIR", head.environment["TMPDIR"])
        if "jobs/generate.py" in " ".join(one.cmdline()) and one.name() != "sh"
    )


def submit(head: Head, folder: Path, script: str) -> str:
    """A job of a shell's commands; -> its name."""
    (folder / "job.sh").write_text(script)
    said = head.ray_job("submit", "--no-wait", "--", "sh", str(folder / "job.sh"))
    found = re.search(r"raysubmit_\w+", said)
    assert found, said
    return found[0]


COUNTING = f"for i in $(seq {LINES}); do echo line $i of {LINES}; sleep 0.05; done; echo last"


def follow(head: Head, proxy: Proxy, job: str, patience: str, output: IO[str]) -> subprocess.Popen:
    """A process that prints a job's log through the proxy."""
    return subprocess.Popen(
        [sys.executable, str(FOLLOW), f"http://127.0.0.1:{proxy.port}", job, patience, "2"],
        stdout=output,
        stderr=subprocess.PIPE,
        env=head.environment,
        text=True,
    )


def test_log_is_printed_once_whenever_its_connection_is_cut_or_dies_silently(joined, tmp_path):
    job, printed = submit(joined, tmp_path, COUNTING), tmp_path / "printed.txt"
    with Proxy(joined.port) as proxy, open(printed, "w") as file:
        process = follow(joined, proxy, job, "100", file)
        losses = {1: proxy.cut, LINES // 3: proxy.freeze, 2 * LINES // 3: proxy.cut}
        for number, lose in losses.items():
            while f"line {number} of" not in printed.read_text() and process.poll() is None:
                time.sleep(0.02)
            lose()
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    log, _, ended = printed.read_text().rstrip("\n").rpartition("\n")
    assert ended == "ended: SUCCEEDED"
    numbers = [int(one) for one in re.findall(r"^line (\d+) of", log, re.M)]
    assert numbers == list(range(1, LINES + 1))
    assert log.endswith("\nlast")
    assert "Traceback" not in errors


def test_a_dashboard_that_stays_away_is_given_up_without_a_traceback(joined, tmp_path):
    job, printed = submit(joined, tmp_path, COUNTING), tmp_path / "printed.txt"
    with Proxy(joined.port) as proxy, open(printed, "w") as file:
        process = follow(joined, proxy, job, "1.5", file)
        while "line 1 of" not in printed.read_text() and process.poll() is None:
            time.sleep(0.02)
        proxy.close()
        _, errors = process.communicate()
    assert printed.read_text().splitlines()[-1] == "ended: no answer"
    assert errors == "the Ray dashboard does not answer; trying again\n"


def test_followed_job_that_fails_gives_its_exit_code_and_ends_with_where_its_log_is(
    joined, tmp_path
):
    go = tmp_path / "go"
    script = f"echo early; until test -e {go}; do sleep 0.1; done; echo late; exit 3"
    job = submit(joined, tmp_path, script)
    while "early" not in joined.ray_job("logs", job):
        time.sleep(0.1)
    code = "import sys; from fastdistill_ray.run.submission import follow; "
    code += f"print('follows', flush=True); sys.exit(follow({joined.address!r}, {job!r}))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=joined.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "follows\n"
    go.touch()
    printed, errors = process.communicate()
    assert process.returncode == 3, errors
    assert errors == (
        "the job failed with exit code 3. Log: "
        f"RAY_AUTH_MODE=token ray job logs {job} --address {joined.address}\n"
    )
    assert "early" not in printed, "what was there before is not printed"
