"""A box served over stdio to the real MCP client."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import mcp
import pytest
from mcp.client.stdio import StdioServerParameters, stdio_client

from fastdistill_ray.agents.box import BoxTool, write_box
from fastdistill_ray.agents.client import ROOT, BoxClient
from fastdistill_ray.agents.clustering import Case, Merged
from fastdistill_ray.agents.knobs import LimitKnobs
from fastdistill_ray.agents.server import Served
from fastdistill_ray.errors import FailedError
from fastdistill_ray.storage.place import Place

SOURCES = {
    "divide": ("def divide(a, b):\n    return a / b\n", {"a": "number", "b": "integer"}),
    "count": (
        "seen = []\ndef count(a):\n    seen.append(a)\n    return len(seen)\n",
        {"a": "number"},
    ),
    "hang": ("def hang(a):\n    while True:\n        pass\n", {"a": "number"}),
    "total": ("def total(a):\n    return sum(a)\n", {"a": "array of number"}),
}


@pytest.fixture
def box(tmp_path: Path) -> Path:
    example = ("?", Case({}, 0), False)
    tools = [
        Merged(name, source, f"It is {name}.", types, example, [], ["p"], [name])
        for name, (source, types) in SOURCES.items()
    ]
    write_box(tools, LimitKnobs(time_limit=1.0), Place(tmp_path / "box"))
    return tmp_path / "box"


def test_client_lists_and_calls_the_tools_of_a_box(box):
    async def talk() -> dict[str, tuple[str, bool]]:
        parameters = StdioServerParameters(
            command=sys.executable,
            args=["-P", "-m", "fastdistill_ray.agents.server", str(box)],
            env={"PYTHONPATH": str(ROOT)},
        )
        async with mcp.Client(stdio_client(parameters)) as client:
            listed = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert set(listed) == set(SOURCES)
            assert listed["divide"].description == "It is divide."
            assert listed["divide"].input_schema["required"] == ["a", "b"]
            said = {}
            for key, name, arguments in (
                ("right", "divide", {"a": 7, "b": 2}),
                ("whole", "divide", {"a": 8, "b": 2}),
                ("list", "total", {"a": [1, 2.5]}),
                ("wrong type", "divide", {"a": "seven", "b": 2}),
                ("no whole number", "divide", {"a": 7, "b": 2.5}),
                ("missing", "divide", {"a": 7}),
                ("unknown", "divide", {"a": 7, "b": 2, "c": 3}),
                ("no tool", "multiply", {"a": 7}),
                ("raises", "divide", {"a": 7, "b": 0}),
                ("hangs", "hang", {"a": 7}),
                ("after", "divide", {"a": 9, "b": 2}),
            ):
                result = await client.call_tool(name, arguments)
                said[key] = (getattr(result.content[0], "text", ""), bool(result.is_error))
            return said

    said = asyncio.run(talk())
    assert said["right"] == ("3.5", False) and said["whole"] == ("4", False)
    assert said["list"] == ("3.5", False) and said["after"] == ("4.5", False)
    assert said["wrong type"] == ("wrong arguments: a: 'seven' is not of type 'number'", True)
    assert said["no whole number"] == ("wrong arguments: b: 2.5 is not of type 'integer'", True)
    assert said["missing"] == ("wrong arguments: 'b' is a required property", True)
    assert said["unknown"][0].startswith("wrong arguments: Additional properties")
    there = "divide, count, hang, total"
    assert said["no tool"] == (f"there is no tool multiply; there are {there}", True)
    assert said["raises"] == ("ZeroDivisionError: division by zero", True)
    assert said["hangs"] == ("no answer in 1 s", True)


class Held:
    """As a tool's process; the call of 1 gives its value once it may."""

    def __init__(self) -> None:
        self.is_asked, self.may_end = threading.Event(), threading.Event()

    def call(self, function: str, arguments: dict[str, int]) -> int:
        if arguments["a"] == 1:
            self.is_asked.set()
            assert self.may_end.wait(60)
        return arguments["a"]


def test_call_that_is_cancelled_keeps_its_turn_until_its_value_is_read():
    """Else the next one might read it as its own."""
    tool = BoxTool("same", "", {"type": "object"}, "", "?", Case({}, 0), False)

    async def talk() -> tuple[bool, str]:
        served, process = Served(tool, LimitKnobs()), Held()
        served.process = process  # pyright: ignore[reportAttributeAccessIssue]
        first = asyncio.create_task(served.call({"a": 1}))
        await asyncio.to_thread(process.is_asked.wait)
        first.cancel()
        second = asyncio.create_task(served.call({"a": 2}))
        _, waiting = await asyncio.wait({second}, timeout=0.5)
        process.may_end.set()
        return second in waiting, getattr((await second).content[0], "text", "")

    assert asyncio.run(talk()) == (True, "2")


def test_server_that_is_gone_is_started_again(box):
    async def talk() -> list[str]:
        client = BoxClient(box, 1.0)
        said = [(await client.call("divide", {"a": 7, "b": 2})).text]
        await client.close()
        said.append((await client.call("divide", {"a": 8, "b": 2})).text)
        await client.close()
        return said

    assert asyncio.run(talk()) == ["3.5", "4"]


def test_call_that_gets_no_answer_in_its_time_leaves_the_server_to_the_others(box):
    """A tool's own memory tells that its process, and so the server, is the same."""

    async def talk() -> list[str]:
        client = BoxClient(box, 1.0)
        said = [(await client.call("count", {"a": 7})).text]
        whole, client._seconds = client._seconds, 0.1
        with pytest.raises(FailedError, match="timed out"):
            await client.call("hang", {"a": 7})
        client._seconds = whole
        said.append((await client.call("count", {"a": 7})).text)
        await client.close()
        return said

    assert asyncio.run(talk()) == ["1", "2"]


def test_call_while_a_connection_is_closed_has_one_of_its_own(box):
    async def talk() -> list[str]:
        client = BoxClient(box, 1.0)
        said = [(await client.call("count", {"a": 7})).text]
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0)
        said.append((await client.call("count", {"a": 7})).text)
        await closing
        said.append((await client.call("count", {"a": 7})).text)
        await client.close()
        return said

    assert asyncio.run(talk()) == ["1", "1", "2"]


def test_folder_that_is_no_box_is_a_line(tmp_path):
    command = [sys.executable, "-P", "-m", "fastdistill_ray.agents.server", str(tmp_path)]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == f"error: box {tmp_path}: it holds no manifest.json\n"
