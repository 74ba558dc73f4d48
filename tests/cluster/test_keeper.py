"""Nothing of a command outlives whoever started its keeper, however that one ended."""

import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Iterator
from multiprocessing import shared_memory
from pathlib import Path

import psutil
import pytest
from support.jobs import wait_for
from support.marked import kill_all, marked, wait_until_none

KEEPER = str(Path("fastdistill_ray/cluster/keeper.py").absolute())
MARK = "KEPT_BY_TEST"
# A parent that waits, and a child of a child in a session of its own that ignores signals.
FAMILY = """
import os, signal, sys, time
if os.fork():
    time.sleep(1000)
os.setsid()
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
if os.fork():
    os._exit(0)
open(sys.argv[1], "w").close()
time.sleep(1000)
"""
# Starts the keeper as the command line does, and can be killed itself.
STARTER = """
import subprocess, sys, time
subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True)
time.sleep(1000)
"""


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    value = uuid.uuid4().hex
    monkeypatch.setenv(MARK, value)
    yield value
    kill_all(MARK, value)


def keep(*command: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, KEEPER, *command], stdin=subprocess.PIPE)


def family(file: Path) -> tuple[str, ...]:
    return (sys.executable, "-c", FAMILY, str(file))


def has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("end", ["close", signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=str)
def test_descendants_end_with_the_pipe_or_a_signal(tmp_path, mark, end):
    keeper = keep(*family(tmp_path / "there"))
    wait_for((tmp_path / "there").exists, keeper)
    assert len(marked(MARK, mark)) == 3
    if end == "close":
        keeper.stdin.close()
    else:
        keeper.send_signal(end)
    assert keeper.wait() == 0
    assert marked(MARK, mark) == []


def test_descendants_end_when_who_started_the_keeper_is_killed(tmp_path, mark):
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, sys.executable, KEEPER, *family(tmp_path / "there")]
    )
    wait_for((tmp_path / "there").exists, starter)
    starter.kill()
    starter.wait()
    wait_until_none(MARK, mark)


def test_orphans_end_when_the_command_ends_by_itself(tmp_path, mark):
    script = f"{sys.executable} -c 'import time; time.sleep(1000)' & exit 3"
    assert keep("sh", "-c", script).wait() == 0
    assert marked(MARK, mark) == []


def test_command_is_killed_with_its_keeper(tmp_path, mark):
    there = tmp_path / "there"
    script = f"import time; open({str(there)!r}, 'w').close(); time.sleep(1000)"
    keeper = keep(sys.executable, "-c", script)
    wait_for(there.exists, keeper)
    (child,) = psutil.Process(keeper.pid).children()
    keeper.kill()
    keeper.wait()
    # One that is about to end shows no environment any more.
    while not has_ended(child):
        time.sleep(0.02)


def test_shared_memory_of_what_is_killed_is_given_back(tmp_path, mark):
    script = textwrap.dedent(
        f"""
        import time
        from multiprocessing import shared_memory
        memory = shared_memory.SharedMemory(create=True, size=4096)
        open({str(tmp_path / "part")!r}, "w").write(memory.name)
        __import__("os").rename({str(tmp_path / "part")!r}, {str(tmp_path / "name")!r})
        time.sleep(1000)
        """
    )
    keeper = keep(sys.executable, "-c", script)
    wait_for((tmp_path / "name").exists, keeper)
    keeper.stdin.close()
    keeper.wait()
    with pytest.raises(FileNotFoundError):
        shared_memory.SharedMemory((tmp_path / "name").read_text())
