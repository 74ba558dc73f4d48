"""Who writes a student's turns: a vLLM engine held to a JSON schema, or a script for tests."""

import asyncio
import os
import re
from typing import Any, NamedTuple, Protocol

from fastdistill_ray.agents.knobs import AnswersKnobs
from fastdistill_ray.errors import FailedError
from fastdistill_ray.generation.outputs import EngineDiedError
from fastdistill_ray.generation.vllm_engine import loop_detection, start_engine
from fastdistill_ray.models import fetch_model, tokenizer_of
from fastdistill_ray.prompts import PromptKnobs, render
from fastdistill_ray.records import Message


class Turn(NamedTuple):
    text: str
    prompt_tokens: int
    num_tokens: int
    finish_reason: str


class Writer(Protocol):
    async def write(
        self, messages: list[Message], row: dict[str, Any], schema: dict[str, Any] | None
    ) -> Turn:
        """What comes after these messages; with a schema, JSON of that schema. FailedError where
        there is no room for it."""
        ...


class VLLMWriter:
    def __init__(self, model: str, prompt: PromptKnobs, knobs: AnswersKnobs) -> None:
        # A model that has seen no call would write empty lines between its parts without end.
        held = {"backend": "xgrammar", "disable_any_whitespace": True}
        extra = {"structured_outputs_config": held, **knobs.engine.extra}
        engine = knobs.engine.model_copy(update={"extra": extra})
        self.engine = start_engine(fetch_model(model), engine)
        self.tokenizer, self.prompt, self.knobs = tokenizer_of(model), prompt, knobs

    async def write(
        self, messages: list[Message], row: dict[str, Any], schema: dict[str, Any] | None
    ) -> Turn:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
        from vllm.v1.engine.exceptions import EngineDeadError

        knobs = self.knobs
        held = StructuredOutputsParams(json=schema) if schema else None
        parameters = SamplingParams(
            temperature=knobs.temperature,
            top_p=knobs.top_p,
            stop_token_ids=[] if row["end_id"] is None else [row["end_id"]],
            max_tokens=knobs.max_call_tokens if schema else knobs.max_new_tokens,
            repetition_detection=None if schema else loop_detection(knobs.loop_repeats),
            seed=row["seed"] + len(messages) if knobs.temperature > 0 else None,
            structured_outputs=held,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        ids = render(messages, self.tokenizer, self.prompt)
        final = None
        try:
            prompt = {"prompt_token_ids": ids}
            async for output in self.engine.generate(prompt, parameters, os.urandom(8).hex()):
                final = output
        except EngineDeadError as error:
            raise EngineDiedError(f"{type(error).__name__}: {error}") from error
        except ValueError as error:
            raise FailedError(f"vLLM refuses it: {error}") from error
        assert final is not None
        said = final.outputs[0]
        opening = "" if schema else row["opening"]
        return Turn(opening + said.text, len(ids), len(said.token_ids), said.finish_reason)


class ScriptedWriter:
    """Calls the first tool with the question's first numbers, and says what that gave; without a
    tool it knows nothing. `extra`: seconds_per_request; `log`, a file to which the id of each
    problem is added that it is asked; `bad_calls`, those whose arguments it leaves out."""

    def __init__(self, knobs: AnswersKnobs) -> None:
        self.log = str(knobs.engine.extra.get("log", ""))
        self.seconds = float(knobs.engine.extra.get("seconds_per_request", 0.0))
        self.bad_calls = set(knobs.engine.extra.get("bad_calls", ()))

    async def write(
        self, messages: list[Message], row: dict[str, Any], schema: dict[str, Any] | None
    ) -> Turn:
        if schema is None:
            given = messages[-1]["content"].removeprefix(GAVE)
            text = f"<answer>\\boxed{{{given}}}</answer>"
            return Turn(text, 1, len(text), "stop")
        await asyncio.sleep(self.seconds)
        if self.log:
            with open(self.log, "a", encoding="utf-8") as log:
                log.write(f"{row['problem_id']}\n")
        tool = schema["anyOf"][0]["properties"]
        numbers = re.findall(r"\d+", row["question"])
        names = tool["arguments"]["properties"]
        pairs = [f'"{name}": {number}' for name, number in zip(names, numbers, strict=False)]
        held = ", ".join([] if row["problem_id"] in self.bad_calls else pairs)
        text = f'{{"tool": "{tool["tool"]["const"]}", "arguments": {{{held}}}}}'
        return Turn(text, 1, len(text), "stop")


GAVE = "The tool gave "


def start_writer(model: str, prompt: PromptKnobs, knobs: AnswersKnobs) -> Writer:
    if knobs.engine.kind == "scripted":
        return ScriptedWriter(knobs)
    return VLLMWriter(model, prompt, knobs)
