"""One server, asked with patience: by teachers and by judges.

What costs nothing (no connection, 429, 5xx) is tried again until `give_up_after`; answers that
cannot be used, which cost money, a few times. One request that fails so ends with the reason; where
none is answered, or the server will not serve this user, nothing more is asked. The key is read
from the environment of this process and appears nowhere else. `HTTP_PROXY` and `NO_PROXY` count.
"""

import asyncio
import email.utils
import json
import os
import random
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp

from fastdistill_ray.digests import text_digest
from fastdistill_ray.endpoints.answer import (
    Answer,
    Pieces,
    UnusableError,
    parse,
    read_reply,
    read_stream,
    usage_of,
)
from fastdistill_ray.endpoints.knobs import ServerKnobs
from fastdistill_ray.endpoints.ledger import Ledger
from fastdistill_ray.errors import FailedError, UserError
from fastdistill_ray.storage.place import Place

T = TypeVar("T")

FIRST_WAIT, LONGEST_WAIT = 0.25, 60.0  # seconds between attempts
MAX_UNUSABLE = 5  # answers to one request
MAX_REFUSED = 8  # requests before the first that is answered: then it is the recipe
FIRST_ANSWER = 300.0  # seconds for which a refused one waits for the first answer
MAX_SHOWN = 300  # characters of a server's message
READ_BYTES = 2**20  # most of a line of a stream
REFUSALS = (400, 413, 422)  # of what a request says, or of who asks: the text tells
PASSING = (408, 409, 425, 429)  # and 5xx
# Of servers' texts about a request that is too long or not to be answered; and about an account.
ABOUT_REQUEST = re.compile(
    r"context.?(length|window)|max(imum)?.{0,40}tokens|too (long|large|many tokens)"
    r"|prompt.{0,20}long|content.?(filter|policy|management)|safety|moderation|invalid.?prompt|unsafe|flagged",
    re.IGNORECASE,
)
ABOUT_ACCOUNT = re.compile(
    r"credit|balance|billing|quota|payment|insufficient.?funds|suspend|deactivat", re.IGNORECASE
)


class GaveUpError(Exception):
    """Nothing more is asked; the text says why and what to do."""


class RefusedError(Exception):
    """The server will not answer this one request."""


class BusyError(Exception):
    """Come back after `wait` seconds."""

    def __init__(self, said: str, wait: float) -> None:
        super().__init__(said)
        self.wait = wait


class Client:
    """`who` is named in errors, `section` is where the recipe names the server."""

    def __init__(
        self,
        knobs: ServerKnobs,
        *,
        who: str,
        section: str,
        expected_tokens: int,  # of a request, until the first was answered
        paid: Place | None,  # folder of the ledger
    ) -> None:
        self.knobs, self.who, self.section = knobs, who, section
        self.slots = asyncio.Semaphore(knobs.max_concurrency)
        self.requests = Pace(knobs.requests_per_minute)
        self.tokens = Pace(knobs.tokens_per_minute)
        self.expected_tokens = float(expected_tokens)
        self.ledger = Ledger(paid, knobs)
        self.session: aiohttp.ClientSession | None = None
        self.failure = ""
        self.num_answered = 0
        self.trouble = ""  # the last failure, while nothing is answered after it
        self.not_answered: set[str] = set()  # digests of requests

    async def ask(self, body: dict[str, Any], read: Callable[[Answer], T]) -> T:
        """What `read` makes of an answer; it raises UnusableError where another is wanted.

        FailedError, RefusedError or GaveUpError say that none will come.
        """
        attempt = num_unusable = 0
        answered = self.num_answered
        failing_since, first = None, ""
        begun = time.monotonic()
        while True:
            try:
                return await self._attempt_in_turn(body, read)
            except RefusedError as error:
                if self.num_answered:
                    raise
                # It may be the server, or what all are asked with: none is refused for good.
                failure = self._failed(body, f"refuses every request: {error}")
                over = time.monotonic() - begun > min(FIRST_ANSWER, self.knobs.give_up_after)
                if over or isinstance(failure, GaveUpError):
                    raise failure from error
                attempt += 1
                await asyncio.sleep(backoff(attempt))
                continue
            except UnusableError as error:
                num_unusable += 1
                reason, wait = str(error), 0.0
            except (aiohttp.ClientError, TimeoutError, BusyError) as error:
                reason = f"{type(error).__name__}: {error}".strip(": ")
                wait = getattr(error, "wait", 0.0)
            attempt += 1
            self.trouble, first = self._without_key(reason), first or reason
            failing_since = failing_since or time.monotonic()
            left = failing_since + self.knobs.give_up_after - time.monotonic()
            if num_unusable >= MAX_UNUSABLE:
                raise self._failed(body, f"gave {num_unusable} unusable answers: {reason}")
            if left <= 0 or wait > left:
                said = (
                    f"gave no answer to {attempt} attempts ({self.section}.give_up_after: "
                    f"{self.knobs.give_up_after:g} s): {reason}"
                    + (f"; the first failed with {first}" if first != reason else "")
                )
                if self.num_answered > answered:  # it answers others
                    raise self._failed(body, said)
                raise self._give_up(said)
            self.requests.pause(wait)  # all wait, unless it is longer than anyone would
            await asyncio.sleep(max(wait, min(backoff(attempt), left)))

    async def close(self) -> None:
        self.ledger.sync()
        if self.session:
            await self.session.close()
            self.session = None

    async def _attempt_in_turn(self, body: dict[str, Any], read: Callable[[Answer], T]) -> T:
        async with self.slots:
            expected, used = self.expected_tokens, 0
            await self.requests.spend(1)
            await self.tokens.spend(expected)
            if self.failure:
                raise GaveUpError(self.failure)
            try:
                answer = await self._attempt(body)
                used = answer.num_tokens
                value = read(answer)
            finally:
                self.tokens.owe(used - expected)
            self.num_answered, self.trouble = self.num_answered + 1, ""
            self.expected_tokens += (used - self.expected_tokens) / 8
            return value

    async def _attempt(self, body: dict[str, Any]) -> Answer:
        if self.knobs.stream:
            body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        try:
            headers = key_header(self.knobs, self.section)
        except UserError as error:
            raise self._give_up(f"cannot be asked: {error}") from error
        url = f"{self.knobs.url}/chat/completions"
        try:
            async with self._session().post(
                url, json=body, headers=headers, allow_redirects=False
            ) as response:
                if response.status == 200:
                    return await self._read(response)
                said = await response.text(errors="replace")
        except aiohttp.ConnectionTimeoutError:
            raise  # nothing was sent
        except TimeoutError:
            self.ledger.note_untold("no answer in time")
            raise
        wait = retry_after(response.headers.get("Retry-After", ""))
        raise self._error_of(body, response.status, said, wait)

    async def _read(self, response: aiohttp.ClientResponse) -> Answer:
        """What comes with status 200 is paid for, usable or not."""
        pieces = Pieces()
        try:
            if response.content_type == "text/event-stream":
                await read_stream(response.content, pieces, self.knobs.timeout)
                reply = pieces.reply()
            else:
                reply = parse(await response.text(errors="replace"))
        except (aiohttp.ClientError, UnusableError) as error:
            if not isinstance(error, TimeoutError):  # is noted where all are
                self.ledger.note_untold(type(error).__name__)
            raise
        prompt, completion = usage_of(reply)
        if prompt is None or completion is None:
            self.ledger.note_untold("no usage")
        else:
            self.ledger.note(prompt, completion)
        return read_reply(reply)

    def _session(self) -> aiohttp.ClientSession:
        if self.session is None:
            seconds = self.knobs.timeout
            self.session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=60.0, sock_read=seconds)
                if self.knobs.stream
                else aiohttp.ClientTimeout(total=seconds),
                connector=aiohttp.TCPConnector(limit=self.knobs.max_concurrency),
                read_bufsize=READ_BYTES,
                trust_env=True,
            )
        return self.session

    def _error_of(self, body: dict[str, Any], status: int, text: str, wait: float) -> Exception:
        said = self._without_key(f"HTTP {status} {' '.join(text.split())[:MAX_SHOWN]}")
        if status in REFUSALS and ABOUT_ACCOUNT.search(text):
            return self._give_up(f"will not serve this account: {said}")
        if status in REFUSALS and ABOUT_REQUEST.search(text):
            return RefusedError(said)
        if status in REFUSALS:
            return self._failed(body, f"refuses the request: {said}")
        if status in PASSING or status >= 500:
            return BusyError(said, wait)
        return self._give_up(f"will not serve this recipe: {said}")

    def _without_key(self, text: str) -> str:
        key = os.environ.get(self.knobs.api_key_env, "")
        return text.replace(key, "***") if key else text

    def _failed(self, body: dict[str, Any], reason: str) -> FailedError | GaveUpError:
        """Of one request; of all, where none was answered yet and several others failed."""
        self.not_answered.add(text_digest([json.dumps(body, sort_keys=True)]))
        if not self.num_answered and len(self.not_answered) >= MAX_REFUSED:
            return self._give_up(reason)
        return FailedError(self._without_key(reason))

    def _give_up(self, reason: str) -> GaveUpError:
        """From now on nothing is asked."""
        said = self._without_key(f"{self.who} at {self.knobs.url} {reason}")
        self.failure = self.failure or said
        return GaveUpError(said)


class Pace:
    """Spends at most `per_minute` in any minute, evenly; 0: without limit."""

    def __init__(self, per_minute: int) -> None:
        self.seconds_each = 60.0 / per_minute if per_minute else 0.0
        self.free_at = 0.0

    async def spend(self, amount: float) -> None:
        """Wait for a turn, then use it up."""
        wait = self.free_at - time.monotonic()
        self.owe(amount)
        if wait > 0:
            await asyncio.sleep(wait)

    def owe(self, amount: float) -> None:
        """Later turns wait for what was used; a negative amount was not used after all."""
        self.free_at = max(self.free_at, time.monotonic()) + amount * self.seconds_each

    def pause(self, seconds: float) -> None:
        """No turn before then."""
        self.free_at = max(self.free_at, time.monotonic() + seconds)


def backoff(attempt: int) -> float:
    """Doubling seconds, spread so that many requests do not come back at once."""
    return min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)


def retry_after(header: str) -> float:
    """Seconds that a Retry-After header asks for, given as seconds or as a date; 0 without one."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def key_header(knobs: ServerKnobs, section: str) -> dict[str, str]:
    """UserError where the key is missing on this node."""
    if not knobs.api_key_env:
        return {}
    key = os.environ.get(knobs.api_key_env, "").strip()
    if not key:
        raise UserError(
            f"{section}.api_key_env: {knobs.api_key_env} is not set on this node; it holds the "
            f"server's key. `export {knobs.api_key_env}=...` in this terminal; on a cluster, "
            f"before Ray is started there, or hand it to a job by --env {knobs.api_key_env}"
        )
    return {"Authorization": f"Bearer {key}"}


def check_server(section: str, model_field: str, model: str, knobs: ServerKnobs) -> None:
    """The key is there, a server answers, takes the key, and knows the model if it lists any."""
    headers = key_header(knobs, section)
    try:
        status, text = asyncio.run(_list_models(knobs, headers))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise UserError(
            f"{section}.url: nothing answers at {knobs.url} ({type(error).__name__})"
        ) from error
    if status in (401, 403):
        asks = "asks for a key: name the variable that holds it (of `init` it is TEACHER_KEY)"
        said = "does not take this key" if knobs.api_key_env else asks
        raise UserError(f"{section}.api_key_env: {knobs.url} {said} (HTTP {status})")
    if status == 404 and not urlsplit(knobs.url).path:
        raise UserError(
            f"{section}.url: {knobs.url} has no /models (HTTP 404); the address goes up to and "
            f"with /v1, such as {knobs.url}/v1"
        )
    try:
        names = [item["id"] for item in json.loads(text)["data"]] if status == 200 else []
    except (ValueError, KeyError, TypeError):
        names = []
    if names and model not in names:
        raise UserError(
            f"{model_field}: {knobs.url} has no model {model}; it names {', '.join(names[:5])}"
        )


async def _list_models(knobs: ServerKnobs, headers: dict[str, str]) -> tuple[int, str]:
    timeout = aiohttp.ClientTimeout(total=30)
    async with (
        aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
        session.get(f"{knobs.url}/models", headers=headers, allow_redirects=False) as response,
    ):
        return response.status, await response.text(errors="replace")
