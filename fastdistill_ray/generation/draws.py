"""Which completions a request asks for, with which seed and temperature, and when it has enough."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Any, NamedTuple

from fastdistill_ray.endpoints.client import RefusedError
from fastdistill_ray.errors import FailedError
from fastdistill_ray.generation.knobs import SamplingKnobs
from fastdistill_ray.generation.outputs import NOTHING, RawCompletion, Reply
from fastdistill_ray.text import find_tags

CLOSING = "</answer>"


class Draw(NamedTuple):
    """Completions first, first + 1, ... of a problem, at one temperature and by one prompt."""

    first: int
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]  # hides tuple.count
    temperature: float
    prompt: int = 0  # 0: the row's own; else a place in its further ones, from 1


class Part(NamedTuple):
    """What an engine gives for one draw."""

    completions: list[RawCompletion]
    prompt_num_tokens: int
    cost: float = 0.0


Ask = Callable[[dict[str, Any], Draw], Awaitable[Part]]
CountCorrect = Callable[[dict[str, Any], list[RawCompletion]], int]  # of a request's completions


def draws(sampling: SamplingKnobs, done: int, num_prompts: int = 1) -> list[Draw]:
    """What is drawn next for a problem that has `done` completions; of each n in a row every prompt
    has as many as the others, up to one."""

    def how(k: int) -> tuple[float, int]:
        return sampling.temperature_of(k), k % sampling.n * num_prompts // sampling.n

    numbers = range(done, min(done + sampling.n, sampling.most))
    runs = (list(run) for _, run in groupby(numbers, key=how))
    return [Draw(run[0], len(run), *how(run[0])) for run in runs]


def as_asked(row: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """The row with the prompt of the draw."""
    return {**row, **row["others"][draw.prompt - 1]} if draw.prompt else row


class Begun(NamedTuple):
    """What came of a request before one of its draws failed."""

    reply: Reply = NOTHING  # completions up to the draw that failed
    ahead: Mapping[Draw, Part] = MappingProxyType({})  # those behind it


NOT_BEGUN = Begun()


class PartlyError(Exception):
    """A draw failed; `begun` is what to go on from."""

    def __init__(self, begun: Begun, reason: str) -> None:
        super().__init__(reason)
        self.begun = begun


async def reply_to(
    row: dict[str, Any],
    sampling: SamplingKnobs,
    ask: Ask,
    count_correct: CountCorrect,
    begun: Begun = NOT_BEGUN,
) -> Reply:
    """Draws n completions at a time until enough are correct or there are max_n; goes on from what
    was `begun`. PartlyError where an answer to a draw is not to be had."""
    begun_with, prompt_num_tokens, cost, _ = begun.reply
    done, ahead = [*begun_with], begun.ahead

    async def part_of(draw: Draw) -> Part:
        return ahead.get(draw) or await ask(as_asked(row, draw), draw)

    num_correct = 0
    if sampling.max_n and done:
        num_correct = await asyncio.to_thread(count_correct, row, done)
    while len(done) < sampling.most and not (sampling.max_n and num_correct >= sampling.enough):
        asked = draws(sampling, len(done), 1 + len(row.get("others") or ()))
        came = await asyncio.gather(*map(part_of, asked), return_exceptions=True)
        parts = {draw: one for draw, one in zip(asked, came, strict=True) if isinstance(one, Part)}
        cost += sum(part.cost for draw, part in parts.items() if draw not in ahead)
        prompt_num_tokens = next((p.prompt_num_tokens for p in parts.values()), prompt_num_tokens)
        is_last = any(isinstance(one, RefusedError) for one in came)
        is_last = is_last and not any(isinstance(one, FailedError) for one in came)
        found = [one for part in parts.values() for one in part.completions]
        found = found if is_last else _in_order(asked, came)
        fresh = [_with_closed_answer(one, sampling.stop) for one in found]
        done += fresh
        for failure in came:
            if done and isinstance(failure, RefusedError):
                return Reply(done, prompt_num_tokens, cost)  # paid for, and the others never come
            if isinstance(failure, FailedError):
                behind = {draw: part for draw, part in parts.items() if draw.first >= len(done)}
                raise PartlyError(Begun(Reply(done, prompt_num_tokens, cost), behind), str(failure))
            if isinstance(failure, BaseException):
                raise failure
        if sampling.max_n:
            num_correct += await asyncio.to_thread(count_correct, row, fresh)
    return Reply(done, prompt_num_tokens, cost)


def _with_closed_answer(completion: RawCompletion, stop: list[str]) -> RawCompletion:
    """A stop text that closes the answer block belongs to it; one that ended by itself has ids."""
    is_at_text = completion.finish_reason == "stop" and len(completion.token_ids) == 0
    if not is_at_text or CLOSING not in stop:
        return completion
    last = [tag for tag in find_tags(completion.text) if tag.name == "answer"][-1:]
    is_open = last and not last[0].is_closing
    return completion._replace(text=completion.text + CLOSING) if is_open else completion


def _in_order(asked: list[Draw], came: Sequence[Part | BaseException]) -> list[RawCompletion]:
    """Completions up to the first that did not come: the next one drawn has that one's seed."""
    found: list[RawCompletion] = []
    for draw, part in zip(asked, came, strict=True):
        if isinstance(part, BaseException):
            break
        found += part.completions
        if len(part.completions) < draw.count:
            break
    return found
