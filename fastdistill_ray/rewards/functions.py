"""A user's own reward: a Python function of a completion, in a process with limits.

The recipe carries the text of its file, so it travels with a job and a run knows what scored it.
"""

import ast
import sys
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from fastdistill_ray.knobs import Knobs
from fastdistill_ray.limited import LimitedProcess, NoValueError

WORKER = Path(__file__).with_name("function_worker.py")
START_LIMIT = 60.0  # seconds; the file may import large libraries on a loaded machine


class ScoreError(Exception):
    """Why a completion could not be scored."""


class FunctionKnobs(Knobs):
    """`name: file.py:function` in a recipe, or these fields.

    The function gets a dictionary with text, question, reference, kind, verdict, answer, num_tokens
    and finish_reason, and returns a number.
    """

    path: str = Field(
        description="FILE.py:FUNCTION, as `reward.functions.NAME: FILE.py:FUNCTION` says in short; "
        "what the file imports must be installed."
    )
    source: str = Field(description="The file's text; none given: it is read when parsed.")
    time_limit: float = Field(
        default=1.0, gt=0, description="Seconds of wall clock per completion."
    )
    memory_limit_gib: float = Field(
        default=2.0, gt=0, description="Most address space of the function's process."
    )

    @model_validator(mode="before")
    @classmethod
    def _read_file(cls, values: Any) -> Any:
        if isinstance(values, str):
            values = {"path": values}
        if not isinstance(values, dict) or "source" in values or "path" not in values:
            return values
        file, separator, _ = str(values["path"]).rpartition(":")
        if not separator:
            raise ValueError("expected FILE.py:FUNCTION")
        try:
            return {**values, "source": Path(file).read_text(encoding="utf-8")}
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} cannot be read: {type(error).__name__}") from error

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        try:
            tree = ast.parse(self.source)
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"{self.file} is not Python: {error}") from None
        names = [
            node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)
        ]
        if self.function not in names:
            known = ", ".join(names) or "none"
            raise ValueError(f"{self.file} defines no {self.function!r}; it defines: {known}")
        return self

    @property
    def file(self) -> str:
        return self.path.rpartition(":")[0]

    @property
    def function(self) -> str:
        return self.path.rpartition(":")[2]


class FunctionProcess:
    """A long-lived process that calls the function; killed at the limit and started again."""

    def __init__(self, knobs: FunctionKnobs) -> None:
        self._knobs = knobs
        self._process = LimitedProcess([sys.executable, "-P", str(WORKER)])

    def start(self) -> None:
        """ScoreError where the file cannot be run."""
        if self._process.is_started:
            return
        request = {
            "file": self._knobs.file,
            "source": self._knobs.source,
            "function": self._knobs.function,
            "memory_bytes": int(self._knobs.memory_limit_gib * 2**30),
            "time_limit": self._knobs.time_limit,
            "start_limit": START_LIMIT,
        }
        try:
            self._ask(request, START_LIMIT)
        except ScoreError as error:
            self.close()
            raise ScoreError(f"{self._knobs.file} does not load: {error}") from None

    def score(self, completion: dict[str, Any]) -> float:
        """ScoreError when the function fails, dies, hangs or returns no finite number."""
        self.start()
        return self._ask(completion, self._knobs.time_limit)

    def close(self) -> None:
        self._process.close()

    def _ask(self, request: dict[str, Any], seconds: float) -> Any:
        try:
            return self._process.value(request, seconds)
        except NoValueError as error:
            raise ScoreError(str(error)) from None
