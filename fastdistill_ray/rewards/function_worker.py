"""The process a user's reward function runs in; a script that imports nothing of the project.

One JSON line in, one out. The first line says what to run, each further one is a completion.
"""

import json
import math
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any


def load(request: dict[str, Any]) -> Callable[[dict[str, Any]], Any]:
    resource.setrlimit(resource.RLIMIT_AS, (request["memory_bytes"], request["memory_bytes"]))
    module: dict[str, Any] = {"__name__": "reward", "__file__": request["file"]}
    exec(compile(request["source"], request["file"], "exec"), module)
    return module[request["function"]]


def score(function: Callable[[dict[str, Any]], Any], completion: dict[str, Any]) -> float:
    value = function(completion)
    if value is None or isinstance(value, str | bytes):
        raise TypeError(f"returned {value!r:.60}, not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"returned {number}")
    return number


def answer(time_limit: float, work: Callable[[], Any]) -> dict[str, Any]:
    # The caller kills at its limit. Should it be gone, the kernel does.
    signal.setitimer(signal.ITIMER_REAL, 2 * time_limit + 1)
    try:
        return {"value": work()}
    except MemoryError:
        return {"fault": "out of memory"}
    except BaseException as error:  # noqa: BLE001  whatever a user's code raises, sys.exit() too
        return {"fault": f"{type(error).__name__}: {error}"[:300]}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> None:
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what the function prints is no answer
    first = json.loads(requests.readline())
    functions: list[Callable[[dict[str, Any]], Any]] = []

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    say(answer(first["start_limit"], lambda: functions.append(load(first))))
    for line in requests:
        completion = json.loads(line)
        say(answer(first["time_limit"], lambda one=completion: score(functions[0], one)))
    sys.exit(0)


if __name__ == "__main__":
    main()
