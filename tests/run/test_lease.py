"""One writer of a run folder, by processes of their own that begin, hold, die and sleep."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastdistill_ray.errors import UserError
from fastdistill_ray.run import lease as module
from fastdistill_ray.run.lease import LEASES, check_free, holder, lease
from fastdistill_ray.storage.place import Place

HOLD = """
import sys, time
from fastdistill_ray.run.lease import lease
from fastdistill_ray.storage.place import Place
with lease(Place(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
print("over", flush=True)
"""


def hold(run: Place, seconds: float = 600.0, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run), str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd(), **environment},
    )


@pytest.fixture(params=["disk", "bucket"])
def run(request, tmp_path) -> Place:
    if request.param == "disk":
        return Place(tmp_path / "run")
    return Place(f"{request.getfixturevalue('bucket')}/{tmp_path.name}")


def first_line(process: subprocess.Popen) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_second_driver_is_told_who_writes_and_how_to_follow_or_stop_it(run):
    owner = hold(run, FASTDISTILL_JOB="raysubmit_7", FASTDISTILL_DASHBOARD="http://here")
    try:
        assert first_line(owner) == "held"
        expected = (
            rf"process {owner.pid}, job raysubmit_7, since .*attach .*"
            "RAY_AUTH_MODE=token ray job stop raysubmit_7 --address http://here$"
        )
        with pytest.raises(UserError, match=expected), lease(run):
            pytest.fail("held by two")
        with pytest.raises(UserError, match=expected):
            check_free(run)
        note = holder(run)
        assert note is not None and note.dashboard == "http://here"
        assert len((run / LEASES).list()) == 1, "the refused one leaves nothing"
    finally:
        owner.kill()
        owner.wait()


def test_driver_that_was_killed_is_taken_over_at_once(run, caplog):
    caplog.set_level("INFO")
    owner = hold(run)
    assert first_line(owner) == "held"
    owner.kill()
    owner.wait()
    with lease(run):
        note = holder(run)
        assert note is not None and note.pid == os.getpid()
    assert f"taken over from {note.user}" in caplog.text
    assert holder(run) is None
    check_free(run)


def test_driver_of_another_host_is_dead_once_its_note_is_not_renewed(run, monkeypatch):
    monkeypatch.setattr(module, "DEAD_SECONDS", 1.0)
    note = module._own_note()._replace(host="elsewhere", is_holding=True)
    (run / LEASES / "other.json").put(json.dumps(note._asdict()))
    with lease(run):
        assert holder(run) is not None
        assert [file.name for file in (run / LEASES).list()] != ["other.json"]


def test_driver_of_another_host_that_renews_its_note_lives(run, monkeypatch):
    monkeypatch.setattr(module, "DEAD_SECONDS", 60.0)
    note = module._own_note()._replace(host="elsewhere", is_holding=True)
    file = run / LEASES / "other.json"
    file.put(json.dumps(note._asdict()))
    seen = module._same

    def renewed_meanwhile(folder, notes):
        file.put(json.dumps(note._replace(renewed=1)._asdict()))
        return seen(folder, notes)

    monkeypatch.setattr(module, "_same", renewed_meanwhile)
    with pytest.raises(UserError, match="on elsewhere, process"), lease(run):
        pytest.fail("held by two")


def test_driver_that_slept_while_another_took_over_stops(tmp_path):
    """Suspended, as a laptop is, and taken for dead meanwhile."""
    run = Place(tmp_path / "run")
    script = f"import fastdistill_ray.run.lease as m; m.RENEW_SECONDS = 0.2\n{HOLD}"
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(run), "600"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert first_line(owner) == "held"
    owner.send_signal(signal.SIGSTOP)
    (mine,) = (run / LEASES).list()
    mine.unlink()
    with lease(run):
        owner.send_signal(signal.SIGCONT)
        _, said = owner.communicate(timeout=60)
        assert owner.returncode == 1
        assert "another driver has taken this one for dead" in said


@pytest.mark.parametrize("hosts", [["here"] * 5, ["a", "b", "c"]], ids=["one host", "three"])
def test_of_many_drivers_that_begin_at_once_one_holds(tmp_path, hosts):
    """Those of other machines can only watch whether the others renew their notes."""
    run = Place(tmp_path / "run")
    marker = Path(tmp_path / "log")
    script = f"""
import sys, time
import fastdistill_ray.run.lease as module
from fastdistill_ray.errors import UserError
from fastdistill_ray.run.lease import lease
from fastdistill_ray.storage.place import Place
module._host = lambda: (sys.argv[3], "")
while time.time() < {time.time() + 2}:
    pass
try:
    with lease(Place(sys.argv[1])):
        with open(sys.argv[2], "a") as log: log.write("in\\n")
        time.sleep(1.0)
        with open(sys.argv[2], "a") as log: log.write("out\\n")
except UserError:
    sys.exit(2)
"""
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(run), str(marker), host], env=environment
        )
        for host in hosts
    ]
    codes = [driver.wait() for driver in drivers]
    assert set(codes) <= {0, 2} and 0 in codes
    lines = marker.read_text().split()
    assert lines == ["in", "out"] * codes.count(0), "never two at a time"
