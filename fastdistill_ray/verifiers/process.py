"""The caller's side of a judging process: starts it late, limits its time, replaces it."""

import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

_START_LIMIT = 120.0  # seconds; an import on a loaded machine
_PATIENCE = 60  # wall clock per CPU second, after which one that does not compute is given up
_ROOT = Path(__file__).resolve().parents[2]


class JudgingProcess:
    """One long-lived process of a module that calls `serving.serve_forever`.

    The module is given the time limit, the memory limit and `arguments`; usable from any thread.
    """

    def __init__(self, module: str, time_limit: float, memory_bytes: int, *arguments: str) -> None:
        self._command = [
            # -P: no module of the current folder may stand in for one of the library's.
            *(sys.executable, "-P", "-m", module),
            *(str(time_limit), str(memory_bytes), *arguments),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._child = 0  # process id of the one that answers; 0: not ready
        self._buffer = b""
        self._ids = itertools.count()
        self._lock = threading.Lock()

    @property
    def is_started(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Begins to start, without waiting; does nothing when started."""
        with self._lock:
            self._start()

    def ask(self, request: Mapping[str, str | None], seconds: float) -> tuple[str, float]:
        """The worker's verdict, or "timeout" after `seconds` of its CPU time, or "died" when it
        dies of it twice; and the CPU seconds it took.

        Starting and waiting for another thread's answer do not count.
        """
        with self._lock:
            self._make_ready()
            verdict, spent = self._ask(request, seconds)
            if verdict == "died":
                self._make_ready()
                verdict, again = self._ask(request, seconds - spent)
                spent += again
            return verdict, spent

    def close(self) -> None:
        with self._lock:
            if self._process is None:
                return
            self._process.kill()  # first, or it would fork an heir of the child
            self._process.wait()
            self._kill_child()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe:
                    pipe.close()
            self._process, self._child, self._buffer = None, 0, b""

    def _start(self) -> None:
        if self._process is not None:
            return
        path = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            # One thread computes; tables for those of a large machine would not fit the limit.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # an interrupt at the terminal is the caller's to handle
        )

    def _make_ready(self) -> None:
        """Waits until a child has said its id; a dead process is started again, once."""
        for _ in range(2):
            self._start()
            # A child that died between two answers has an heir, whose greeting is waiting.
            while (message := self._receive(0)) is not None:
                self._child = message.get("pid", self._child)
            deadline = time.monotonic() + _START_LIMIT
            while not self._child and time.monotonic() < deadline and not self._is_dead():
                message = self._receive(0.1)
                if message is not None:
                    self._child = message.get("pid", 0)
            if self._child and not self._is_dead():
                return
            self._restart()
        raise RuntimeError("the judging process does not start; see its message on stderr")

    def _ask(self, request: Mapping[str, str | None], seconds: float) -> tuple[str, float]:
        number, before, spent = next(self._ids), self._cpu_seconds(), 0.0
        try:
            os.write(self._stdin(), json.dumps({"id": number, **request}).encode() + b"\n")
        except BrokenPipeError:
            self._restart()
            return "died", 0.0
        # A busy machine gives it little of each second: only its own time counts.
        deadline = time.monotonic() + _PATIENCE * (seconds + 1)
        while spent < seconds and time.monotonic() < deadline:
            message = self._receive(max(seconds - spent, 0.01))
            spent = max(spent, self._cpu_seconds() - before)
            if message is None:
                if self._is_dead():
                    self._restart()
                    return "died", spent
                continue
            if "pid" in message:
                self._child = message["pid"]
                return "died", spent
            if message["id"] == number:
                return message["verdict"], spent
        self._kill_child()
        return "timeout", spent

    def _cpu_seconds(self) -> float:
        """Of the child that answers, since it was forked."""
        try:
            times = psutil.Process(self._child).cpu_times()
        except (psutil.Error, ValueError):
            return 0.0
        return times.user + times.system

    def _receive(self, seconds: float) -> dict | None:
        """The next message, or None when none comes in time or the pipe has ended."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            waiting = select.poll()  # select() refuses file descriptors over 1023
            waiting.register(self._stdout(), select.POLLIN)
            if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            piece = os.read(self._stdout(), 65536)
            if not piece:
                return None
            self._buffer += piece
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)

    def _kill_child(self) -> None:
        if self._child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
            self._child = 0

    def _restart(self) -> None:
        process, self._process = self._process, None
        self._kill_child()
        self._buffer = b""
        if process is not None:
            process.kill()
            process.wait()

    def _is_dead(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _stdin(self) -> int:
        assert self._process is not None and self._process.stdin is not None
        return self._process.stdin.fileno()

    def _stdout(self) -> int:
        assert self._process is not None and self._process.stdout is not None
        return self._process.stdout.fileno()
