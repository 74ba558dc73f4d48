"""A Ray head on this machine for the time of one job."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ray.job_submission import JobSubmissionClient

from fastdistill_ray.errors import UserError

HEAD_START_SECONDS = 120
HEAD_NOTE = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"


def _has_local_head() -> bool:
    """Ray notes the head it started last; whether that still runs, only its port can tell."""
    if not HEAD_NOTE.exists():
        return False
    host, _, port = HEAD_NOTE.read_text(encoding="utf-8").strip().rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def local_head() -> Iterator[str]:
    """A Ray head on this machine, ended with the block; -> its dashboard address."""
    port, gcs_port = _free_port(), _free_port()
    command = [
        *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"),
        *("--port", str(gcs_port), "--dashboard-port", str(port)),
        *("--dashboard-host", "127.0.0.1", "--disable-usage-stats"),
        # Its default port may be held by another head's agent, or by that of one just killed.
        *("--dashboard-agent-listen-port", str(_free_port())),
    ]
    environment = {**os.environ, "RAY_worker_niceness": "0"}  # nothing else wants this machine
    with tempfile.TemporaryFile() as log:
        head = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _await_head(address, head, log)
            yield address
        finally:
            head.send_signal(signal.SIGTERM)
            try:
                head.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(head.pid, signal.SIGKILL)
            _forget(gcs_port)


def _await_head(address: str, head: subprocess.Popen, log: IO[bytes]) -> None:
    deadline = time.monotonic() + HEAD_START_SECONDS
    while time.monotonic() < deadline and head.poll() is None:
        try:
            JobSubmissionClient(address).list_jobs()
            return
        except (ConnectionError, RuntimeError):
            time.sleep(0.5)
    log.seek(0)
    tail = " ".join(log.read().decode(errors="replace").split())[-500:]
    raise UserError(f"no local Ray head could be started: {tail}")


def _forget(gcs_port: int) -> None:
    """Left behind, the note misleads the next ray.init() of whoever works here."""
    if HEAD_NOTE.exists() and HEAD_NOTE.read_text("utf-8").strip().endswith(f":{gcs_port}"):
        HEAD_NOTE.unlink()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
