"""What a job writes, as it writes it, over a connection that may be lost."""

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable

from ray.job_submission import JobDetails

from fastdistill_ray.cluster.dashboard import NOT_ANSWERING, Dashboard
from fastdistill_ray.progress import Screen
from fastdistill_ray.run.signals import Stopped, say

# Without a word for so long, a connection may be dead and is compared with the log; on this machine
# it is not, but Ray takes seconds to end it after the job.
SILENCE_SECONDS, SILENCE_SECONDS_HERE = 60.0, 1.0
GIVE_UP_SECONDS = 300.0
# It tells of each end of a connection.
logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)


class JobLog:
    """The log of a job, printed once: Ray sends it from its beginning on each connection."""

    def __init__(
        self, client: Dashboard, job: str, printed: int = 0, is_here: bool = False
    ) -> None:
        self.client, self.job, self.is_here = client, job, is_here
        self.printed = printed  # characters, what was there before this process included
        self.screen = Screen(sys.stdout)

    def follow(
        self, is_alive: Callable[[], bool] = lambda: True, patience: float = GIVE_UP_SECONDS
    ) -> JobDetails | None:
        """Prints until the job ends; -> what Ray says of it, or None when the dashboard has not
        answered for `patience` seconds or its head is not alive."""
        try:
            return self._follow(is_alive, patience)
        finally:
            self.screen.end()

    def _follow(self, is_alive: Callable[[], bool], patience: float) -> JobDetails | None:
        lost_since = None
        while True:
            asyncio.run(self._print_from_one_connection())
            details = self._details()
            if details and details.status.is_terminal():
                self._print_rest()
                return details
            if details:
                lost_since = None
            elif not is_alive():
                return None
            elif lost_since is None:
                lost_since = time.monotonic()
                if not self.is_here:
                    say("the Ray dashboard does not answer; trying again")
            elif time.monotonic() - lost_since > patience:
                return None
            time.sleep(1.0)

    async def _print_from_one_connection(self) -> None:
        """Until it ends, is lost or says nothing while the log grows."""
        chunks, received = self.client.tail_job_logs(self.job), 0
        while chunk := await self._next(chunks):
            received += len(chunk)
            self._print(chunk, received)

    async def _next(self, chunks: AsyncIterator[str]) -> str:
        """ "" at the end, whatever made it end."""
        silence = SILENCE_SECONDS_HERE if self.is_here else SILENCE_SECONDS
        waiting = asyncio.create_task(_first(chunks))
        try:
            while not (await asyncio.wait({waiting}, timeout=silence))[0]:
                if self._has_missed_something():
                    waiting.cancel()
            return await waiting
        except (*NOT_ANSWERING, asyncio.CancelledError):
            return ""

    def _has_missed_something(self) -> bool:
        """Also when nobody answers: a new connection is to show it."""
        details = self._details()
        if details is None or details.status.is_terminal():
            return True
        if self.is_here:
            return False
        with contextlib.suppress(*NOT_ANSWERING):
            return len(self.client.get_job_logs(self.job)) > self.printed
        return True

    def _print(self, chunk: str, received: int) -> None:
        """What of the chunk that ends with that many characters was not printed yet."""
        new = received - self.printed
        if new <= 0:
            return
        try:
            self.screen.write(chunk[-new:])
        except OSError:  # nobody reads: `| head` has ended, a terminal was closed
            raise Stopped(signal.SIGPIPE) from None
        self.printed = received

    def _print_rest(self) -> None:
        """A connection can end before all of a finished job's log has come."""
        with contextlib.suppress(*NOT_ANSWERING):
            log = self.client.get_job_logs(self.job)
            self._print(log, len(log))

    def _details(self) -> JobDetails | None:
        try:
            return self.client.get_job_info(self.job)
        except NOT_ANSWERING:
            return None


async def _first(chunks: AsyncIterator[str]) -> str:
    return await anext(chunks, "")
