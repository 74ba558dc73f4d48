"""The process that a tool of nobody's runs in; a script that imports nothing of the project.

One JSON line in, one out. The first line gives the source, each further one is a call. Before any
of it runs, the process leaves the network and every other process of the machine (namespaces of its
own, where the kernel lets it), empties its environment and limits its memory and files.
"""

import ast
import ctypes
import inspect
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

NEW_USER, NEW_PID, NEW_NET = 0x10000000, 0x20000000, 0x40000000  # of unshare(2)
PARENT_DEATH_SIGNAL = 1  # of prctl(2)
MOST_CALLS = 100  # of a trace that are kept
MOST_CHARACTERS = 100_000  # of a result
FILE_BYTES, OPEN_FILES = 2**20, 64
# Without a network namespace: what opens sockets, or starts what could.
SOCKETS = "socket _socket ssl _ssl ctypes _ctypes subprocess _posixsubprocess multiprocessing"
STARTING = ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system", "popen")


def leave_the_network() -> str:
    """-> how: "namespace", or "sockets removed", which code that means harm gets around."""
    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (NEW_USER | NEW_PID | NEW_NET, NEW_PID | NEW_NET):  # the latter is root's
        if libc.unshare(flags) == 0:
            return "namespace"
    for name in SOCKETS.split():
        sys.modules[name] = None  # pyright: ignore[reportArgumentType]  # an import of it fails
    for name in dir(os):
        if name in STARTING or name.startswith(("exec", "spawn")):
            delattr(os, name)
    return "sockets removed"


def work_in_a_child() -> str:
    """Returns in a child in the new process namespace, which ends with all it has started when this
    process does; this process ends when its own parent does. -> how the network was left."""
    parent, fork = os.getppid(), os.fork
    network = leave_the_network()
    child = fork()
    if child == 0:
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
        os.environ.clear()
        return network
    os.close(0)
    os.close(1)
    while os.getppid() == parent and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.2)
    os._exit(0)


def plain(value: Any) -> Any:
    """As JSON has it; TypeError and ValueError where it cannot be that."""
    text = json.dumps(value, allow_nan=False)
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"a value of more than {MOST_CHARACTERS} characters")
    return json.loads(text)


def copied(value: Any) -> Any:
    """None where it is no JSON: no tool takes or gives that."""
    try:
        return plain(value)
    except (TypeError, ValueError):
        return None


class Recorder:
    """Notes the calls of functions that are not made inside of one another."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.depth = 0

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*positional: Any, **named: Any) -> Any:
            if self.depth or len(self.calls) >= MOST_CALLS:
                return function(*positional, **named)
            bound = inspect.signature(function).bind(*positional, **named)
            bound.apply_defaults()
            arguments = copied(dict(bound.arguments))
            self.depth += 1
            try:
                value = function(*positional, **named)
            finally:
                self.depth -= 1
            if arguments is not None:
                call = {"function": function.__name__, "arguments": arguments}
                self.calls.append({**call, "result": copied(value)})
            return value

        return called


def load(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """-> (the module, what is answered): of a trace its variable `answer`, and its calls."""
    memory = request["memory_bytes"]
    for what, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))
    recorder, tree = Recorder(), ast.parse(request["source"])
    module: dict[str, Any] = {"__name__": "tool", "recorded__": recorder}
    if request["is_trace"]:
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                node.decorator_list.append(ast.Name("recorded__", ast.Load()))
        ast.fix_missing_locations(tree)
    exec(compile(tree, "tool.py", "exec"), module)
    said = {"answer": plain(module.get("answer")), "calls": recorder.calls}
    return module, said if request["is_trace"] else {}


def answered(work: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"value": plain(work())}
    except MemoryError:
        return {"fault": "out of memory"}
    except BaseException as error:  # noqa: BLE001  whatever a tool raises, sys.exit() too
        return {"fault": f"{type(error).__name__}: {error}"[:300]}


def main() -> None:
    network = work_in_a_child()
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a tool prints is no answer
    os.dup2(1, 2)
    modules: list[dict[str, Any]] = []

    def begin(request: dict[str, Any]) -> dict[str, Any]:
        module, said = load(request)
        modules.append(module)
        return {**said, "network": network}

    def call(request: dict[str, Any]) -> Any:
        return modules[0][request["function"]](**request["arguments"])

    for line in requests:
        request = json.loads(line)
        work = call if modules else begin
        answers.write(json.dumps(answered(lambda w=work, r=request: w(r))) + "\n")
        answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
