"""A vLLM engine in a Ray actor: many requests in flight, n completions share a prompt's KV."""

import asyncio
import os
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from fastdistill_ray.errors import FailedError
from fastdistill_ray.generation.draws import CountCorrect, Draw, Part, PartlyError, reply_to
from fastdistill_ray.generation.knobs import LOOP_TOKENS, EngineSpec
from fastdistill_ray.generation.outputs import (
    NO_IDS,
    EngineDiedError,
    RawCompletion,
    Reply,
    with_completions,
)
from fastdistill_ray.models import fetch_model, tokenizer_of

RELOAD_COLUMN = "weights"
# Classes that vLLM imports in its own processes, by name.
EXECUTOR = "fastdistill_ray.generation.vllm_executor.PatientExecutor"
EXCHANGE = "fastdistill_ray.generation.vllm_exchange.Exchange"


class VLLMEngine:
    """Ray Data UDF over request rows. Rows may name other weights of the same architecture in the
    column `weights`: the actor finishes what runs, loads them in place, and goes on."""

    def __init__(self, spec: EngineSpec, count_correct: CountCorrect) -> None:
        self.spec = spec
        self.engine = start_engine(fetch_model(spec.model), spec.engine)
        self.count_correct = count_correct
        self.weights = spec.model
        self.running = 0
        self.turn: asyncio.Condition | None = None

    async def __call__(self, batch: pa.Table) -> pa.Table:
        if self.turn is None:
            self.turn = asyncio.Condition()
        answers: list[Reply] = []
        for weights, rows in groupby(batch.to_pylist(), self._weights_of):
            await self._take_turn(weights)
            asked = [self._answer(row) for row in rows]
            try:
                answers += await asyncio.gather(*asked)
            finally:
                async with self.turn:
                    self.running -= 1
                    self.turn.notify_all()
        return with_completions(batch, answers, self.spec.model)

    async def _answer(self, row: dict[str, Any]) -> Reply:
        try:
            return await reply_to(row, self.spec.sampling, self._ask, self.count_correct)
        except PartlyError as error:
            return Reply([], 0, failure=str(error))

    def _weights_of(self, row: dict[str, Any]) -> str:
        return row.get(RELOAD_COLUMN) or self.spec.model

    async def _take_turn(self, weights: str) -> None:
        """Wait until the engine holds these weights, loading them when nothing else runs."""
        assert self.turn is not None
        async with self.turn:
            await self.turn.wait_for(lambda: self.weights == weights or self.running == 0)
            if self.weights != weights:
                self.weights = ""  # unknown until all is exchanged
                await self.engine.collective_rpc("exchange_weights", args=(fetch_model(weights),))
                # Raises where a block of the old weights would stay; by default it goes on then.
                await self.engine.reset_prefix_cache(reset_running_requests=True)
                self.weights = weights
            self.running += 1

    async def _ask(self, row: dict[str, Any], draw: Draw) -> Part:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        sampling = self.spec.sampling
        seed = row["seed"] + draw.first
        parameters = SamplingParams(
            n=draw.count,
            temperature=draw.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            stop=sampling.stop,
            stop_token_ids=[] if row["end_id"] is None else [row["end_id"]],
            max_tokens=sampling.max_new_tokens,
            repetition_detection=loop_detection(sampling.loop_repeats),
            seed=seed if draw.temperature > 0 else None,
            logprobs=sampling.logprobs or None,
            flat_logprobs=True,
            # Otherwise it decodes every likely token of every position, ten times the cost.
            detokenize=not sampling.logprobs,
            # Otherwise the last output holds only the completions of the last engine step.
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = {"prompt_token_ids": row["prompt_token_ids"]}
        final = None
        try:
            async for output in self.engine.generate(prompt, parameters, os.urandom(8).hex()):
                final = output
        except EngineDeadError as error:
            raise EngineDiedError(f"{type(error).__name__}: {error}") from error
        except ValueError as error:  # what vLLM does not take, such as an empty prompt
            raise FailedError(f"vLLM refuses it: {error}") from error
        assert final is not None and len(final.outputs) == draw.count
        outputs = sorted(final.outputs, key=lambda output: output.index)
        written = [
            self._completion(output, row["opening"], seed + k) for k, output in enumerate(outputs)
        ]
        return Part(written, len(row["prompt_token_ids"]))

    def _completion(self, output: Any, opening: str, seed: int) -> RawCompletion:
        token_ids = np.array(output.token_ids, dtype=np.int32)
        # The ids of a completion cut at a stop text go on past the cut.
        is_at_text = output.finish_reason == "stop" and isinstance(output.stop_reason, str)
        kept = NO_IDS if is_at_text else token_ids
        text = opening + output.text
        plain = RawCompletion(text, kept, output.finish_reason, len(token_ids), seed)
        k = self.spec.sampling.logprobs
        if not k:
            return plain
        ids, logprobs = flat_logprobs(output.logprobs, len(token_ids), k)
        text = tokenizer_of(self.spec.model).decode(token_ids, skip_special_tokens=True)
        return plain._replace(text=opening + text, logprob_ids=ids, logprobs=logprobs)


def loop_detection(repeats: int) -> Any:
    from vllm.sampling_params import RepetitionDetectionParams

    if not repeats:
        return None
    shortest, longest = LOOP_TOKENS
    return RepetitionDetectionParams(longest, shortest, repeats)


def flat_logprobs(found: Any, num_tokens: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """vLLM's FlatLogprobs -> (ids, log-probabilities), both [num_tokens, 1 + k]."""
    shape = (num_tokens, 1 + k)
    ids = np.array(found.token_ids, dtype=np.int32).reshape(shape)
    return ids, np.array(found.logprobs, dtype=np.float32).reshape(shape)


def start_engine(model: str, knobs: Any) -> Any:
    """An AsyncLLM with the recipe's arguments."""
    arguments = engine_arguments(model, knobs)
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))


def engine_arguments(model: str, knobs: Any) -> dict[str, Any]:
    """The recipe's arguments, and what the CPU build needs where no GPU is.

    Writes os.environ, which vLLM reads: of the engine's own actor process, whose only work it is.
    """
    os.environ.pop("OMP_NUM_THREADS", None)  # Ray sets it to the actor's logical CPUs
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(knobs.cpu_kv_cache_gib))
    os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        # A seeded request whose prompt is prefilled in parts kills the CPU engine.
        device: dict[str, Any] = {
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(8192, knobs.max_model_len),
            "distributed_executor_backend": EXECUTOR,
        }
    else:
        device = {"gpu_memory_utilization": knobs.gpu_memory_utilization}
        if knobs.num_devices > 1:
            device["distributed_executor_backend"] = "mp"  # an actor's GPUs are on its node
    further = dict(knobs.extra)
    if isinstance(held := further.get("structured_outputs_config"), dict):  # vLLM takes none
        from vllm.config import StructuredOutputsConfig

        further["structured_outputs_config"] = StructuredOutputsConfig(**held)
    return {
        "model": model,
        "dtype": knobs.dtype,
        "max_model_len": knobs.max_model_len,
        "max_num_seqs": knobs.max_num_seqs,
        "tensor_parallel_size": knobs.tensor_parallel_size,
        "pipeline_parallel_size": knobs.pipeline_parallel_size,
        "enforce_eager": knobs.enforce_eager,
        "enable_prefix_caching": True,
        "generation_config": "vllm",  # the recipe alone decides how to sample
        "disable_log_stats": True,
        "worker_extension_cls": EXCHANGE,
        **device,
        **further,
    }
