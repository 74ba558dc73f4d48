"""The worker's side of a judging process: a child answers, and is replaced when it dies.

The process imports what it needs once and forks a child that answers one JSON line with one JSON
line. The child may be killed at any time: a new one is forked in milliseconds and says its process
id first.
"""

import json
import os
import resource
import signal
from collections.abc import Callable
from typing import Any

RECYCLED = 3  # exit status of a child that has answered enough


def serve_forever(
    verdict_of: Callable[[dict[str, Any]], str],
    *,
    time_limit: float,
    memory_bytes: int,
    recycle_after: int,
) -> None:
    """Ends when the input does; a child answers at most `recycle_after` lines."""
    while True:
        child = os.fork()
        if child == 0:
            os._exit(_serve(verdict_of, time_limit, memory_bytes, recycle_after))
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) != RECYCLED:
            os._exit(0)


def _serve(
    verdict_of: Callable[[dict[str, Any]], str],
    time_limit: float,
    memory_bytes: int,
    recycle_after: int,
) -> int:
    """Answers lines until the input ends (0) or it is time for a fresh process."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    _say({"pid": os.getpid()})
    for _ in range(recycle_after):
        line = _read_line()
        if not line:
            return 0
        # A killed child left the earlier ones of several: nobody waits for them any more.
        request = json.loads(line.splitlines()[-1])
        # The caller kills at its limit. Should it be gone, the kernel does, whatever is computed.
        signal.setitimer(signal.ITIMER_PROF, 2 * time_limit + 1)
        try:
            verdict = verdict_of(request)
        except MemoryError:
            verdict = "memory"
        except Exception as error:  # noqa: BLE001  any failure of a library on a model's text
            verdict = f"failed: {type(error).__name__}"
        signal.setitimer(signal.ITIMER_PROF, 0)
        _say({"id": request["id"], "verdict": verdict})
    return RECYCLED


def _read_line() -> bytes:
    """A whole line, read unbuffered.

    Bytes that a killed child has not read must stay in the pipe for the child forked after it.
    """
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 65536)
        if not piece:
            return b""
        line += piece
    return line


def _say(message: dict[str, Any]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")
