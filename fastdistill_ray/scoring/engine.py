"""Prompts and completions -> signals: a vLLM engine that reads, and the model's head beside it.

vLLM's pooling runner gives the hidden state of every token after the final norm, without logits and
without decoding. The head is ours (`training/frozen.py`), so that signals are made as a live
teacher's distributions are. A group's prompt is read once: its other completions find it in the
prefix cache, and then only the rows that were computed come back.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import torch

from fastdistill_ray.errors import FailedError
from fastdistill_ray.generation.knobs import EngineKnobs
from fastdistill_ray.generation.outputs import EngineDiedError
from fastdistill_ray.generation.vllm_engine import engine_arguments
from fastdistill_ray.groups.signals import Signal, Spoken, schema_of, to_table
from fastdistill_ray.models import fetch_model
from fastdistill_ray.scoring.measure import measured
from fastdistill_ray.training.frozen import FrozenHead, build_head
from fastdistill_ray.training.trust import Apart, check_same

TASK = "token_embed"  # vLLM's name for a vector of every token
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
FAILURE = pa.field("failure", pa.string())
NUM_REPEATED = 2  # texts of an actor's first group that are asked about twice


class ScoringSpec(NamedTuple):
    """What a scorer's actor loads and what it says of each token."""

    field: str  # of the recipe, where the model stands
    model: str  # reference; each actor fetches it for its own node
    engine: EngineKnobs
    signal: Signal
    vocabulary: int  # tokens that have a row in both heads


class Reads(Protocol):
    """Gives states of the last tokens, [T, E]: of those that are not in a cache."""

    async def __call__(self, ids: list[int], *, from_cache: bool) -> torch.Tensor: ...


class Reader:
    """An AsyncLLM of vLLM's pooling runner with the recipe's arguments."""

    def __init__(self, model: str, knobs: EngineKnobs) -> None:
        arguments = engine_arguments(model, knobs)
        from vllm import AsyncEngineArgs
        from vllm.config import PoolerConfig
        from vllm.v1.engine.async_llm import AsyncLLM

        # Rows come normalised to length 1 unless both the pooler and the request say no.
        pooler = PoolerConfig(task=TASK, tok_pooling_type="ALL", use_activation=False)
        reading = {"runner": "pooling", "convert": "embed", "pooler_config": pooler}
        self.engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**{**arguments, **reading}))

    async def __call__(self, ids: list[int], *, from_cache: bool) -> torch.Tensor:
        from vllm import PoolingParams
        from vllm.v1.engine.exceptions import EngineDeadError

        parameters = PoolingParams(
            task=TASK, use_activation=False, skip_reading_prefix_cache=not from_cache
        )
        final = None
        try:
            async for output in self.engine.encode(
                {"prompt_token_ids": ids}, parameters, os.urandom(8).hex()
            ):
                final = output
        except EngineDeadError as error:
            raise EngineDiedError(f"{type(error).__name__}: {error}") from error
        except ValueError as error:  # what vLLM does not take
            raise FailedError(f"vLLM refuses it: {error}") from error
        assert final is not None
        return final.outputs.data


class ScoringEngine:
    """Ray Data UDF over rows of SCORE_SCHEMA: -> rows of `schema_of` the signal, and `failure`.

    Nothing is said before the first group has shown that the model can be trusted with texts;
    UserError where it cannot.
    """

    def __init__(
        self, spec: ScoringSpec, start: Callable[[str, EngineKnobs], Reads] = Reader
    ) -> None:
        """`start` is given the model's folder."""
        self.spec = spec
        self.folder = fetch_model(spec.model)
        self.read = start(self.folder, spec.engine)
        self.schema = schema_of(spec.signal, spec.vocabulary)
        self.head = None if spec.signal.kind == "hidden" else self._head()
        self.measuring: asyncio.Lock | None = None  # logits of one group at a time
        self.trusted: asyncio.Future[None] | None = None

    async def __call__(self, batch: pa.Table) -> pa.Table:
        self.measuring = self.measuring or asyncio.Lock()
        rows = await asyncio.gather(*(self._said_of(row) for row in batch.to_pylist()))
        said = [row for row in rows if isinstance(row, Spoken)]
        failures = [row for row in rows if isinstance(row, str)]
        table = to_table(said, self.schema).append_column(
            FAILURE, pa.array([""] * len(said), pa.string())
        )
        if failures:
            nothing = pa.nulls(len(failures), pa.struct(list(self.schema)))
            failed = pa.Table.from_struct_array(nothing).append_column(FAILURE, [failures])
            return pa.concat_tables([table, failed])
        return table

    async def _said_of(self, row: dict[str, Any]) -> Spoken | str:
        prompt, texts = row["prompt_token_ids"], row["token_ids"]
        longest = max(len(prompt) + len(ids) - 1 for ids in texts)
        if longest > self.spec.engine.max_model_len:
            return (
                f"prompt and completion have {longest} tokens, more than the scorer's "
                f"engine.max_model_len = {self.spec.engine.max_model_len}"
            )
        try:
            states = await asyncio.gather(*(self._states(prompt, ids) for ids in texts))
            self.trusted = self.trusted or asyncio.ensure_future(self._check(row, states))
            await self.trusted
        except FailedError as error:
            return str(error)
        ids = torch.from_numpy(np.concatenate(texts).astype(np.int64))
        assert self.measuring
        async with self.measuring:
            arrays = await asyncio.to_thread(
                measured, self.spec.signal, torch.cat(states), ids, self.head, row["seed"]
            )
        return Spoken(row["problem_id"], row["places"], texts, len(prompt), arrays)

    async def _states(self, prompt: list[int], ids: list[int]) -> torch.Tensor:
        """[T, E]: row t is what token t is predicted from."""
        asked = prompt + ids[:-1]
        states = await self.read(asked, from_cache=True)
        # A completion that begins like another is cached beyond its prompt.
        if len(states) < len(ids):
            states = await self.read(asked, from_cache=False)
        return states[-len(ids) :]

    async def _check(self, row: dict[str, Any], states: list[torch.Tensor]) -> None:
        """UserError where the first group's texts, alone and not from the cache, give other states,
        or tokens that the scorer wrote are not as likely to it as then."""
        who = f"{self.spec.field} {self.spec.model}"
        prompt, texts = row["prompt_token_ids"], row["token_ids"]
        for ids, found in list(zip(texts, states, strict=True))[:NUM_REPEATED]:
            again = await self.read(prompt + ids[:-1], from_cache=False)
            check_same(who, self.spec.engine.dtype, found, again[-len(ids) :])
        scored, written = [], []
        head = self.head or self._head() if any(row["written"]) else None
        for ids, found, drawn in zip(texts, states, row["written"], strict=True):
            if drawn:
                labels = torch.tensor(ids[: len(drawn)])
                said = measured(Signal("chosen"), found[: len(drawn)], labels, head, row["seed"])
                scored += said["values"].tolist()
                written += drawn
        Apart.of(np.array(written), np.array(scored)).check(who)

    def _head(self) -> FrozenHead:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = DTYPES[self.spec.engine.dtype]
        return build_head(self.folder, self.spec.vocabulary, device, dtype)
