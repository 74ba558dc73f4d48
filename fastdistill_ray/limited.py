"""A process of code that nobody vouches for: a JSON line in, one out, killed from outside at its
limit. What it may do besides is for its script to limit, before it runs that code.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from typing import Any

MOST_BYTES = 64 * 2**20  # of an answer


class NoValueError(Exception):
    """Why a process gave no value."""


class LimitedProcess:
    """Started when it is first asked. What it starts ends with it, as far as that has not left its
    session; `environment` None: that of this process."""

    def __init__(
        self,
        command: list[str],
        environment: Mapping[str, str] | None = None,
        folder: str | None = None,
    ) -> None:
        self._command, self._environment, self._folder = command, environment, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""

    @property
    def is_started(self) -> bool:
        return self._process is not None

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Its answer. TimeoutError says that it gave none in time, BrokenPipeError that it ended or
        wrote something else; then it is gone."""
        self._start()
        deadline = time.monotonic() + seconds
        try:
            self._send(json.dumps(request).encode() + b"\n", deadline)
            return _read(self._receive(deadline))
        except (TimeoutError, BrokenPipeError):
            self.close()
            raise

    def value(self, request: Mapping[str, Any], seconds: float, limit: float | None = None) -> Any:
        """The `value` of its answer. NoValueError says why there is none: its `fault`, its end, or
        that its time, `limit` in the user's words, is over."""
        try:
            message = self.ask(request, seconds)
        except TimeoutError:
            raise NoValueError(f"no answer in {limit or seconds:g} s") from None
        except BrokenPipeError:
            raise NoValueError("its process died") from None
        if "fault" in message or "value" not in message:
            raise NoValueError(str(message.get("fault", "its process wrote no value")))
        return message["value"]

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()

    def _start(self) -> None:
        if self._process is not None:
            return
        self._buffer = b""
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=None if self._environment is None else dict(self._environment),
            cwd=self._folder,
            start_new_session=True,  # it is killed with all it started
        )
        os.set_blocking(self._pipe("stdin"), False)

    def _send(self, data: bytes, deadline: float) -> None:
        while data:
            self._await("stdin", select.POLLOUT, deadline)
            # A pipe that is ready may still refuse.
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(self._pipe("stdin"), data) :]

    def _receive(self, deadline: float) -> bytes:
        while b"\n" not in self._buffer:
            self._await("stdout", select.POLLIN, deadline)
            piece = os.read(self._pipe("stdout"), 65536)
            if not piece:
                raise BrokenPipeError
            self._buffer += piece
            if len(self._buffer) > MOST_BYTES:
                raise BrokenPipeError
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _await(self, name: str, event: int, deadline: float) -> None:
        waiting = select.poll()  # select() refuses file descriptors over 1023
        waiting.register(self._pipe(name), event)
        if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError

    def _pipe(self, name: str) -> int:
        assert self._process is not None
        return getattr(self._process, name).fileno()


def _read(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise BrokenPipeError from None
    if not isinstance(message, dict):
        raise BrokenPipeError
    return message
