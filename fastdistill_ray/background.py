"""Work beside the work: a function that a thread calls again and again."""

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def repeated(function: Callable[[], object], seconds: float) -> Iterator[None]:
    """Calls it that long after the block began or the last call ended, until the block ends."""
    over = threading.Event()

    def call() -> None:
        while not over.wait(seconds):
            function()

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
