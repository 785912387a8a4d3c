"""The desktop endpoint over real sockets, with requests written by hand.

The desktop is a listener of the test's that counts who connects.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
import trio

from api.app import create_app
from api.live import LiveSessions
from api.serve import serve
from api.services import Services
from api.settings import Settings
from api.store import Store
from relay import CloseCode, DesktopError, TcpAddress
from relay.desktops import Desktops, RunningDesktop
from relay.limits import Limits
from relay.login import DesktopEnd
from tests.peers import PIXEL_FORMAT, Frames, client_frame

KEY = base64.b64encode(b"the sample nonce").decode()


@dataclass
class FakeDesktops:
    """One desktop for everybody: the test's listener, or a failure."""

    port: int
    starts: int = 0
    failure: str | None = None
    password: None = None
    hold: trio.Event | None = None
    asked: trio.Event = field(default_factory=trio.Event)
    cancelled: trio.Event = field(default_factory=trio.Event)

    async def get(self, key: object, spec: str) -> RunningDesktop:
        self.starts += 1
        self.asked.set()
        if self.hold is not None:
            try:
                await self.hold.wait()
            except trio.Cancelled:
                self.cancelled.set()
                raise
        if self.failure is not None:
            raise DesktopError(self.failure)
        return RunningDesktop(TcpAddress("127.0.0.1", self.port))

    async def open(self, key: object, spec: str, limits: Limits) -> DesktopEnd:
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
        """RFC 6143, Sections 7.1 to 7.3, then silence."""
        self.accepted.append(stream)
        try:
            if self.garbage is not None:
                await stream.send_all(self.garbage)
            else:
                await stream.send_all(b"RFB 003.008\n")
                await stream.receive_some(12)
                await stream.send_all(b"\x01\x01")
                await stream.receive_some(1)
                await stream.send_all(b"\0\0\0\0")
                await stream.receive_some(1)
                await stream.send_all(struct.pack(">HH", 64, 48) + PIXEL_FORMAT + b"\0\0\0\x03lab")
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
        headers |= {name.replace("_", "-"): value for name, value in changes.items()}
        lines = [f"GET {path or self.path} HTTP/{version}"]
        lines += [f"{name}: {value}" for name, value in headers.items() if value is not None]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

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
        return stream, await _read_head(stream)


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
    services = Services(
        settings=Settings.model_construct(),
        store=store,
        desktops=cast(Desktops, desktops),
        limits=Limits(close_timeout_s=0.2),
        live=live,
    )
    app = create_app(services)
    async with trio.open_nursery() as nursery:
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


async def test_a_browser_gets_a_session_without_deflate(lab: Lab) -> None:
    stream, head = await lab.open(Origin=f"http://127.0.0.1:{lab.port}")
    async with stream:
        status, headers, _ = parse(head)
        assert status == 101
        # RFC 6455, Section 4.2.2, step 5.
        guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(KEY.encode() + guid).digest()).decode()
        assert headers["sec-websocket-accept"] == accept
        assert "sec-websocket-extensions" not in headers
        assert "sec-websocket-protocol" not in headers
        frames = Frames(stream)
        for answer in (b"RFB 003.008\n", b"\x01", b"\x01"):
            await stream.send_all(client_frame(answer))
        init = struct.pack(">HH", 64, 48) + PIXEL_FORMAT + b"\0\0\0\x03lab"
        assert await frames.binary(18 + len(init)) == b"RFB 003.008\n\x01\x01\0\0\0\0" + init


@pytest.mark.parametrize(
    "where",
    [
        lambda token: {"Coder_Session_Token": token},
        lambda token: {"Coder_Session_Token": None, "Authorization": f"Bearer {token}"},
        lambda token: {
            "Coder_Session_Token": None,
            "Cookie": f"coder_session_token={token}",
            "Origin": "same",
        },
    ],
    ids=["header", "bearer", "cookie"],
)
async def test_the_token_may_be_in(lab: Lab, where: Callable[[str], dict[str, Any]]) -> None:
    changes = where(lab.token)
    if changes.get("Origin") == "same":
        changes["Origin"] = f"http://127.0.0.1:{lab.port}"
    stream, head = await lab.open(**changes)
    await stream.aclose()
    assert b" 101 " in head


async def test_the_token_may_be_in_the_query(lab: Lab) -> None:
    path = f"{lab.path}?coder_session_token={lab.token}"
    stream, head = await lab.open(Coder_Session_Token=None, path=path)
    await stream.aclose()
    assert b" 101 " in head


@pytest.mark.parametrize("prefix", ["/api/v2", "/api/experimental"])
@pytest.mark.parametrize("tail", ["desktop", "stream/desktop"])
async def test_aliases(lab: Lab, prefix: str, tail: str) -> None:
    stream, head = await lab.open(path=f"{prefix}/chats/{lab.chat}/{tail}")
    await stream.aclose()
    assert b" 101 " in head


REFUSALS: dict[str, tuple[Callable[[Lab], bytes], int, str]] = {
    "no token": (
        lambda lab: lab.head(Coder_Session_Token=None),
        401,
        "You are signed out or your session has expired. Please sign in again to continue.",
    ),
    "bad token": (
        lambda lab: lab.head(Coder_Session_Token="0123456789-" + "x" * 22),
        401,
        "You are signed out or your session has expired. Please sign in again to continue.",
    ),
    "foreign origin": (lambda lab: lab.head(Origin="https://evil.example"), 403, "Forbidden."),
    "null origin": (lambda lab: lab.head(Origin="null"), 403, "Forbidden."),
    "cookie without origin": (
        lambda lab: lab.head(Coder_Session_Token=None, Cookie=f"coder_session_token={lab.token}"),
        403,
        "Forbidden.",
    ),
    "unknown chat": (
        lambda lab: lab.head(f"/api/v2/chats/{uuid4()}/desktop"),
        404,
        "Resource not found or you do not have access to this resource",
    ),
    "not a uuid": (
        lambda lab: lab.head("/api/v2/chats/nonsense/desktop"),
        400,
        'Invalid UUID "chat".',
    ),
    "plain GET": (
        lambda lab: lab.head(Upgrade=None, Connection="close"),
        426,
        "WebSocket upgrade required.",
    ),
    "version 8": (
        lambda lab: lab.head(Sec_WebSocket_Version="8"),
        400,
        "Bad WebSocket upgrade request.",
    ),
    "no key": (
        lambda lab: lab.head(Sec_WebSocket_Key=None),
        400,
        "Bad WebSocket upgrade request.",
    ),
    "short key": (
        lambda lab: lab.head(Sec_WebSocket_Key="c2hvcnQ="),
        400,
        "Bad WebSocket upgrade request.",
    ),
    "two keys": (
        lambda lab: lab.head(sec_websocket_key=KEY),
        400,
        "Bad WebSocket upgrade request.",
    ),
    "body": (lambda lab: lab.head(Content_Length="5"), 400, "Bad WebSocket upgrade request."),
    "http 9.9": (lambda lab: lab.head(version="9.9"), 505, "HTTP version not supported."),
    "http 1.0": (lambda lab: lab.head(version="1.0"), 426, "WebSocket upgrade required."),
    "HEAD": (lambda lab: b"HEAD" + lab.head().removeprefix(b"GET"), 405, ""),
    "POST": (
        lambda lab: b"POST" + lab.head(Connection="Upgrade, close").removeprefix(b"GET"),
        405,
        "Method not allowed.",
    ),
    "two hosts": (lambda lab: lab.head(host="127.0.0.1"), 400, "Malformed HTTP request."),
    "no upgrade": (
        lambda lab: lab.head(Upgrade="h2c"),
        426,
        "WebSocket upgrade required.",
    ),
    "view_only=perhaps": (
        lambda lab: lab.head(path=f"{lab.path}?view_only=perhaps"),
        400,
        "Validation failed.",
    ),
    "two upgrades": (
        lambda lab: lab.head(upgrade="h2c"),
        426,
        "WebSocket upgrade required.",
    ),
    "two versions": (
        lambda lab: lab.head(sec_websocket_version="13"),
        400,
        "Bad WebSocket upgrade request.",
    ),
    "chunked body": (
        lambda lab: lab.head(Transfer_Encoding="chunked"),
        400,
        "Bad WebSocket upgrade request.",
    ),
    "foreign host": (
        lambda lab: lab.head(Host="evil.example"),
        421,
        "This server does not answer for that host.",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_refused_before_any_desktop(lab: Lab, name: str) -> None:
    make, status, message = REFUSALS[name]
    got, headers, body = await lab.ask(make(lab))
    assert got == status
    if message:
        assert headers["content-type"] == "application/json; charset=utf-8"
        assert json.loads(body)["message"] == message
    if status == 426:
        assert headers["upgrade"] == "websocket"
    if status == 426 or "version" in name:
        assert headers["sec-websocket-version"] == "13"
    assert lab.desktops.starts == 0
    assert lab.accepted == []


async def test_an_archived_chat_opens_no_desktop(lab: Lab) -> None:
    await lab.store.set_archived(lab.chat, True)
    status, _, body = await lab.ask(lab.head())
    assert (status, json.loads(body)["message"]) == (400, "Chat is archived.")
    assert lab.desktops.starts == 0


async def test_a_chat_without_workspace(lab: Lab) -> None:
    user = await lab.store.ensure_user("alice")
    chat = await lab.store.create_chat(user.id, title="", workspace_id=None)
    status, _, body = await lab.ask(lab.head(f"/api/v2/chats/{chat.id}/desktop"))
    assert (status, json.loads(body)["message"]) == (400, "Chat has no workspace.")


async def test_somebody_elses_chat_looks_unknown(lab: Lab) -> None:
    bob = await lab.store.ensure_user("bob")
    status, _, _ = await lab.ask(lab.head(Coder_Session_Token=await lab.store.create_token(bob.id)))
    assert status == 404
    assert lab.desktops.starts == 0


async def test_a_desktop_that_does_not_start_says_why(lab: Lab) -> None:
    lab.desktops.failure = "Xvnc ended: no fonts"
    status, _, body = await lab.ask(lab.head())
    assert status == 500
    assert json.loads(body) == {
        "message": "Failed to connect to agent desktop.",
        "detail": "Xvnc ended: no fonts",
    }
    # A page cannot read that answer; it asks the chat, until the desktop opens again.
    assert (await lab.look())["desktop_problem"] == "Xvnc ended: no fonts"
    lab.desktops.failure = None
    viewer, _ = await lab.open()
    await viewer.aclose()
    assert "desktop_problem" not in await lab.look()


@pytest.mark.parametrize(
    ("garbage", "detail"),
    [
        (b"SSH-2.0-OpenSSH_9\r\n", "does not speak RFB"),
        # RFC 6143, Section 7.1.2: no security types, then a reason.
        (b"RFB 003.008\n\0\0\0\0\x08too many", "refused the connection: too many"),
        (b"RFB 003.008\n\x01\x13", "VeNCrypt"),
    ],
    ids=["ssh", "refusal", "security"],
)
async def test_what_is_no_desktop_is_told_before_the_101(
    lab: Lab, garbage: bytes, detail: str
) -> None:
    lab.garbage = garbage
    status, _, body = await lab.ask(lab.head())
    assert status == 500
    assert detail in json.loads(body)["detail"]


async def test_a_refused_desktop_is_counted_by_rule(lab: Lab) -> None:
    lab.garbage = b"SSH-2.0-OpenSSH_9\r\n"
    await lab.ask(lab.head())
    assert b'rule="banner"} 1.0' in await lab.metrics()


async def test_archiving_ends_the_session(lab: Lab) -> None:
    stream, _ = await lab.open()
    async with stream:
        frames = Frames(stream)
        await frames.binary(12)
        request = (
            f"POST /api/v2/chats/{lab.chat}/archive HTTP/1.1\r\nHost: 127.0.0.1:{lab.port}\r\n"
            f"Coder-Session-Token: {lab.token}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        )
        assert (await lab.ask(request.encode()))[0] == 204
        assert await frames.close() == (CloseCode.ARCHIVED, "chat archived")


@pytest.mark.parametrize("at_once", [True, False], ids=["in one piece", "while it starts"])
async def test_a_viewer_that_does_not_wait_for_the_101_loses_nothing(
    lab: Lab, at_once: bool
) -> None:
    lab.desktops.hold = trio.Event()
    stream = await lab.connect()
    async with stream:
        early = b"".join(client_frame(answer) for answer in (b"RFB 003.008\n", b"\x01", b"\x01"))
        if at_once:
            await stream.send_all(lab.head() + early)
            await lab.desktops.asked.wait()
        else:
            await stream.send_all(lab.head())
            await lab.desktops.asked.wait()
            await stream.send_all(early)
        lab.desktops.hold.set()
        head = await _read_head(stream)
        assert b" 101 " in head
        init = struct.pack(">HH", 64, 48) + PIXEL_FORMAT + b"\0\0\0\x03lab"
        assert await Frames(stream).binary(18 + len(init)) == (
            b"RFB 003.008\n\x01\x01\0\0\0\0" + init
        )


@pytest.mark.parametrize(
    "header",
    [
        b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=x",
        b"Sec-WebSocket-Extensions: \xff",
        b"Sec-WebSocket-Protocol: \xff, binary",
    ],
)
async def test_what_is_declined_is_not_even_read(lab: Lab, header: bytes) -> None:
    head = lab.head(Sec_WebSocket_Extensions=None).removesuffix(b"\r\n") + header + b"\r\n\r\n"
    stream = await lab.connect()
    async with stream:
        await stream.send_all(head)
        answer = (await _read_head(stream)).lower()
    assert b" 101 " in answer
    assert b"sec-websocket-extensions" not in answer
    assert b"sec-websocket-protocol" not in answer


async def test_connection_may_stand_in_several_lines(lab: Lab) -> None:
    # RFC 9110, Section 5.2: they are one list.
    head = lab.head().removesuffix(b"\r\n") + b"Connection: keep-alive\r\n\r\n"
    stream = await lab.connect()
    async with stream:
        await stream.send_all(head)
        assert b" 101 " in await _read_head(stream)


async def test_archiving_refuses_who_waits_for_the_desktop(lab: Lab) -> None:
    lab.desktops.hold = trio.Event()
    stream = await lab.connect()
    async with stream:
        await stream.send_all(lab.head())
        await lab.desktops.asked.wait()
        lab.live.end_chat(lab.chat, CloseCode.ARCHIVED, "chat archived")
        status, _, body = parse(await _read_all(stream))
    assert (status, json.loads(body)["message"]) == (400, "Chat is archived.")
    assert lab.live.count == 0
    assert lab.accepted == []


async def test_a_viewer_that_leaves_takes_its_start_along(lab: Lab) -> None:
    lab.desktops.hold = trio.Event()
    stream = await lab.connect()
    await stream.send_all(lab.head())
    await lab.desktops.asked.wait()
    await stream.aclose()
    with trio.fail_after(5):
        await lab.desktops.cancelled.wait()
        while lab.live.count:
            await trio.sleep(0.01)
    assert lab.accepted == []


async def test_one_session_too_many_starts_no_desktop(lab: Lab) -> None:
    lab.live.capacity = 1
    stream, _ = await lab.open()
    async with stream:
        status, headers, body = await lab.ask(lab.head())
        assert (status, json.loads(body)["message"]) == (503, "Too many desktop sessions.")
        assert headers["retry-after"] == "10"
        assert lab.desktops.starts == 1
        await Frames(stream).binary(12)  # the first one goes on


KEY_EVENT = bytes.fromhex("0401000000000061")
KEY_RELEASED = bytes.fromhex("0400000000000061")
GREETING = client_frame(b"RFB 003.008\n") + client_frame(b"\x01\x01")


@pytest.mark.parametrize(
    ("query", "heard"),
    [
        ("", KEY_EVENT + KEY_RELEASED),
        ("?view_only=1", b""),
        ("?view_only=1&view_only=0", b""),
    ],
    ids=["full", "view", "both"],
)
async def test_who_asks_only_to_view_touches_nothing(lab: Lab, query: str, heard: bytes) -> None:
    stream = await lab.connect()
    async with stream:
        await stream.send_all(lab.head(path=lab.path + query))
        await _read_head(stream)
        await stream.send_all(GREETING + client_frame(KEY_EVENT))
        await Frames(stream).binary(18 + 24 + 3)
        await stream.send_all(client_frame(struct.pack(">H", 1000), opcode=8))
        with trio.fail_after(5):
            while lab.live.count:
                await trio.sleep(0.01)
    with trio.fail_after(5):
        while lab.accepted[0].socket.fileno() >= 0:
            await trio.sleep(0.01)
    assert lab.heard == heard


async def test_refusals_are_counted_by_rule(lab: Lab) -> None:
    stream, _ = await lab.open()
    async with stream:
        await stream.send_all(GREETING + client_frame(b"\x63"))
        assert await Frames(stream).close() == (
            CloseCode.POLICY,
            "the viewer broke the protocol: message type",
        )
    with trio.fail_after(5):
        while lab.live.count:
            await trio.sleep(0.01)
    lines = (await lab.metrics()).decode().splitlines()
    assert 'deskrelay_refusals_total{direction="from_viewer",rule="message-type"} 1.0' in lines
    assert 'deskrelay_sessions_ended_total{reason="viewer_fault"} 1.0' in lines
    assert "deskrelay_sessions_live 0.0" in lines


async def test_a_revoked_token_ends_its_session(lab: Lab) -> None:
    stream, _ = await lab.open()
    async with stream:
        frames = Frames(stream)
        await frames.binary(12)
        lab.live.end_token(lab.token.partition("-")[0], CloseCode.SIGNED_OUT, "signed out")
        assert await frames.close() == (CloseCode.SIGNED_OUT, "signed out")


async def test_stopping_answers_who_waits_for_a_desktop(lab: Lab) -> None:
    lab.desktops.hold = trio.Event()
    stream = await lab.connect()
    async with stream:
        await stream.send_all(lab.head())
        await lab.desktops.asked.wait()
        lab.serving.cancel()
        status, _, body = parse(await _read_all(stream))
    assert (status, json.loads(body)["message"]) == (503, "Server is going away.")


async def _read_head(stream: trio.SocketStream) -> bytes:
    head = b""
    with trio.fail_after(5):
        while not head.endswith(b"\r\n\r\n"):
            data = await stream.receive_some(1)
            assert data, head
            head += data
    return head


async def _read_all(stream: trio.SocketStream) -> bytes:
    """To the end, which may be a reset: the server does not read what it refuses."""
    answer = b""
    try:
        while data := await stream.receive_some(4096):
            answer += data
    except trio.BrokenResourceError:
        pass
    return answer


async def test_stopping_says_goodbye_and_waits_for_nobody(lab: Lab) -> None:
    stream, _ = await lab.open()
    deaf = await lab.connect()
    async with stream, deaf:
        frames = Frames(stream)
        await frames.binary(12)
        # A client that asks much and reads nothing: its answers wait in shielded sends.
        request = f"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1:{lab.port}\r\n\r\n"
        with trio.move_on_after(0.5):
            await deaf.send_all(request.encode() * 2000)
        lab.serving.cancel()
        assert await frames.close() == (CloseCode.GOING_AWAY, "the server is going away")
        with trio.fail_after(4):
            await lab.stopped.wait()


async def test_a_hundred_sessions_leave_nothing_behind(lab: Lab) -> None:
    async def one() -> None:
        stream, _ = await lab.open()
        async with stream:
            await Frames(stream).binary(12)

    await one()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        await one()
    with trio.fail_after(10):
        while lab.live.count or len(os.listdir("/proc/self/fd")) > before:
            await trio.sleep(0.02)
    assert lab.desktops.starts == 101
