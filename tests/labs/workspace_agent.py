"""A workspace agent in this process, a desktop beside it that fails as a test wants, and a client
that knows the secret."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import trio

from api.http.serve import serve_app
from api.workspace.server import ACTION_PATH, Workspace, create_workspace_agent_app
from relay import DesktopError, Password, TcpAddress
from relay.desktops import Desktops, RunningDesktop
from relay.dialling.workspace_agent import DEFAULT_PATH
from relay.limits import Limits
from tests.labs.desktop_server import KEY, parse, read_all, read_head, request_head

SECRET = "correct horse battery"
LIMITS = Limits(close_timeout_s=0.2)


@dataclass
class FakeDesktop:
    """A provider of a desktop that says who it is and listens; or fails."""

    name = "fake"
    starts: int = 0
    failure: str | None = None
    reachable: bool = True
    hold: trio.Event | None = None
    asked: trio.Event = field(default_factory=trio.Event)
    streams: list[trio.SocketStream] = field(default_factory=list)
    heard: bytearray = field(default_factory=bytearray)

    async def run(self, *, task_status: trio.TaskStatus[RunningDesktop]) -> None:
        self.starts += 1
        self.asked.set()
        if self.hold is not None:
            await self.hold.wait()
        if self.failure is not None:
            raise DesktopError(self.failure)
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        address = TcpAddress("127.0.0.1", listener.socket.getsockname()[1])
        async with listener:
            if not self.reachable:
                await listener.aclose()
            task_status.started(RunningDesktop(address))
            if self.reachable:
                await trio.serve_listeners(self._serve, [listener])
            await trio.sleep_forever()

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.streams.append(stream)
        try:
            await stream.send_all(b"RFB 003.008\n")
            while data := await stream.receive_some(4096):
                self.heard += data
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


@dataclass
class Lab:
    """A workspace agent, and a client of it that knows the secret."""

    port: int
    desktop: FakeDesktop
    client: httpx.AsyncClient
    serving: trio.CancelScope

    def head(self, path: str = DEFAULT_PATH, **changes: str | None) -> bytes:
        headers: dict[str, str | None] = {
            "Host": "desk.example",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": KEY,
            "Sec-WebSocket-Version": "13",
            "Authorization": f"Bearer {SECRET}",
        }
        return request_head(f"GET {path} HTTP/1.1", headers, changes)

    async def upgrade(self, **changes: str | None) -> tuple[trio.SocketStream, bytes]:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        await stream.send_all(self.head(DEFAULT_PATH, **changes))
        return stream, await read_head(stream)

    async def refusal(self, path: str = DEFAULT_PATH, **changes: str | None) -> tuple[int, Any]:
        """Status and body of an upgrade that is refused, and the connection closed with it."""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            await stream.send_all(self.head(path, **changes))
            with trio.fail_after(5):
                status, _, body = parse(await read_all(stream))
        return status, json.loads(body)

    async def act(self, **body: Any) -> httpx.Response:
        return await self.client.post(ACTION_PATH, json=body)


@asynccontextmanager
async def workspace_agent(
    desktop: Any,
    secret: str | None = SECRET,
    tls: ssl.SSLContext | None = None,
    limits: Limits = LIMITS,
) -> AsyncIterator[Lab]:
    async with trio.open_nursery() as nursery:
        workspace = Workspace(Desktops(nursery, lambda _spec, _owner: desktop), "fake", limits)
        app = create_workspace_agent_app(workspace, None if secret is None else Password(secret))
        serving = trio.CancelScope()

        async def serve(*, task_status: trio.TaskStatus[list[str]]) -> None:
            with serving:
                await serve_app(
                    app,
                    bind=["127.0.0.1:0"],
                    limit=100,
                    end=workspace.end,
                    tls=tls,
                    task_status=task_status,
                )

        (url,) = await nursery.start(serve)
        options: dict[str, Any] = {"headers": {"Authorization": f"Bearer {SECRET}"}, "timeout": 30}
        async with httpx.AsyncClient(base_url=url, trust_env=False, **options) as client:
            yield Lab(int(url.rpartition(":")[2]), desktop, client, serving)
        serving.cancel()
        await workspace.aclose()
        nursery.cancel_scope.cancel()
