"""The command `deskrelay mcp` in a process of its own, the official client before it, and what is
sent to it by hand."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import trio
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ImageContent, TextContent
from PIL import Image

from tests.labs.desktop_processes import until

COMMAND = [sys.executable, "-W", "error", "-m", "api", "mcp"]
STOP_S = 5.0  # what the command promises

# For requests that are written by hand.
ACCEPT = {"Accept": "application/json, text/event-stream"}
HELLO: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}

NONSENSE = [
    b"",
    b"{",
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"jsonrpc": "1.0", "id": 2, "method": "tools/list"}',
    b'{"jsonrpc": "2.0", "id": {}, "method": 5}',
    b'{"jsonrpc": "2.0", "id": 99, "result": {}}',
    b'{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}}',
    b'{"jsonrpc": "2.0", "method": "notifications/nothing", "params": {"text": "hunter2"}}',
    b'{"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": ["hunter2"]}',
    b'{"jsonrpc": "2.0", "id": 4, "method": "hunter2"',
]
"""Lines that are no requests, or none that a client may send."""


@asynccontextmanager
async def over_stdio(
    desktop: str, folder: Path, *options: str, mode: str = "auto"
) -> AsyncIterator[Client]:
    """A client and its server, whose log is `folder`/stderr.txt."""
    program, *arguments = COMMAND
    parameters = StdioServerParameters(
        command=program, args=[*arguments, "--desktop", desktop, *options], env=dict(os.environ)
    )
    log = folder / "stderr.txt"
    with log.open("w") as errors:
        async with Client(stdio_client(parameters, errlog=errors), mode=mode) as client:
            yield client
    assert "Traceback" not in log.read_text()


@dataclass(frozen=True, slots=True)
class Served:
    """A server over HTTP."""

    url: str
    process: trio.Process
    log: Path
    token: str | None
    """The one that it has made and printed, if it has."""

    @property
    def headers(self) -> dict[str, str]:
        """Of requests that are written by hand."""
        return ACCEPT | ({} if self.token is None else {"Authorization": f"Bearer {self.token}"})

    async def end(self) -> float:
        """Ends it with SIGTERM; returns how many seconds that took."""
        began_s = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        with trio.fail_after(STOP_S):
            assert await self.process.wait() == 0
        return time.monotonic() - began_s


@asynccontextmanager
async def serving(
    desktop: str, folder: Path, *arguments: str, bind: str = "127.0.0.1:0"
) -> AsyncIterator[Served]:
    """A server on a free port, which ends as it should if the test has not ended it."""
    log = folder / "stderr.txt"
    command = [*COMMAND, "--desktop", desktop, "--http", bind, *arguments]
    with log.open("w") as errors:
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
    try:
        await until(lambda: "serving MCP at " in log.read_text())
        # One write has all of it.
        told = re.search(r"serving MCP at (\S+)(?:\n.* Bearer (\S+))?", log.read_text())
        assert told is not None
        served = Served(told[1], process, log, told[2])
        yield served
        if process.returncode is None:
            await served.end()
        assert process.stdout is not None
        assert await process.stdout.receive_some() == b""
        assert "Traceback" not in log.read_text()
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            assert process.stdout is not None
            await process.stdout.aclose()


@asynccontextmanager
async def over_http(
    url: str, *, mode: str = "auto", token: str | None = None, says_goodbye: bool = True
) -> AsyncIterator[Client]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        transport = streamable_http_client(url, http_client=http, terminate_on_close=says_goodbye)
        async with Client(transport, mode=mode) as client:
            yield client


def texts(result: CallToolResult) -> list[str]:
    return [block.text for block in result.content if isinstance(block, TextContent)]


def pictures(result: CallToolResult) -> Sequence[Image.Image]:
    """The result's pictures, which must be whole PNG files."""
    found = []
    for block in result.content:
        if isinstance(block, ImageContent):
            assert block.mime_type == "image/png"
            image = Image.open(io.BytesIO(base64.b64decode(block.data)))
            assert image.format == "PNG"
            image.load()
            found.append(image)
    return found
