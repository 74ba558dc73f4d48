"""Being told to stop: Ctrl-C, a closed terminal, Slurm, `docker stop`, `timeout`."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GOES_ON = "finished work is kept: the same command goes on from there"


class Stopped(BaseException):
    """A signal has ended what was going on; not an error, so no `except Exception` takes it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.exit_code = 128 + number  # as shells say it


@contextlib.contextmanager
def signals_raise_stopped() -> Iterator[None]:
    """In the main thread. Only the first one counts: what is tidied up then must not be cut off.
    One that is ignored, as under nohup, stays so."""

    def stop(number: int, _frame: FrameType | None) -> None:
        for one in before:
            signal.signal(one, signal.SIG_IGN)
        raise Stopped(number)

    handlers = {one: signal.getsignal(one) for one in STOPPING}
    before = {one: handler for one, handler in handlers.items() if handler != signal.SIG_IGN}
    for one in before:
        signal.signal(one, stop)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def ask_first(ask: Callable[[], None], seconds: float) -> Iterator[None]:
    """In the main thread, at the first SIGTERM or SIGHUP, `ask` what the block does to come to an
    end. Stopped is raised once the block has ended, after that many seconds, or at a second signal.

    Ctrl-C ends it at once.
    """
    told: list[int] = []

    def later(_number: int, _frame: FrameType | None) -> None:
        raise Stopped(told[0])

    def stop(number: int, frame: FrameType | None) -> None:
        told.append(number)
        if len(told) > 1 or not seconds:
            later(number, frame)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        ask()

    handlers = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)}
    before = {one: handler for one, handler in handlers.items() if handler != signal.SIG_IGN}
    for one in before:
        signal.signal(one, stop)
    alarm = signal.signal(signal.SIGALRM, later)
    try:
        yield
    except Exception:
        if not told:
            raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for one, handler in {**before, signal.SIGALRM: alarm}.items():
            signal.signal(one, signal.SIG_DFL if handler is None else handler)
    if told:
        raise Stopped(told[0])


def say(line: str) -> None:
    """On stderr; the terminal may be what went away."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)  # noqa: T201
