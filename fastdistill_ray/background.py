"""Work beside the work: a function that a thread calls again and again."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def repeated(function: Callable[[], object], seconds: float) -> Iterator[None]:
    """Calls it that long after the block began or the last call ended, until the block ends; also
    after a call that failed, such as of a bucket that is away for a moment."""
    over = threading.Event()

    def call() -> None:
        while not over.wait(seconds):
            try:
                function()
            except Exception:
                logger.warning("%s failed and is tried again", function, exc_info=True)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
