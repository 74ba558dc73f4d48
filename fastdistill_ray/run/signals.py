"""Being told to stop: Ctrl-C, a closed terminal, Slurm, `docker stop`, `timeout`."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GOES_ON = "finished work is kept: the same command goes on from there"


class Stopped(BaseException):
    """A signal has ended what was going on; not an error, so no `except Exception` takes it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
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


def say(line: str) -> None:
    """On stderr; the terminal may be what went away."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)  # noqa: T201
