"""Which completions a request asks for, with which seed and temperature, and when it has enough."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import groupby
from typing import Any, NamedTuple

from fastdistill_ray.generation.knobs import SamplingKnobs
from fastdistill_ray.generation.outputs import RawCompletion, Reply


class Draw(NamedTuple):
    """Completions first, first + 1, ... of a problem, at one temperature."""

    first: int
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]  # hides tuple.count
    temperature: float


class Part(NamedTuple):
    """What an engine gives for one draw."""

    completions: list[RawCompletion]
    prompt_num_tokens: int
    cost: float = 0.0


Ask = Callable[[dict[str, Any], Draw], Awaitable[Part]]
CountCorrect = Callable[[dict[str, Any], list[RawCompletion]], int]  # of a request's completions


def draws(sampling: SamplingKnobs, done: int) -> list[Draw]:
    """What is drawn next for a problem that has `done` completions."""
    numbers = range(done, min(done + sampling.n, sampling.most))
    runs = (list(run) for _, run in groupby(numbers, key=sampling.temperature_of))
    return [Draw(run[0], len(run), sampling.temperature_of(run[0])) for run in runs]


async def reply_to(
    row: dict[str, Any], sampling: SamplingKnobs, ask: Ask, count_correct: CountCorrect
) -> Reply:
    """Draws n completions at a time until enough are correct or there are max_n."""
    done: list[RawCompletion] = []
    parts: list[Part] = []
    num_correct = 0
    while len(done) < sampling.most:
        new = await asyncio.gather(*(ask(row, draw) for draw in draws(sampling, len(done))))
        parts += new
        fresh = [one for part in new for one in part.completions]
        done += fresh
        if sampling.max_n:
            num_correct += await asyncio.to_thread(count_correct, row, fresh)
            if num_correct >= sampling.enough:
                break
    return Reply(done, parts[0].prompt_num_tokens, sum(part.cost for part in parts))
