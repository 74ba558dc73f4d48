"""An engine that needs no model: it answers from the problem itself, at a fixed pace.

Completion k of a request is right when a seeded draw says so. For tests of the plumbing and for
measuring it; selected by `engine.kind: scripted`, the model then gives only the tokenizer.
"""

import asyncio
import random
from typing import Any

import pyarrow as pa

from fastdistill_ray.generation.outputs import with_completions


class ScriptedEngine:
    def __init__(self, spec: Any) -> None:
        self.spec = spec
        self.seconds = float(spec.engine.extra.get("seconds_per_request", 0.0))

    async def __call__(self, batch: pa.Table) -> pa.Table:
        await asyncio.sleep(self.seconds * batch.num_rows)
        rows = batch.select(["reference", "seed"]).to_pylist()
        return with_completions(batch, [self._answer(row) for row in rows])

    def _answer(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        completions = []
        for k in range(self.spec.sampling.n):
            draw = random.Random(row["seed"] + k)
            answer = row["reference"] if draw.random() < 0.5 else "no idea"
            thought = "so " * draw.randint(1, 12)
            text = f"<think>{thought}</think>\n<answer>\\boxed{{{answer}}}</answer>"
            token_ids = [5 + byte for byte in text.encode()][: self.spec.sampling.max_new_tokens]
            completions.append(
                {
                    "text": text,
                    "token_ids": token_ids,
                    "finish_reason": "stop",
                    "num_tokens": len(token_ids),
                    "seed": row["seed"] + k,
                }
            )
        return completions
