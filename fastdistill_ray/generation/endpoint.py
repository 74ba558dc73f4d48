"""A teacher behind OpenAI's chat completions: any server."""

import asyncio
from functools import partial
from typing import Any

import pyarrow as pa

from fastdistill_ray.endpoints.answer import Answer, UnusableError
from fastdistill_ray.endpoints.client import Client, GaveUpError, RefusedError
from fastdistill_ray.errors import FailedError, UserError
from fastdistill_ray.generation.draws import (
    NOT_BEGUN,
    Begun,
    CountCorrect,
    Draw,
    Part,
    PartlyError,
    reply_to,
)
from fastdistill_ray.generation.knobs import EndpointKnobs, EngineSpec
from fastdistill_ray.generation.outputs import (
    NO_IDS,
    RawCompletion,
    Reply,
    with_completions,
)


class EndpointEngine:
    """Ray Data UDF over request rows."""

    def __init__(self, spec: EngineSpec, count_correct: CountCorrect) -> None:
        self.spec = spec
        assert isinstance(spec.engine, EndpointKnobs)
        self.knobs = spec.engine
        self.count_correct = count_correct
        self.client = Client(
            self.knobs,
            who=f"teacher {spec.model}",
            section="engine",
            expected_tokens=spec.sampling.n * spec.sampling.max_new_tokens,
            paid=spec.paid,
        )
        self.running = 0  # batches; once there is none, all that was paid is durable
        self.begun: dict[str, Begun] = {}  # of problems that failed after some completions came

    @property
    def num_answered(self) -> int:
        """Requests, of which a problem may need several."""
        return self.client.num_answered

    @property
    def trouble(self) -> str:
        """Why its server does not answer now, if so."""
        return self.client.trouble

    async def __call__(self, batch: pa.Table) -> pa.Table:
        self.running += 1
        try:
            answers = await asyncio.gather(*(self._answer(row) for row in batch.to_pylist()))
        finally:
            self.running -= 1
            if not self.running:
                self.client.ledger.sync()
        return with_completions(batch, answers, self.spec.model)

    async def _answer(self, row: dict[str, Any]) -> Reply:
        """No completions where the server refuses this problem; UserError where it is given up."""
        key = row["problem_id"]
        try:
            begun = self.begun.pop(key, NOT_BEGUN)
            return await reply_to(row, self.spec.sampling, self._ask, self.count_correct, begun)
        except RefusedError:
            return Reply([], 0)
        except PartlyError as error:
            self.begun[key] = error.begun
            cost = error.begun.reply.cost
            paid = f" ({cost:.4f} is paid)" if cost else ""
            return Reply([], 0, failure=f"{error}{paid}")
        except GaveUpError as error:
            raise UserError(str(error)) from error

    async def _ask(self, row: dict[str, Any], draw: Draw) -> Part:
        """The draw's completions; a server that gives fewer than asked is asked for the rest."""
        completions: list[RawCompletion] = []
        prompt_tokens, cost = 0, 0.0
        while len(completions) < draw.count:
            done = len(completions)
            rest = Draw(draw.first + done, draw.count - done, draw.temperature)
            seed = row["seed"] + rest.first
            body = request_body(row, rest, seed, self.spec)
            try:
                part = await self.client.ask(body, partial(self._read, first_seed=seed))
            except (FailedError, RefusedError):
                if completions:
                    break  # the rest is asked for next
                raise
            completions += part.completions[: rest.count]
            prompt_tokens = prompt_tokens or part.prompt_num_tokens
            cost += part.cost
        return Part(completions, prompt_tokens, cost)

    def _read(self, answer: Answer, first_seed: int) -> Part:
        """UnusableError where the server does not tell how many tokens it wrote."""
        if answer.prompt_tokens is None or answer.completion_tokens is None:
            raise UnusableError("no usage in it")
        if not all(choice.finish_reason for choice in answer.choices):
            raise UnusableError("a choice without a finish_reason")
        cost = self.knobs.cost(answer.prompt_tokens, answer.completion_tokens)
        return Part(raw_completions(answer, first_seed), answer.prompt_tokens, cost)


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


def raw_completions(answer: Answer, first_seed: int) -> list[RawCompletion]:
    """The server counts tokens of all choices together: each gets its part by length of text."""
    lengths = [len(choice.text.encode()) + 1 for choice in answer.choices]
    ends = [0]
    for length in lengths:
        ends.append(ends[-1] + length)
    shares = [end * (answer.completion_tokens or 0) // ends[-1] for end in ends]
    return [
        RawCompletion(
            choice.text,
            NO_IDS,
            choice.finish_reason if choice.finish_reason in ("stop", "length") else "abort",
            shares[k + 1] - shares[k],
            first_seed + k,
        )
        for k, choice in enumerate(answer.choices)
    ]
