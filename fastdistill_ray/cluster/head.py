"""A Ray head on this machine for the time of one job."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fastdistill_ray.cluster import keeper
from fastdistill_ray.cluster.dashboard import NOT_ANSWERING, Dashboard
from fastdistill_ray.cluster.running import OURS
from fastdistill_ray.errors import UserError

HEAD_START_SECONDS = 120
# Not Ray's own folder: what `ray start` notes there is what the next ray.init() of whoever works
# here joins. Paths of sockets may have 107 characters, so the name is short.
SESSIONS = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray_fd"


class Head:
    """A head that was started here: its address, and whether it still runs."""

    def __init__(self, address: str, process: subprocess.Popen) -> None:
        self.address, self._process = address, process

    def is_alive(self) -> bool:
        return self._process.poll() is None


@contextlib.contextmanager
def local_head() -> Iterator[Head]:
    """A Ray head on this machine. It ends with the block or with this process, whichever way that
    ends, and with it at once every process of its jobs: nothing they still do is waited for."""
    port = _free_port()
    command = [
        *(sys.executable, "-P", keeper.__file__),
        *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"),
        *("--port", str(_free_port()), "--dashboard-port", str(port)),
        *("--dashboard-host", "127.0.0.1", "--disable-usage-stats"),
        *("--temp-dir", str(SESSIONS.absolute())),
        # Its default port may be held by another head's agent, or by that of one just killed.
        *("--dashboard-agent-listen-port", str(_free_port())),
    ]
    # Nothing else wants this machine. A job that is told to stop may take a minute for it.
    environment = {**os.environ, "RAY_worker_niceness": "0", OURS: "1"}
    environment |= {"RAY_JOB_STOP_WAIT_TIME_S": "60"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        assert process.stdin
        try:
            head = Head(f"http://127.0.0.1:{port}", process)
            _await(head, log)
            yield head
        finally:
            process.stdin.close()
            process.wait()


def log_of_job(job: str) -> str:
    """The file that the driver of a job on a local head writes; it stays when the head ends."""
    files = SESSIONS.glob(f"session_*/logs/job-driver-{job}.log")
    return str(next(files, SESSIONS).resolve())  # one finds it by the name of the latest session


def _await(head: Head, log: IO[bytes]) -> None:
    deadline = time.monotonic() + HEAD_START_SECONDS
    while time.monotonic() < deadline and head.is_alive():
        try:
            Dashboard(head.address).list_jobs()
            return
        except NOT_ANSWERING:
            time.sleep(0.5)
    log.seek(0)
    tail = " ".join(log.read().decode(errors="replace").split())[-500:]
    raise UserError(f"no local Ray head could be started: {tail} (logs: {SESSIONS})")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
