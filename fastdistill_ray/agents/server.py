"""A box of tools as an MCP server over stdio: `python -m fastdistill_ray.agents.server BOX`.

The arguments of a call are held against the tool's schema here; the tool itself runs in a limited
process, which is killed at its limit. So a call ends, whatever the tool does.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import mcp_types as types
from jsonschema import Draft202012Validator
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from fastdistill_ray.agents.box import BoxTool, load_box
from fastdistill_ray.agents.knobs import LimitKnobs
from fastdistill_ray.agents.sandbox import ToolFault, ToolProcess
from fastdistill_ray.errors import UserError

NAME = "fastdistill_ray box"


class Served:
    """A tool and its process; calls of it wait for each other."""

    def __init__(self, tool: BoxTool, limits: LimitKnobs) -> None:
        self.tool = tool
        self.validator = Draft202012Validator(tool.schema)
        self.process = ToolProcess(tool.source, limits)
        self.turn = asyncio.Lock()
        self.calls: set[asyncio.Task[types.CallToolResult]] = set()

    async def call(self, arguments: dict[str, Any]) -> types.CallToolResult:
        if fault := next(self.validator.iter_errors(arguments), None):
            where = ".".join(map(str, fault.absolute_path))
            return _failed(f"wrong arguments: {f'{where}: ' if where else ''}{fault.message}")
        # One that is cancelled at work keeps its turn: its value would else be taken for the next
        # one's. One that still waits for its turn does nothing then.
        is_left = asyncio.Event()
        task = asyncio.create_task(self._call(arguments, is_left))
        self.calls.add(task)
        task.add_done_callback(self.calls.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            is_left.set()
            raise

    async def _call(
        self, arguments: dict[str, Any], is_left: asyncio.Event
    ) -> types.CallToolResult:
        async with self.turn:
            if is_left.is_set():
                return _failed("nobody waits for it")
            try:
                value = await asyncio.to_thread(self.process.call, self.tool.name, arguments)
            except ToolFault as error:
                return _failed(str(error))
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=written(value))],
            structured_content={"result": value},
        )


def written(value: Any) -> str:
    """As a text for a model; a whole number has no point."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value)


def _failed(said: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=said)], is_error=True)


async def serve(folder: Path) -> None:
    box = load_box(folder)
    served = {tool.name: Served(tool, box.limits) for tool in box.tools}
    listed = [
        types.Tool(name=tool.name, description=tool.description, input_schema=tool.schema)
        for tool in box.tools
    ]

    async def list_tools(*_: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=listed)

    async def call_tool(_: Any, asked: types.CallToolRequestParams) -> types.CallToolResult:
        if asked.name not in served:
            return _failed(f"there is no tool {asked.name}; there are {', '.join(served)}")
        return await served[asked.name].call(asked.arguments or {})

    server = Server(NAME, on_list_tools=list_tools, on_call_tool=call_tool)
    try:
        async with stdio_server() as (requests, answers):
            await server.run(requests, answers, server.create_initialization_options())
    finally:
        for one in served.values():
            one.process.close()


def main() -> int:
    if len(sys.argv) != 2:
        print("error: python -m fastdistill_ray.agents.server BOX_FOLDER", file=sys.stderr)  # noqa: T201
        return 2
    try:
        asyncio.run(serve(Path(sys.argv[1])))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
