"""The caller's side of a tool's process: its limits, its faults, its end."""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from fastdistill_ray.agents.knobs import LimitKnobs
from fastdistill_ray.limited import LimitedProcess, NoValueError

WORKER = Path(__file__).with_name("tool_worker.py")
START_SECONDS = 20.0  # beside the limit of a call: an interpreter starts on a loaded machine


class ToolFault(Exception):
    """Why a call gave no value: what the tool raised, or that it gave no answer in its time."""


class ToolProcess:
    """Source code in a process of its own, without network, environment or other folder than an
    empty one; killed at the limit of a call and started again for the next."""

    def __init__(self, source: str, limits: LimitKnobs, *, is_trace: bool = False) -> None:
        self._source, self._limits, self._is_trace = source, limits, is_trace
        self._folder = tempfile.TemporaryDirectory(prefix="tool-")
        # -I: no environment, no folder of modules beside the script; -S: the standard library only.
        command = [sys.executable, "-I", "-S", "-B", str(WORKER)]
        self._process = LimitedProcess(command, {}, self._folder.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self) -> dict[str, Any]:
        """Runs the source; -> `network`, how the process left it, and of a trace its `answer` and
        the `calls` of its functions. ToolFault where it fails."""
        request = {
            "source": self._source,
            "is_trace": self._is_trace,
            "memory_bytes": int(self._limits.memory_limit_gib * 2**30),
        }
        try:
            return self._ask(request, self._limits.time_limit + START_SECONDS)
        except ToolFault:
            self._process.close()
            raise

    def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        if not self._process.is_started:
            self.start()
        request = {"function": function, "arguments": arguments}
        return self._ask(request, self._limits.time_limit)

    def close(self) -> None:
        self._process.close()
        self._folder.cleanup()

    def _ask(self, request: dict[str, Any], seconds: float) -> Any:
        try:
            return self._process.value(request, seconds, self._limits.time_limit)
        except NoValueError as error:
            raise ToolFault(str(error)) from None
