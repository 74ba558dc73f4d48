"""Ray's client of jobs, with an end to its patience."""

from typing import Any

import aiohttp
from ray.exceptions import RayError
from ray.job_submission import JobSubmissionClient

# What a head raises that is away, shutting down or not ours to ask (a wrong token is a RayError).
NOT_ANSWERING = (OSError, RuntimeError, ValueError, RayError, aiohttp.ClientError)


class Dashboard(JobSubmissionClient):
    """Each request ends after `seconds`; Ray's own wait for ever."""

    def __init__(self, address: str, seconds: float = 30.0) -> None:
        self._seconds = seconds
        super().__init__(address)

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, timeout=self._seconds, **options)
