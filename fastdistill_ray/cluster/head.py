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
SHOWN = 500  # characters
HEAD_STARTS = 3  # Ray gives its node 30 s each, which a busy machine may take
STARTED, TOO_SLOW = "Ray runtime started", "timed out during startup"  # what Ray says of it
# Not Ray's own folder: what `ray start` notes there is what the next ray.init() of whoever works
# here joins. Paths of sockets may have 107 characters, so the name is short.
SESSIONS = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray_fd"


class Head:
    """A head that was started here: its address, and whether it still runs."""

    def __init__(self, address: str, process: subprocess.Popen, log: IO[bytes]) -> None:
        self.address, self._process, self._log = address, process, log

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def said(self) -> str:
        """One line."""
        written = os.pread(self._log.fileno(), 2**20, 0)
        return " ".join(written.decode(errors="replace").split())


@contextlib.contextmanager
def local_head() -> Iterator[Head]:
    """A Ray head on this machine. It ends with the block or with this process, whichever way that
    ends, and with it at once every process of its jobs: nothing they still do is waited for."""
    with tempfile.TemporaryFile() as log:
        for starts_left in reversed(range(HEAD_STARTS)):
            log.seek(log.truncate(0))
            head = _start(log)
            try:
                if _answers(head):
                    yield head
                    return
                if not starts_left or TOO_SLOW not in head.said():
                    raise UserError(
                        f"no local Ray head could be started: {_end_of(head.said())} (logs: "
                        f"{SESSIONS})"
                    )
            finally:
                head.end()


def _end_of(text: str) -> str:
    """Of what Ray said: its last words tell what went wrong."""
    return text if len(text) <= SHOWN else f"... {text[-SHOWN:].partition(' ')[2]}"


def _start(log: IO[bytes]) -> Head:
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
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env=environment,
        start_new_session=True,
    )
    return Head(f"http://127.0.0.1:{port}", process, log)


def log_of_job(job: str) -> str:
    """The file that the driver of a job on a local head writes; it stays when the head ends."""
    files = SESSIONS.glob(f"session_*/logs/job-driver-{job}.log")
    return str(next(files, SESSIONS).resolve())  # one finds it by the name of the latest session


def _answers(head: Head) -> bool:
    """Whether it does so in time; its dashboard does so before its node is there."""
    deadline = time.monotonic() + HEAD_START_SECONDS
    while time.monotonic() < deadline and head.is_alive():
        try:
            Dashboard(head.address).list_jobs()
            if STARTED in head.said():
                return True
        except NOT_ANSWERING:
            pass
        time.sleep(0.5)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
