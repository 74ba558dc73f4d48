"""A vLLM engine in a Ray actor: many requests in flight, n completions share a prompt's KV."""

import asyncio
import os
from typing import Any

import pyarrow as pa

from fastdistill_ray.generation.outputs import with_completions
from fastdistill_ray.models import fetch_model

RELOAD_COLUMN = "weights"


class VLLMEngine:
    """Ray Data UDF over request rows. Rows may name other weights of the same architecture in the
    column `weights`: the actor finishes what runs, loads them in place, and goes on."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec
        self.engine = start_engine(fetch_model(spec.model), spec.engine)
        self.weights = spec.model
        self.running = 0
        self.turn: asyncio.Condition | None = None

    async def __call__(self, batch: pa.Table) -> pa.Table:
        if self.turn is None:
            self.turn = asyncio.Condition()
        weights = batch[RELOAD_COLUMN][0].as_py() if RELOAD_COLUMN in batch.column_names else ""
        await self._take_turn(weights or self.spec.model)
        try:
            rows = batch.select(["prompt_token_ids", "seed"]).to_pylist()
            outputs = await asyncio.gather(*(self._generate(row) for row in rows))
        finally:
            async with self.turn:
                self.running -= 1
                self.turn.notify_all()
        return with_completions(batch, list(outputs))

    async def _take_turn(self, weights: str) -> None:
        """Wait until the engine holds these weights, loading them when nothing else runs."""
        assert self.turn is not None
        async with self.turn:
            await self.turn.wait_for(lambda: self.weights == weights or self.running == 0)
            if self.weights != weights:
                await self.engine.collective_rpc(
                    "reload_weights", kwargs={"weights_path": fetch_model(weights)}
                )
                await self.engine.reset_prefix_cache()
                self.weights = weights
            self.running += 1

    async def _generate(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        sampling = self.spec.sampling
        parameters = SamplingParams(
            n=sampling.n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            seed=row["seed"] if sampling.temperature > 0 else None,
            # Otherwise the last output holds only the completions of the last engine step.
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        final = None
        try:
            async for output in self.engine.generate(
                {"prompt_token_ids": row["prompt_token_ids"]}, parameters, os.urandom(8).hex()
            ):
                final = output
        except EngineDeadError:
            os._exit(1)  # Ray starts a fresh actor and asks again for what was not committed
        assert final is not None and len(final.outputs) == sampling.n
        return [
            {
                "text": completion.text,
                "token_ids": list(completion.token_ids),
                "finish_reason": completion.finish_reason,
                "num_tokens": len(completion.token_ids),
                "seed": row["seed"] + k,
            }
            for k, completion in enumerate(sorted(final.outputs, key=lambda o: o.index))
        ]


def start_engine(model: str, knobs: Any) -> Any:
    """An AsyncLLM with the recipe's arguments, and what the CPU build needs where no GPU is."""
    os.environ.pop("OMP_NUM_THREADS", None)  # Ray sets it to the actor's logical CPUs
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(knobs.cpu_kv_cache_gib))
    os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
    from vllm import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    if current_platform.is_cpu():
        # A seeded request whose prompt is prefilled in parts kills the CPU engine.
        device = {
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(8192, knobs.max_model_len),
        }
    else:
        device = {"gpu_memory_utilization": knobs.gpu_memory_utilization}
    arguments = AsyncEngineArgs(
        model=model,
        dtype=knobs.dtype,
        max_model_len=knobs.max_model_len,
        max_num_seqs=knobs.max_num_seqs,
        tensor_parallel_size=knobs.tensor_parallel_size,
        enforce_eager=knobs.enforce_eager,
        enable_prefix_caching=True,
        generation_config="vllm",  # the recipe alone decides how to sample
        disable_log_stats=True,
        **device,
        **knobs.extra,
    )
    return AsyncLLM.from_engine_args(arguments)
