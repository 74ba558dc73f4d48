"""An engine that needs no model: it answers from the problem itself, at a fixed pace.

Completion k of a request is right when a seeded draw says so. For tests of the plumbing and for
measuring it; selected by `engine.kind: scripted`, the model then gives only the tokenizer.
"""

import asyncio
import os
import random
import re
from typing import Any

import numpy as np
import pyarrow as pa

from fastdistill_ray.generation.draws import CountCorrect, Draw, Part, reply_to
from fastdistill_ray.generation.knobs import EngineKnobs, EngineSpec
from fastdistill_ray.generation.outputs import RawCompletion, Reply, with_completions


class ScriptedEngine:
    """`extra`: seconds_per_request; share_correct of the completions (0.5); `wrong`: answers of the
    others; `varies`: where this stands in a request, the answer is its question with other numbers;
    and, by problem id, `kills`: at whose request the process ends, `fails`: that are
    answered with an error, `hangs`: that are never answered, `waits`: for a file each. `log`: a
    file to which the id of each answered problem is added. `mib_per_request`: held while one is
    asked. `dies_at_start`."""

    def __init__(self, spec: EngineSpec, count_correct: CountCorrect) -> None:
        assert isinstance(spec.engine, EngineKnobs)
        self.spec = spec
        if spec.engine.extra.get("dies_at_start"):
            os._exit(9)
        self.seconds = float(spec.engine.extra.get("seconds_per_request", 0.0))
        self.share_correct = float(spec.engine.extra.get("share_correct", 0.5))
        self.varies = str(spec.engine.extra.get("varies", ""))
        self.wrong: list[str] = spec.engine.extra.get("wrong", ["no idea"])
        self.faults = {
            name: set(spec.engine.extra.get(name, ())) for name in ("kills", "fails", "hangs")
        }
        self.waits: dict[str, str] = spec.engine.extra.get("waits", {})
        self.mib = int(spec.engine.extra.get("mib_per_request", 0))
        self.log = str(spec.engine.extra.get("log", ""))
        self.count_correct = count_correct
        self.slots = asyncio.Semaphore(max(1, spec.engine.max_num_seqs // spec.sampling.n))

    async def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        answers = await asyncio.gather(*map(self._answer, rows))
        return with_completions(batch, answers, self.spec.model)

    async def _answer(self, row: dict[str, Any]) -> Reply:
        if row["problem_id"] in self.faults["fails"]:
            return Reply([], 0, failure=f"no answer to {row['problem_id']}")
        reply = await reply_to(row, self.spec.sampling, self._ask, self.count_correct)
        if self.log:
            with open(self.log, "a", encoding="utf-8") as log:
                log.write(f"{row['problem_id']}\n")
        return reply

    async def _ask(self, row: dict[str, Any], draw: Draw) -> Part:
        async with self.slots:
            held = np.ones(self.mib << 20, dtype=np.uint8)
            await asyncio.sleep(self.seconds)
            del held
            if row["problem_id"] in self.faults["hangs"]:
                await asyncio.Event().wait()
            file = self.waits.get(row["problem_id"], "/")
            while not os.path.exists(file):
                await asyncio.sleep(0.1)
        if row["problem_id"] in self.faults["kills"]:
            os._exit(9)
        seeds = range(row["seed"] + draw.first, row["seed"] + draw.first + draw.count)
        written = [self._write(row, seed, draw.temperature) for seed in seeds]
        return Part(written, len(row["prompt_token_ids"]))

    def _write(self, row: dict[str, Any], seed: int, temperature: float) -> RawCompletion:
        draw = random.Random(seed)
        right = draw.random() < self.share_correct
        thought = f"at {temperature:g} " + "so " * draw.randint(1, 12)
        said = row["reference"] if right else draw.choice(self.wrong)
        text = f"<think>{thought}</think>\n<answer>\\boxed{{{said}}}</answer>"
        if self.varies and self.varies in str(row["messages"]):
            text = re.sub(r"\d+", lambda _: str(draw.randint(2, 999)), row["question"])
        token_ids = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32) + 5
        token_ids = token_ids[: self.spec.sampling.max_new_tokens]
        k = self.spec.sampling.logprobs
        ids = np.repeat(token_ids, 1 + k).reshape(-1, 1 + k) + np.arange(1 + k, dtype=np.int32)
        return RawCompletion(
            text,
            token_ids,
            "stop",
            len(token_ids),
            seed,
            ids if k else None,
            np.log(0.5 ** (1.0 + (ids - ids[:, :1]))).astype(np.float32) if k else None,
        )
