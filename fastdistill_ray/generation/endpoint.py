"""A teacher behind OpenAI's chat completions: any server, asked with patience.

What costs nothing (no connection, 429, 5xx) is tried again until `give_up_after`; answers that
cannot be used, which cost money, a few times. One request that fails so comes back with the reason,
to be asked again or set aside; where none is answered, or the server will not serve this user,
nothing more is asked. The key is read from the environment of the actor and appears nowhere else.
"""

import asyncio
import email.utils
import json
import os
import random
import re
import time
from typing import Any

import aiohttp
import pyarrow as pa

from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.draws import CountCorrect, Draw, Part, PartlyError, reply_to
from fastdistill_ray.generation.knobs import EndpointKnobs, EngineSpec
from fastdistill_ray.generation.outputs import (
    NO_IDS,
    NOTHING,
    FailedError,
    RawCompletion,
    Reply,
    with_completions,
)

FIRST_WAIT, LONGEST_WAIT = 0.25, 60.0  # seconds between attempts
MAX_UNUSABLE = 5  # answers to one request
MAX_REFUSED = 8  # problems before the first that is answered: then it is the recipe
MAX_SHOWN = 300  # characters of a server's message
REFUSALS = (400, 413, 422)  # of what a request says, or of who asks: the text tells
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
    """The run cannot go on; the text says why and what to do."""


class RefusedError(Exception):
    """The server will not answer this one problem."""


class UnusableError(Exception):
    """An answer came and cannot be used."""


class BusyError(Exception):
    """Come back after `wait` seconds."""

    def __init__(self, said: str, wait: float) -> None:
        super().__init__(said)
        self.wait = wait


class EndpointEngine:
    """Ray Data UDF over request rows."""

    def __init__(self, spec: EngineSpec, count_correct: CountCorrect) -> None:
        self.spec = spec
        assert isinstance(spec.engine, EndpointKnobs)
        self.knobs = spec.engine
        self.count_correct = count_correct
        self.slots = asyncio.Semaphore(self.knobs.max_concurrency)
        self.requests = Pace(self.knobs.requests_per_minute)
        self.tokens = Pace(self.knobs.tokens_per_minute)
        self.expected_tokens = float(spec.sampling.n * spec.sampling.max_new_tokens)
        self.session: aiohttp.ClientSession | None = None
        self.failure = ""
        self.num_answered = self.num_failed = 0
        self.begun: dict[str, Reply] = {}  # of problems that failed after some completions came

    async def __call__(self, batch: pa.Table) -> pa.Table:
        answers = await asyncio.gather(*(self._answer(row) for row in batch.to_pylist()))
        return with_completions(batch, answers, self.spec.model)

    async def _answer(self, row: dict[str, Any]) -> Reply:
        """No completions where the server refuses this problem; UserError where it is given up."""
        key = row["problem_id"]
        try:
            begun = self.begun.pop(key, NOTHING)
            return await reply_to(row, self.spec.sampling, self._ask, self.count_correct, begun)
        except RefusedError:
            return Reply([], 0)
        except PartlyError as error:
            self.begun[key] = error.begun
            paid = f" ({error.begun.cost:.4f} is paid)" if error.begun.cost else ""
            return Reply([], 0, failure=f"{error}{paid}")
        except GaveUpError as error:
            raise UserError(self.failure) from error

    async def _ask(self, row: dict[str, Any], draw: Draw) -> Part:
        """The draw's completions; a server that gives fewer than asked is asked for the rest."""
        completions: list[RawCompletion] = []
        prompt_tokens, cost = 0, 0.0
        while len(completions) < draw.count:
            done = len(completions)
            rest = Draw(draw.first + done, draw.count - done, draw.temperature)
            seed = row["seed"] + rest.first
            try:
                reply = await self._request(request_body(row, rest, seed, self.spec))
            except FailedError:
                if completions:
                    break  # the rest is asked for next
                raise
            texts, usage = read_reply(reply)
            completions += raw_completions(texts[: rest.count], usage["completion_tokens"], seed)
            prompt_tokens = prompt_tokens or usage["prompt_tokens"]
            cost += (
                usage["prompt_tokens"] * self.knobs.price_prompt
                + usage["completion_tokens"] * self.knobs.price_completion
            ) / 1e6
        return Part(completions, prompt_tokens, cost)

    async def _request(self, body: dict[str, Any]) -> dict[str, Any]:
        """Until there is a usable answer; FailedError, RefusedError or GaveUpError say that none
        will be."""
        attempt = num_unusable = 0
        answered = self.num_answered
        failing_since = None
        while True:
            try:
                return await self._attempt_in_turn(body)
            except UnusableError as error:
                num_unusable += 1
                reason, wait = str(error), 0.0
            except (aiohttp.ClientError, TimeoutError, BusyError) as error:
                reason = f"{type(error).__name__}: {error}".strip(": ")
                wait = getattr(error, "wait", 0.0)
                self.requests.pause(wait)
            attempt += 1
            failing_since = failing_since or time.monotonic()
            left = failing_since + self.knobs.give_up_after - time.monotonic()
            if num_unusable >= MAX_UNUSABLE:
                raise self._failed(f"gave {num_unusable} unusable answers: {reason}")
            if left <= 0 or wait > left:
                said = (
                    f"gave no answer to {attempt} attempts (engine.give_up_after: "
                    f"{self.knobs.give_up_after:g} s): {reason}"
                )
                if self.num_answered > answered:  # it answers others
                    raise self._failed(said)
                raise self._give_up(said)
            await asyncio.sleep(max(wait, min(backoff(attempt), left)))

    async def _attempt_in_turn(self, body: dict[str, Any]) -> dict[str, Any]:
        async with self.slots:
            expected, used = self.expected_tokens, 0
            await self.requests.spend(1)
            await self.tokens.spend(expected)
            if self.failure:
                raise GaveUpError
            try:
                reply = await self._attempt(body)
                used = sum(read_reply(reply)[1].values())
            except RefusedError as error:
                self.num_failed += 1
                if self.num_answered or self.num_failed < MAX_REFUSED:
                    raise
                raise self._give_up(f"refuses every request: {error}") from error
            finally:
                self.tokens.owe(used - expected)
            self.num_answered += 1
            self.expected_tokens += (used - self.expected_tokens) / 8
            return reply

    async def _attempt(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.session is None:
            timeout = aiohttp.ClientTimeout(total=self.knobs.timeout)
            connector = aiohttp.TCPConnector(limit=self.knobs.max_concurrency)
            self.session = aiohttp.ClientSession(
                timeout=timeout, connector=connector, trust_env=True
            )
        try:
            headers = key_header(self.knobs)
        except ValueError as error:
            raise self._give_up(f"cannot be asked: {error}") from error
        url = f"{self.knobs.url.rstrip('/')}/chat/completions"
        async with self.session.post(
            url, json=body, headers=headers, allow_redirects=False
        ) as response:
            text = await response.text(errors="replace")
            if response.status == 200:
                return parse(text)
            said = self._without_key(f"HTTP {response.status} {' '.join(text.split())[:MAX_SHOWN]}")
            if response.status in REFUSALS and ABOUT_ACCOUNT.search(text):
                raise self._give_up(f"will not serve this account: {said}")
            if response.status in REFUSALS and ABOUT_REQUEST.search(text):
                raise RefusedError(said)
            if response.status in REFUSALS:
                raise self._failed(f"refuses the request: {said}")
            if response.status in (408, 409, 425, 429) or response.status >= 500:
                raise BusyError(said, retry_after(response.headers.get("Retry-After", "")))
            raise self._give_up(f"will not serve this recipe: {said}")

    def _without_key(self, text: str) -> str:
        key = os.environ.get(self.knobs.api_key_env, "")
        return text.replace(key, "***") if key else text

    def _failed(self, reason: str) -> FailedError | GaveUpError:
        """Of one request; of all, where none was answered yet and several failed."""
        self.num_failed += 1
        if not self.num_answered and self.num_failed >= MAX_REFUSED:
            return self._give_up(reason)
        return FailedError(self._without_key(reason))

    def _give_up(self, reason: str) -> GaveUpError:
        """From now on nothing is asked."""
        said = self._without_key(f"teacher {self.spec.model} at {self.knobs.url} {reason}")
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


def request_body(row: dict[str, Any], draw: Draw, seed: int, spec: EngineSpec) -> dict[str, Any]:
    """Fields outside OpenAI's own (top_k, min_p) are sent only where the recipe sets them."""
    assert isinstance(spec.engine, EndpointKnobs)
    sampling = spec.sampling
    body = {
        "model": spec.model,
        "messages": row["messages"],
        "n": draw.count,
        "temperature": draw.temperature,
        "top_p": sampling.top_p,
        spec.engine.length_field: sampling.max_new_tokens,
    }
    if draw.temperature > 0 and spec.engine.send_seed:
        body["seed"] = seed
    for name, value in (
        ("stop", sampling.stop),
        ("top_k", sampling.top_k),
        ("min_p", sampling.min_p),
    ):
        if value:
            body[name] = value
    return {**body, **spec.engine.extra}


def parse(text: str) -> dict[str, Any]:
    try:
        reply = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableError(f"not JSON: {' '.join(text.split())[:80]!r}") from error
    if not isinstance(reply, dict):
        raise UnusableError(f"not a JSON object: {text[:80]!r}")
    return reply


def read_reply(reply: dict[str, Any]) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """(text and finish reason of each choice, tokens used); UnusableError when anything lacks."""
    try:
        choices = sorted(reply["choices"], key=lambda choice: choice.get("index", 0))
        texts = [(choice_text(one["message"]), one["finish_reason"] + "") for one in choices]
        names = ("prompt_tokens", "completion_tokens")
        usage = {name: int(reply["usage"][name]) for name in names}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnusableError(f"no choices or usage in it: {str(reply)[:80]}") from error
    if not texts:
        raise UnusableError("an empty list of choices")
    return texts, usage


def choice_text(message: dict[str, Any]) -> str:
    """Reasoning that a server keeps apart stands between tags in front, as the model wrote it."""
    content = message["content"] or ""
    if not isinstance(content, str):
        raise TypeError(content)
    thought = message.get("reasoning_content") or message.get("reasoning")
    return f"<think>{thought}</think>\n{content}" if thought else content


def raw_completions(
    texts: list[tuple[str, str]], num_tokens: int, first_seed: int
) -> list[RawCompletion]:
    """The server counts tokens of all choices together: each gets its part by length of text."""
    lengths = [len(text.encode()) + 1 for text, _ in texts]
    ends = [0]
    for length in lengths:
        ends.append(ends[-1] + length)
    shares = [end * num_tokens // ends[-1] for end in ends]
    return [
        RawCompletion(
            text,
            NO_IDS,
            finish if finish in ("stop", "length") else "abort",
            shares[k + 1] - shares[k],
            first_seed + k,
        )
        for k, (text, finish) in enumerate(texts)
    ]


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


def key_header(knobs: EndpointKnobs) -> dict[str, str]:
    """UserError where the key is missing on this node."""
    if not knobs.api_key_env:
        return {}
    key = os.environ.get(knobs.api_key_env, "").strip()
    if not key:
        raise UserError(
            f"engine.api_key_env: {knobs.api_key_env} is not set on this node; set it where Ray is "
            "started"
        )
    return {"Authorization": f"Bearer {key}"}


def check_endpoint(section: str, model: str, knobs: EndpointKnobs) -> None:
    """The key is there, a server answers, takes the key, and knows the model if it lists any."""
    try:
        headers = key_header(knobs)
    except ValueError as error:
        raise UserError(f"{section}.{error}") from error
    try:
        status, text = asyncio.run(_list_models(knobs, headers))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise UserError(
            f"{section}.engine.url: nothing answers at {knobs.url} ({type(error).__name__})"
        ) from error
    if status in (401, 403):
        raise UserError(
            f"{section}.engine.api_key_env: {knobs.url} does not take this key (HTTP {status})"
        )
    try:
        names = [item["id"] for item in json.loads(text)["data"]] if status == 200 else []
    except (ValueError, KeyError, TypeError):
        names = []
    if names and model not in names:
        raise UserError(
            f"{section}.model: {knobs.url} has no model {model}; it names {', '.join(names[:5])}"
        )


async def _list_models(knobs: EndpointKnobs, headers: dict[str, str]) -> tuple[int, str]:
    timeout = aiohttp.ClientTimeout(total=30)
    url = f"{knobs.url.rstrip('/')}/models"
    async with (
        aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
        session.get(url, headers=headers, allow_redirects=False) as response,
    ):
        return response.status, await response.text(errors="replace")
