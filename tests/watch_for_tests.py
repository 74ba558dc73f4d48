"""Something looked at again and again, in a thread, while a test does its work."""

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def watching(look: Callable[[], None], seconds: float) -> Iterator[None]:
    """Calls `look` every so many seconds until the block ends."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(seconds):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
