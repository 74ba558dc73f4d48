"""Runs a command and ends all that came of it when its standard input ends.

    python keeper.py COMMAND ...

Whoever starts it holds the other end of that pipe, which the kernel closes however that process
ends, kill -9 included. Descendants that have lost their parents are found, too: on Linux they
become children of this process. Loads no Ray: it must be small and start at once.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
LOOK_SECONDS = 0.5
# Shared memory outlives who made it; Python's tracker of it removes it once they are gone.
TRACKER, TRACKER_SECONDS = "multiprocessing.resource_tracker", 2.0
GIVE_UP_SECONDS = 10.0  # what even SIGKILL does not end, e.g. one that waits for a dead disk


def main(command: list[str]) -> None:
    ended: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: ended.append(1))
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    # Were this process killed itself, the command is told by the kernel.
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
    )
    while not ended and child.pid not in _reap():
        if select.select([sys.stdin], [], [], LOOK_SECONDS)[0]:
            break
    end_descendants()


def end_descendants() -> None:
    """SIGKILL, again until none is left: what is killed may just have started another."""
    start = time.monotonic()
    while time.monotonic() - start < GIVE_UP_SECONDS:
        left = psutil.Process().children(recursive=True)
        if not left:
            return
        trackers_too = time.monotonic() - start > TRACKER_SECONDS
        for process in left:
            with contextlib.suppress(psutil.Error):
                if trackers_too or TRACKER not in " ".join(process.cmdline()):
                    process.kill()
        _reap()
        time.sleep(0.02)


def _reap() -> set[int]:
    """Takes the exit codes of children that have ended; -> those."""
    ended = set()
    with contextlib.suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            ended.add(pid)
    return ended


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
