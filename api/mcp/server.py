"""`deskrelay mcp`: the computer tool for any MCP client, over stdio or HTTP (api/mcp/http.py).

`run_mcp` owns two nurseries, as `run_server` does: the inner one has the clients and what watches
for signals, the outer one the desktop, which ends last.

The `mcp` package runs on anyio, which finds itself on Trio here. Nothing of what clients say, and
no picture, is logged.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any, Final, cast

import trio
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp_types import CallToolRequestParams, CallToolResult, ListToolsResult, PaginatedRequestParams

from api.mcp.session import ComputerSession
from api.mcp.tools import INSTRUCTIONS, TOOLS, tool_result
from api.run import end_on_signal
from api.settings import DesktopSettings, SettingsProblem
from relay.computer import Result
from relay.computer import Settings as ComputerSettings
from relay.desktops import Desktops, provider_for, reap_leftovers
from relay.limits import Limits

__all__ = ["MESSAGE_BYTES", "Context", "Front", "MakeSession", "make_server", "run_mcp", "stdio"]

MESSAGE_BYTES: Final = 1 << 20
"""Of one message. The largest that means something is a `type` with 10,000 escaped characters."""

_log = logging.getLogger(__name__)

Context = ServerRequestContext[Any, Any]

MakeSession = Callable[[], ComputerSession]

Front = Callable[[MakeSession], Awaitable[None]]
"""Serves clients until the last has gone. Raises SettingsProblem where it cannot."""


async def run_mcp(
    spec: str, settings: DesktopSettings, front: Front, computer: ComputerSettings
) -> None:
    """Runs `front` on the desktop that `spec` names, until it returns, SIGINT or SIGTERM.

    Raises SettingsProblem where `front` does.
    """
    # It names the sessions, whose ids are secrets, and says much that is no news.
    logging.getLogger("mcp").setLevel(logging.WARNING)
    # It quotes the headers that it refuses.
    logging.getLogger("mcp.server.transport_security").setLevel(logging.ERROR)
    limits = Limits()
    await reap_leftovers()
    problem: SettingsProblem | None = None
    async with trio.open_nursery() as desktops_nursery:
        make = partial(
            provider_for,
            geometry=settings.geometry,
            password=settings.password_source,
            limits=limits,
        )
        desktops = Desktops(desktops_nursery, make)
        async with trio.open_nursery() as nursery:
            await nursery.start(end_on_signal, nursery.cancel_scope)
            try:
                await front(partial(ComputerSession, desktops, spec, limits, computer))
            except SettingsProblem as error:
                problem = error
            nursery.cancel_scope.cancel()
        desktops_nursery.cancel_scope.cancel()
    if problem is not None:
        raise problem


def make_server(call: Callable[[Context, str, Mapping[str, Any]], Awaitable[Result]]) -> Server:
    """The MCP server whose tools are done by `call`."""

    async def list_tools(_: Context, __: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=TOOLS)

    async def call_tool(context: Context, params: CallToolRequestParams) -> CallToolResult:
        return tool_result(await call(context, params.name, params.arguments or {}))

    return Server(
        "deskrelay",
        version=version("deskrelay"),
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


async def stdio(make_session: MakeSession) -> None:
    """One client, on stdin and stdout, until it closes stdin. The process has neither afterwards:
    what else reads there finds nothing, and what else prints there prints to stderr. Raises
    SettingsProblem where one of them is closed."""
    # Closed at the start, their numbers are something else's by now.
    if sys.stdin is None or sys.stdout is None:
        raise SettingsProblem("an MCP client speaks on stdin and stdout, and one of them is closed")
    wire_in, wire_out = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdout.flush()
    os.dup2(2, 1)

    session = make_session()

    async def call(_: Context, name: str, given: Mapping[str, Any]) -> Result:
        return await session.call(name, given)

    server = make_server(call)
    async with trio.lowlevel.FdStream(wire_in) as stdin, trio.lowlevel.FdStream(wire_out) as stdout:
        with trio.CancelScope() as scope:
            lines, output = _Lines(stdin), _Output(stdout, scope)
            try:
                async with stdio_server(cast(Any, lines), cast(Any, output)) as (reads, writes):
                    await server.run(reads, writes, server.create_initialization_options())
            finally:
                await session.aclose()


class _Lines:
    """The lines of stdin. The package's own are read in a thread, which no cancellation reaches
    before the client's next line."""

    def __init__(self, stream: trio.lowlevel.FdStream) -> None:
        self._stream = stream
        self._data = bytearray()
        self._searched = 0

    def __aiter__(self) -> _Lines:
        return self

    async def __anext__(self) -> str:
        while (end := self._data.find(b"\n", self._searched)) < 0:
            self._searched = len(self._data)
            if self._searched > MESSAGE_BYTES:
                _log.error("a message has more than %d bytes; ending", MESSAGE_BYTES)
                raise StopAsyncIteration
            try:
                data = await self._stream.receive_some(65_536)
            except trio.BrokenResourceError:
                data = b""
            if not data:
                raise StopAsyncIteration
            self._data += data
        line = self._data[:end].decode("utf-8", "replace")
        del self._data[: end + 1]
        self._searched = 0
        return line


class _Output:
    """What is written to stdout. Without a reader any more, everything ends."""

    def __init__(self, stream: trio.lowlevel.FdStream, scope: trio.CancelScope) -> None:
        self._stream = stream
        self._scope = scope

    async def write(self, text: str) -> None:
        try:
            await self._stream.send_all(text.encode())
        except trio.BrokenResourceError:
            self._scope.cancel()

    async def flush(self) -> None:
        pass
