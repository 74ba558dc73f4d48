"""A student answers test problems with a box of tools, through the same loop as generation.

For each call it is asked for JSON of a tool and its arguments, which decoding is held to; the call
goes to the box's MCP server, and what comes back is the next message. Then it answers in its own
words, which are judged as those of any model.
"""

import asyncio
import json
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from fastdistill_ray.agents.box import Box, BoxTool, load_box
from fastdistill_ray.agents.client import BoxClient
from fastdistill_ray.agents.knobs import AnswersKnobs, StudentKnobs
from fastdistill_ray.agents.server import written
from fastdistill_ray.agents.writing import GAVE, start_writer
from fastdistill_ray.cluster.pools import PoolsKnobs
from fastdistill_ray.errors import FailedError
from fastdistill_ray.evaluation.answers import (
    ANSWERED_SCHEMA,
    ROWS_PER_FILE,
    AnswerMaker,
    missing_requests,
    result_of,
)
from fastdistill_ray.evaluation.knobs import Model
from fastdistill_ray.generation.completions import IN_FLIGHT_FACTOR, Asked
from fastdistill_ray.generation.knobs import SamplingKnobs
from fastdistill_ray.generation.outputs import NO_IDS, RawCompletion, Reply, with_completions
from fastdistill_ray.generation.requests import has_one_that_fits
from fastdistill_ray.groups.aside import forget_aside
from fastdistill_ray.groups.ask import ask
from fastdistill_ray.groups.store import Store
from fastdistill_ray.progress import Progress
from fastdistill_ray.prompts import PromptKnobs, Shot
from fastdistill_ray.records import Message
from fastdistill_ray.run_files import StageResult
from fastdistill_ray.storage.folders import copy
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.problem_file import ProblemFile
from fastdistill_ray.verifiers import VerifierKnobs

NO_TOOL = "none"
FAILED = "The call failed: "
INSTRUCTION = (
    'First call a tool that helps: write JSON such as {"tool": NAME, "arguments": {...}}. Once it '
    "has given its result, give the final value inside \\boxed{}. The tools are:"
)
CALL = pa.struct(
    [
        ("tool", pa.string()),
        ("text", pa.string()),  # what the student wrote
        ("returned", pa.string()),
        ("is_invalid", pa.bool_()),  # the call could not be read, or its arguments are wrong
        ("is_error", pa.bool_()),  # the tool gave nothing, or too much
    ]
)
CALLED_SCHEMA = ANSWERED_SCHEMA.append(pa.field("calls", pa.list_(CALL)))


def prompt_without(student: StudentKnobs, box: Box, knobs: AnswersKnobs) -> PromptKnobs:
    """With the problems that the tools are shown by, answered."""
    shots = [Shot(question=tool.question, answer=_boxed(tool)) for tool in _shown(box, knobs)]
    return _with(student.prompt, student.prompt.system, shots)


def prompt_with(student: StudentKnobs, box: Box, knobs: AnswersKnobs) -> PromptKnobs:
    """With the tools, a line each, and a call of each of them."""
    lines = [student.prompt.system, INSTRUCTION, *map(_line, box.tools)]
    shots = []
    for tool in _shown(box, knobs):
        call = {"tool": tool.name, "arguments": tool.example.arguments}
        shots += [
            Shot(question=tool.question, answer=json.dumps(call)),
            Shot(question=f"{GAVE}{written(tool.example.result)}", answer=_boxed(tool)),
        ]
    return _with(student.prompt, "\n".join(filter(None, lines)), shots)


def _with(prompt: PromptKnobs, system: str, shots: list[Shot]) -> PromptKnobs:
    return prompt.model_copy(update={"system": system, "shots": [*prompt.shots, *shots]})


def _shown(box: Box, knobs: AnswersKnobs) -> list[BoxTool]:
    """Tools that a problem shows whose answer is what they gave: what a program made of several
    calls, one call does not give."""
    return [tool for tool in box.tools if knobs.examples and tool.is_answer]


def _boxed(tool: BoxTool) -> str:
    return f"\\boxed{{{written(tool.example.result)}}}"


def _line(tool: BoxTool) -> str:
    kinds = ", ".join(f"{name}: {one['type']}" for name, one in tool.schema["properties"].items())
    return f"{tool.name}({kinds}): {tool.description}"


def call_schema(box: Box) -> dict[str, Any]:
    """JSON of one call of one tool, or of none."""
    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    kinds = [*((tool.name, tool.schema) for tool in box.tools), (NO_TOOL, nothing)]
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {"tool": {"const": name}, "arguments": schema},
                "required": ["tool", "arguments"],
                "additionalProperties": False,
            }
            for name, schema in kinds
        ]
    }


@dataclass(frozen=True)
class BoxSpec:
    """Who answers with which box; an actor needs no more."""

    model: str
    prompt: PromptKnobs  # with the box
    box: str
    knobs: AnswersKnobs


class BoxEngine:
    """Request rows -> rows with a completion and the calls that were made for it."""

    def __init__(self, spec: BoxSpec) -> None:
        self.spec = spec
        folder = box_here(Place(spec.box))
        box = load_box(folder)
        self.schema = call_schema(box)
        self.tools = BoxClient(folder, box.limits.time_limit)
        self.writer = start_writer(spec.model, spec.prompt, spec.knobs)

    async def __call__(self, batch: pa.Table) -> pa.Table:
        answers = await asyncio.gather(*map(self._answer, batch.to_pylist()))
        rows = with_completions(batch, [reply for reply, _ in answers], self.spec.model)
        calls = pa.array([calls for _, calls in answers], pa.list_(CALL))
        return rows.append_column("calls", calls)

    async def _answer(self, row: dict[str, Any]) -> tuple[Reply, list[dict[str, Any]]]:
        messages: list[Message] = list(row["messages"])
        calls: list[dict[str, Any]] = []
        prompt_tokens = num_tokens = 0
        try:
            while len(calls) < self.spec.knobs.max_calls:
                turn = await self.writer.write(messages, row, self.schema)
                prompt_tokens += turn.prompt_tokens
                num_tokens += turn.num_tokens
                call = read_call(turn.text)
                if call and call.tool == NO_TOOL:
                    break
                calls.append(await self._called(turn.text, call))
                said = FAILED if calls[-1]["is_invalid"] or calls[-1]["is_error"] else GAVE
                messages.append({"role": "assistant", "content": turn.text})
                messages.append({"role": "user", "content": f"{said}{calls[-1]['returned']}"})
            turn = await self.writer.write(messages, row, None)
        except FailedError as error:
            return Reply([], 0, failure=str(error)), []
        total = num_tokens + turn.num_tokens
        completion = RawCompletion(turn.text, NO_IDS, turn.finish_reason, total, row["seed"])
        return Reply([completion], prompt_tokens + turn.prompt_tokens), calls

    async def _called(self, text: str, call: "Call | None") -> dict[str, Any]:
        noted = {"tool": call.tool if call else "", "text": text}
        if call is None:
            said = "it is no JSON of a tool and its arguments"
            return {**noted, "returned": said, "is_invalid": True, "is_error": False}
        came = await self.tools.call(call.tool, call.arguments)
        is_invalid = came.is_error and came.text.startswith(("wrong arguments", "there is no tool"))
        most = self.spec.knobs.max_call_tokens  # of context that is reserved for what comes back
        if len(came.text) > most and not came.is_error:
            said = f"its result is longer than {most} characters"
            return {**noted, "returned": said, "is_invalid": False, "is_error": True}
        is_error = came.is_error and not is_invalid
        return {
            **noted,
            "returned": came.text[:most],
            "is_invalid": is_invalid,
            "is_error": is_error,
        }


class Call(NamedTuple):
    tool: str
    arguments: dict[str, Any]


def read_call(text: str) -> Call | None:
    """None where it is none, as one that was cut."""
    try:
        said = json.loads(text)
        tool, arguments = said["tool"], said["arguments"]
    except (ValueError, KeyError, TypeError):
        return None
    is_call = isinstance(tool, str) and isinstance(arguments, dict)
    return Call(tool, arguments) if is_call else None


class BoxAnswerMaker:
    """As AnswerMaker, and the calls stay."""

    def __init__(self, verifier: VerifierKnobs) -> None:
        self.make = AnswerMaker(verifier)

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = self.make(batch)
        return rows.append_column(CALLED_SCHEMA.field("calls"), batch["calls"])


def answer_with_box(
    student: StudentKnobs,
    box: Place,
    problems: ProblemFile,
    knobs: AnswersKnobs,
    verifier: VerifierKnobs,
    pools: PoolsKnobs,
    *,
    out: Place,
) -> StageResult:
    """Asks every problem that is not answered yet; commits answers as they come, with their calls,
    and writes answers.parquet."""
    store = Store(out)
    store.begin()
    forget_aside(store)
    prompt = prompt_with(student, load_box(box_here(box)), knobs)
    model = Model("with_box", student.model, prompt)
    reserved = knobs.model_copy(update={"max_new_tokens": knobs.most_tokens})
    spec = BoxSpec(student.model, prompt, str(box), knobs)
    in_flight = IN_FLIGHT_FACTOR * knobs.engine.max_num_seqs
    progress = Progress("answer with the box", len(problems))
    stores = {model.name: store}
    while has_one_that_fits(missing := missing_requests([model], [problems], stores, reserved)):
        progress.done = len(problems) - len(missing)
        ask(
            [Asked(missing, student.model, partial(BoxEngine, spec), in_flight, pools.evaluation)],
            partial(BoxAnswerMaker, verifier),
            stores,
            judges=pools.judges,
            rows_per_file=min(ROWS_PER_FILE, max(1, len(missing) // 16)),
            max_aside=SamplingKnobs().max_set_aside,
            stall_minutes=pools.stall_minutes,
            progress=progress,
            note=lambda commit: "",
        )
    return result_of(model, [problems], reserved, store)


def box_here(box: Place) -> Path:
    """A folder of this machine; the files of a bucket are copied."""
    if box.is_local:
        return Path(box.local)
    folder = Path(tempfile.mkdtemp(prefix="box-")) / "box"
    copy(box, Place(folder))
    return folder
