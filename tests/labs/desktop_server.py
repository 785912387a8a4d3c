"""A server and the desktop behind it, over real sockets, for requests written by hand.

The desktop is a listener of the test's that counts who connects.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast
from uuid import UUID

import pytest
import trio

from api.app import create_app
from api.http.serve import serve
from api.live import LiveSessions
from api.store import Store
from relay import DesktopError, TcpAddress
from relay.desktops import Desktops, RunningDesktop
from relay.dialling.login import DesktopEnd
from relay.limits import Limits
from tests.labs.peers import say_hello
from tests.labs.services import services_over

KEY = base64.b64encode(b"the sample nonce").decode()


@dataclass
class FakeDesktops:
    """One desktop for everybody: the test's listener, or a failure."""

    port: int
    starts: int = 0
    failure: DesktopError | ValueError | None = None
    password: None = None
    hold: trio.Event | None = None
    asked: trio.Event = field(default_factory=trio.Event)
    cancelled: trio.Event = field(default_factory=trio.Event)

    async def get(self, key: object, spec: str, owner: str = "") -> RunningDesktop:
        self.starts += 1
        self.asked.set()
        if self.hold is not None:
            try:
                await self.hold.wait()
            except trio.Cancelled:
                self.cancelled.set()
                raise
        if self.failure is not None:
            raise self.failure
        return RunningDesktop(TcpAddress("127.0.0.1", self.port))

    async def open(self, key: object, spec: str, limits: Limits, owner: str = "") -> DesktopEnd:
        return await (await self.get(key, spec)).open(limits)


@dataclass
class Lab:
    """A server, its store, and the desktop behind it."""

    port: int
    store: Store
    desktops: FakeDesktops
    live: LiveSessions
    token: str
    chat: UUID
    accepted: list[trio.SocketStream] = field(default_factory=list)
    heard: bytearray = field(default_factory=bytearray)
    serving: trio.CancelScope = field(default_factory=trio.CancelScope)
    stopped: trio.Event = field(default_factory=trio.Event)
    garbage: bytes | None = None

    async def desktop(self, stream: trio.SocketStream) -> None:
        """A handshake, then silence."""
        self.accepted.append(stream)
        try:
            if self.garbage is not None:
                await stream.send_all(self.garbage)
            else:
                await say_hello(stream, 64, 48)
            while data := await stream.receive_some(4096):
                self.heard += data
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(stream)

    def head(self, path: str | None = None, version: str = "1.1", **changes: Any) -> bytes:
        """An upgrade request as browsers write it; `changes` replaces headers, None drops one."""
        headers: dict[str, str | None] = {
            "Host": f"127.0.0.1:{self.port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": KEY,
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
            "Coder-Session-Token": self.token,
        }
        return request_head(f"GET {path or self.path} HTTP/{version}", headers, changes)

    @property
    def path(self) -> str:
        return f"/api/v2/chats/{self.chat}/desktop"

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Sends a request; status, headers and body of an answer after which the server closes."""
        stream = await self.connect()
        async with stream:
            await stream.send_all(request)
            answer = b""
            with trio.fail_after(5):
                while data := await stream.receive_some(65536):
                    answer += data
        return parse(answer)

    async def look(self) -> dict[str, Any]:
        """The chat over HTTP."""
        request = (
            f"GET /api/v2/chats/{self.chat} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Connection: close\r\nCoder-Session-Token: {self.token}\r\n\r\n"
        )
        chat: dict[str, Any] = json.loads((await self.ask(request.encode()))[2])
        return chat

    async def metrics(self) -> bytes:
        request = f"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nConnection: close\r\n"
        assert (await self.ask(f"{request}\r\n".encode()))[0] == 401
        signed_in = f"{request}Authorization: Bearer {self.token}\r\n\r\n"
        status, headers, body = await self.ask(signed_in.encode())
        assert (status, headers["content-type"].partition(";")[0]) == (200, "text/plain")
        return body

    async def open(self, **changes: Any) -> tuple[trio.SocketStream, bytes]:
        """A session: the stream right behind the 101, and the 101."""
        stream = await self.connect()
        await stream.send_all(self.head(**changes))
        return stream, await read_head(stream)


def request_head(
    line: str, headers: Mapping[str, str | None], changes: Mapping[str, str | None]
) -> bytes:
    """A request without a body. `changes` has names with _ for -, and None for what is not sent."""
    changed = {**headers, **{name.replace("_", "-"): value for name, value in changes.items()}}
    lines = [f"{name}: {value}" for name, value in changed.items() if value is not None]
    return "\r\n".join([line, *lines, "\r\n"]).encode()


def parse(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
    return int(status.split()[1]), headers, body


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    store = await Store.open("sqlite://")
    user = await store.ensure_user("alice")
    workspace = await store.add_workspace(user.id, "dev", "pattern")
    chat = await store.create_chat(user.id, title="", workspace_id=workspace.id)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    desktops = FakeDesktops(listener.socket.getsockname()[1])
    live = LiveSessions()
    async with trio.open_nursery() as nursery:
        services = services_over(
            nursery, store, cast(Desktops, desktops), live, limits=Limits(close_timeout_s=0.2)
        )
        app = create_app(services)
        made = Lab(0, store, desktops, live, await store.create_token(user.id), chat.id)

        async def serve_until_stopped(
            *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED
        ) -> None:
            with made.serving:
                await serve(app, bind=["127.0.0.1:0"], task_status=task_status)
            made.stopped.set()

        (url,) = await nursery.start(serve_until_stopped)
        made.port = int(url.rpartition(":")[2])
        nursery.start_soon(partial(trio.serve_listeners, made.desktop, [listener]))
        yield made
        nursery.cancel_scope.cancel()
    await store.aclose()


async def read_head(stream: trio.SocketStream) -> bytes:
    head = b""
    with trio.fail_after(5):
        while not head.endswith(b"\r\n\r\n"):
            data = await stream.receive_some(1)
            assert data, head
            head += data
    return head


async def read_all(stream: trio.SocketStream) -> bytes:
    """To the end, which may be a reset: the server does not read what it refuses."""
    answer = b""
    try:
        while data := await stream.receive_some(4096):
            answer += data
    except trio.BrokenResourceError:
        pass
    return answer
