"""A box of tools in a folder: box/manifest.json, tools/NAME.py, tests/NAME.json."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from fastdistill_ray.agents.clustering import Case, Merged, merge
from fastdistill_ray.agents.extraction import Refused, Tool, extract
from fastdistill_ray.agents.knobs import LimitKnobs, ToolsKnobs
from fastdistill_ray.agents.sandbox import ToolProcess
from fastdistill_ray.agents.traces import programs_in
from fastdistill_ray.errors import UserError
from fastdistill_ray.run_files import BOX, StageResult, write_json, write_text
from fastdistill_ray.storage.place import Place

BOX_MANIFEST, REFUSED = "manifest.json", "refused.json"
VERSION = 2


class BoxTool(NamedTuple):
    name: str
    description: str
    schema: dict[str, Any]  # JSON schema of its arguments
    source: str
    question: str  # a training problem that it was called for
    example: Case  # and how it was called
    is_answer: bool  # whether what it gave was the answer


class Box(NamedTuple):
    tools: list[BoxTool]
    limits: LimitKnobs


def make_box(traces: Place, knobs: ToolsKnobs, *, out: Place) -> StageResult:
    """Functions of correct programs -> the folder of tools. A row is a function of a program."""
    found: list[Tool | Refused] = []
    for program in programs_in(traces):
        found += extract(program, knobs.imports)
    if not found:
        raise UserError(
            "teacher: no program that solved a problem calls a function of its own, so that there "
            f"is no tool to take; read {traces}"
        )
    tools = [one for one in found if isinstance(one, Tool)]
    merged, late = merge(tools, knobs)
    refused = [one for one in found if isinstance(one, Refused)] + late
    write_json(out / REFUSED, [one._asdict() for one in refused])
    if not merged:
        counts = ", ".join(f"{why} {count}" for why, count in reasons(refused).items())
        raise UserError(f"tools: all {len(found)} functions are refused: {counts}")
    write_box(merged, knobs, out / BOX)
    with ToolProcess("", knobs) as process:
        is_apart = process.start()["network"] == "namespace"
    kept = len(found) - len(refused)
    facts = {"tools": float(len(merged)), "network_namespace": float(is_apart)}
    return StageResult(len(found), kept, dict(reasons(refused)), facts=facts)


def reasons(refused: list[Refused]) -> Counter[str]:
    return Counter(one.reason.partition(":")[0] for one in refused)


def write_box(merged: list[Merged], limits: LimitKnobs, folder: Place) -> None:
    """The manifest last: a box that has none is none."""
    tools = []
    for one in merged:
        file, tests = f"tools/{one.name}.py", f"tests/{one.name}.json"
        write_text(folder / file, one.source)
        write_json(folder / tests, [case._asdict() for case in one.tests])
        question, case, is_answer = one.example
        tools.append(
            {
                "name": one.name,
                "description": one.description,
                "schema": schema_of(one.types),
                "file": file,
                "sha256": _digest(one.source),
                "tests": tests,
                "example": {"question": question, **case._asdict(), "is_answer": is_answer},
                "problems": one.problem_ids,
                "called": one.names,
            }
        )
    kept = {name: getattr(limits, name) for name in LimitKnobs.model_fields}
    write_json(folder / BOX_MANIFEST, {"version": VERSION, "limits": kept, "tools": tools})


def schema_of(types: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: _property(kind) for name, kind in types.items()},
        "required": list(types),
        "additionalProperties": False,
    }


def _property(kind: str) -> dict[str, Any]:
    if kind.startswith("array of "):
        return {"type": "array", "items": {"type": kind.removeprefix("array of ")}}
    return {"type": kind}


def load_box(folder: Path) -> Box:
    """UserError, a line, where it is no box, or a tool is not as it was tested."""
    file = folder / BOX_MANIFEST
    if not file.is_file():
        raise UserError(f"box {folder}: it holds no {BOX_MANIFEST}")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if manifest["version"] != VERSION:
            raise UserError(f"box {folder}: version {manifest['version']}, expected {VERSION}")
        tools = [_tool(folder, entry) for entry in manifest["tools"]]
        return Box(tools, LimitKnobs(**manifest["limits"]))
    except UserError:  # is a ValueError too
        raise
    except (ValueError, KeyError, TypeError) as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"box {folder}: {BOX_MANIFEST} is no manifest of a box ({said})") from error


def _tool(folder: Path, entry: dict[str, Any]) -> BoxTool:
    file = folder / entry["file"]
    if not file.is_file():
        raise UserError(f"box {folder}: {entry['file']} is missing")
    source = file.read_text(encoding="utf-8")
    if _digest(source) != entry["sha256"]:
        raise UserError(f"box {folder}: {entry['file']} is not the file that was tested")
    example = entry["example"]
    return BoxTool(
        entry["name"],
        entry["description"],
        entry["schema"],
        source,
        example["question"],
        Case(example["arguments"], example["result"]),
        example["is_answer"],
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
