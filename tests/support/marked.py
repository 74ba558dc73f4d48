"""Processes found by a variable of their environment, which children inherit whatever they do."""

import contextlib
import time

import psutil


def marked(name: str, value: str) -> list[psutil.Process]:
    """Those that run; one that has ended and waits for its parent does not."""
    return [process for process in psutil.process_iter() if _runs_with(process, name, value)]


def _runs_with(process: psutil.Process, name: str, value: str) -> bool:
    try:
        is_marked = process.environ().get(name) == value
        return is_marked and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def is_running(words: str, name: str, value: str) -> bool:
    """Whether one of them has those words in its command."""
    for process in marked(name, value):
        with contextlib.suppress(psutil.Error):
            if words in " ".join(process.cmdline()):
                return True
    return False


def wait_until_none(name: str, value: str) -> None:
    """A hang is for the test's own limit."""
    while marked(name, value):
        time.sleep(0.05)


def kill_all(name: str, value: str) -> None:
    while found := marked(name, value):
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.05)
