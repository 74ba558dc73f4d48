"""The MCP client of a box's server, which it starts: one for an actor and its box."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import mcp
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import REQUEST_TIMEOUT

from fastdistill_ray.errors import FailedError

ROOT = Path(__file__).resolve().parents[2]
SERVER = "fastdistill_ray.agents.server"
CALL_SECONDS = 60.0  # beside a tool's own limit: a queue of calls on a loaded machine


class Returned(NamedTuple):
    text: str
    is_error: bool


class BoxClient:
    """Of one event loop. A server that is gone is started again for the next call."""

    def __init__(self, folder: Path, time_limit: float) -> None:
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._parameters = StdioServerParameters(
            command=sys.executable,
            args=["-P", "-m", SERVER, str(folder)],
            env={"PYTHONPATH": os.pathsep.join(path)},
        )
        self._seconds = time_limit + CALL_SECONDS
        self._client: asyncio.Future[mcp.Client] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._is_over = asyncio.Event()

    async def call(self, name: str, arguments: dict[str, Any]) -> Returned:
        """FailedError where the server gives no answer."""
        client = None
        try:
            client = await self._started()
            result = await client.call_tool(name, arguments, self._seconds)
        except Exception as error:  # whatever a lost connection raises
            is_late = isinstance(error, mcp.MCPError) and error.code == REQUEST_TIMEOUT
            if client is None or not is_late:  # else others wait for theirs on it
                await self.close()
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise FailedError(f"the server of the box: {said}") from error
        text = "\n".join(getattr(part, "text", "") for part in result.content)
        return Returned(text, bool(result.is_error))

    async def close(self) -> None:
        keeper, self._keeper, self._client = self._keeper, None, None
        is_over, self._is_over = self._is_over, asyncio.Event()  # another may be started meanwhile
        is_over.set()
        if keeper is not None:
            await asyncio.gather(keeper, return_exceptions=True)

    async def _started(self) -> mcp.Client:
        if self._client is None:
            self._client = asyncio.get_running_loop().create_future()
            self._keeper = asyncio.create_task(self._keep(self._client, self._is_over))
        return await asyncio.shield(self._client)

    async def _keep(self, ready: asyncio.Future[mcp.Client], is_over: asyncio.Event) -> None:
        """Opens and closes the connection in one task, as its library demands."""
        try:
            async with mcp.Client(stdio_client(self._parameters)) as client:
                ready.set_result(client)
                await is_over.wait()
        except Exception as error:
            if not ready.done():
                ready.set_exception(error)
                return
            raise
