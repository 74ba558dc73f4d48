"""A tool's process: what it is not given, and that no tool outlives its limit."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fastdistill_ray.agents.knobs import LimitKnobs
from fastdistill_ray.agents.sandbox import ToolFault, ToolProcess

ROOT = Path(__file__).parents[2]
SLEEP = f"sleep {10**6 + os.getpid()}"  # of this run of the tests
SOURCE = f"""
import os, socket, subprocess

count = 0

def environment(): return dict(os.environ)
def folder(): return [os.getcwd(), os.listdir(".")]
def connect(): socket.create_connection(("127.0.0.1", PORT), 5)
def bind(): socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", PORT))
def endless():
    while True:
        pass
def away():
    subprocess.Popen({SLEEP.split()}, start_new_session=True)
    return os.getpid()
def memory(): return len(bytearray(2**31))
def write(): open("x", "wb").write(bytes(2**24))
def say(): print("this is no answer"); return 1
def leave(): os._exit(0)
def counted():
    global count
    count += 1
    return count
def strange(): return {{1, 2}}
def infinite(): return float("inf")
def large(): return "x" * 10**6
"""


@pytest.fixture
def listening(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def tool(listening):
    source = SOURCE.replace("PORT", str(listening))
    with ToolProcess(source, LimitKnobs(time_limit=1.0)) as process:
        yield process


def test_environment_is_empty_and_the_folder_is_its_own(tool, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "secret")
    assert tool.call("environment", {}) == {}
    folder, files = tool.call("folder", {})
    assert files == [] and Path(folder) != Path.cwd()
    tool.close()
    assert not Path(folder).exists()


def test_network_is_closed_even_to_a_server_of_this_machine(tool, listening):
    import socket

    socket.create_connection(("127.0.0.1", listening), 5).close()  # it is there
    for function in ("connect", "bind"):
        with pytest.raises(ToolFault, match=r"unreachable|has no attribute|None in sys\.modules"):
            tool.call(function, {})


def test_endless_loop_is_killed_and_the_next_call_answered(tool):
    assert tool.call("counted", {}) == 1
    with pytest.raises(ToolFault, match="no answer in 1 s"):
        tool.call("endless", {})
    assert tool.call("counted", {}) == 1  # another process


def test_process_that_a_tool_has_sent_away_ends_with_it(tool):
    if tool.start()["network"] != "namespace":
        pytest.skip("the kernel gives no namespaces here")
    tool.call("away", {})
    while not sleeping():  # it may have been started and not be that program yet
        time.sleep(0.1)
    tool.close()
    while sleeping():
        time.sleep(0.1)


def sleeping() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        is_dead = process.info["status"] == psutil.STATUS_ZOMBIE
        if process.info["cmdline"] == SLEEP.split() and not is_dead:
            found.append(process)
    return found


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("memory", "out of memory"),
        ("write", "OSError: .*File too large"),
        ("leave", "its process died"),
        ("strange", "TypeError: .*not JSON serializable"),
        ("infinite", "ValueError: Out of range"),
        ("large", "ValueError: a value of more than 100000 characters"),
        ("missing", "KeyError: 'missing'"),
    ],
)
def test_fault_is_told_and_the_next_call_is_answered(tool, function, said):
    with pytest.raises(ToolFault, match=said):
        tool.call(function, {})
    assert tool.call("say", {}) == 1


def test_source_that_does_not_run_is_a_fault():
    with ToolProcess("1 / 0", LimitKnobs()) as process:
        for _ in range(2):
            with pytest.raises(ToolFault, match="ZeroDivisionError"):
                process.call("f", {})


def test_without_namespaces_sockets_and_processes_are_taken_away(tmp_path):
    """In a user namespace that may make no others."""
    script = tmp_path / "script.py"
    script.write_text(
        "from fastdistill_ray.agents.knobs import LimitKnobs\n"
        "from fastdistill_ray.agents.sandbox import ToolFault, ToolProcess\n"
        "source = 'import os\\ndef f(name):\\n    return str(__import__(name))\\n'\n"
        "source += 'def g():\\n    return hasattr(os, \"fork\")'\n"
        "with ToolProcess(source, LimitKnobs()) as process:\n"
        "    print(process.start()['network'], process.call('g', {}))\n"
        "    for name in ('socket', 'subprocess', 'ctypes'):\n"
        "        try:\n"
        "            process.call('f', {'name': name})\n"
        "        except ToolFault as fault:\n"
        "            print(fault)\n"
    )
    limits = ("max_user_namespaces", "max_net_namespaces")
    none = " && ".join(f"echo 0 > /proc/sys/user/{limit}" for limit in limits)
    command = ["unshare", "-Ur", "sh", "-c", f"{none} && exec {sys.executable} -P {script}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "denied" in done.stderr:
        pytest.skip("no user namespace can be made here to try it in")
    said = done.stdout.splitlines()
    assert said[0] == "sockets removed False", done.stderr
    assert len(said) == 4 and all("ModuleNotFoundError" in line for line in said[1:])


def test_trace_tells_its_answer_and_the_calls_that_are_not_inside_of_one_another():
    source = (
        "def times(a, b=3):\n    return a * b\n"
        "def twice(x):\n    return times(x, 2)\n"
        "answer = times(4, twice(5))\n"
    )
    with ToolProcess(source, LimitKnobs(), is_trace=True) as process:
        said = process.start()
    assert said["answer"] == 40
    assert said["calls"] == [
        {"function": "twice", "arguments": {"x": 5}, "result": 10},
        {"function": "times", "arguments": {"a": 4, "b": 10}, "result": 40},
    ]
