"""A signal becomes one exception, once; one that was ignored stays ignored."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from fastdistill_ray.run.driver import Job, main
from fastdistill_ray.run.signals import Stopped, ask_first, signals_raise_stopped

CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.fixture(autouse=True)
def _handlers_of_a_terminal() -> Iterator[None]:
    """Also where the tests run under nohup or in the background of a shell."""
    before = {number: signal.getsignal(number) for number, _ in CODES}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), CODES)
def test_signal_raises_with_the_exit_code_of_shells_and_handlers_are_given_back(number, code):
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped, signals_raise_stopped():
        os.kill(os.getpid(), number)
    assert stopped.value.exit_code == code
    assert signal.getsignal(number) == before


def test_signal_first_asks_and_stops_when_the_block_has_come_to_its_end():
    did = []
    asking = ask_first(lambda: did.append("asked"), 60.0)
    with pytest.raises(Stopped) as stopped, signals_raise_stopped(), asking:
        os.kill(os.getpid(), signal.SIGTERM)
        did.append("went on")
        raise ValueError("as what was asked may end")
    assert did == ["asked", "went on"] and stopped.value.exit_code == 143
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


@pytest.mark.parametrize("seconds", [60.0, 0.05, 0.0])
def test_signal_stops_at_a_second_one_when_time_is_up_or_where_there_is_none(seconds):
    did = []
    asking = ask_first(lambda: did.append("asked"), seconds)
    with pytest.raises(Stopped) as stopped, signals_raise_stopped(), asking:
        os.kill(os.getpid(), signal.SIGHUP)
        if seconds == 60.0:
            os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
        did.append("not come to")
    assert did == (["asked"] if seconds else []) and stopped.value.exit_code == 129


def test_block_that_is_not_told_to_stop_keeps_its_own_error_and_ctrl_c_ends_it_at_once():
    with pytest.raises(ValueError), signals_raise_stopped(), ask_first(lambda: None, 60.0):
        raise ValueError("its own")
    with pytest.raises(Stopped) as stopped, signals_raise_stopped(), ask_first(print, 60.0):
        os.kill(os.getpid(), signal.SIGINT)
    assert stopped.value.exit_code == 130


def test_tidying_up_after_the_first_signal_is_not_cut_off_by_a_second():
    tidied = []
    with pytest.raises(Stopped) as stopped, signals_raise_stopped():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            tidied.append(True)
    assert tidied == [True]
    assert stopped.value.exit_code == 143


def test_closed_terminal_stays_ignored_under_nohup():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with signals_raise_stopped():
        os.kill(os.getpid(), signal.SIGHUP)


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that asks for no cluster."""
    monkeypatch.setattr(ray, "init", lambda **_: None)
    recipe = "jobs/recipes/demo_full.yaml"
    monkeypatch.setattr(sys, "argv", ["job", recipe, "--run-dir", str(tmp_path / "run")])


@pytest.mark.parametrize(("number", "code"), CODES)
def test_job_told_to_stop_ends_with_a_line(arguments, capsys, number, code):
    def job(_job: Job) -> None:
        os.kill(os.getpid(), number)

    with pytest.raises(SystemExit) as ended:
        main(job)
    assert ended.value.code == code
    *_, line = capsys.readouterr().err.splitlines()
    assert line == "stopped; finished work is kept: the same command goes on from there"


def test_ctrl_c_while_ray_train_trains_is_no_success(arguments, capsys):
    """Its handler, which takes the place of ours, ends the process with code 0."""

    def job(_job: Job) -> None:
        signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(SystemExit) as ended:
        main(job)
    assert ended.value.code == 130
    assert "Traceback" not in capsys.readouterr().err
