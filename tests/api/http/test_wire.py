"""Requests that two readers may think differently of, and what ends a connection, byte by byte, on
all three servers that have the same HTTP: the relay's, the workspace agent's, and MCP's."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, cast

import pytest
import trio
import trio.lowlevel
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.http.serve import serve_app
from api.mcp.http import HttpFront
from api.mcp.server import MakeSession
from tests.labs.desktop_server import KEY, parse, read_all
from tests.labs.web import start_web
from tests.labs.workspace_agent import SECRET, FakeDesktop, workspace_agent

SERVERS = ("relay", "workspace agent", "mcp")
MCP_TOKEN = b"a token for MCP"


@dataclass
class Wire:
    """A server; `secret` is a header that it lets in, `get` and `post` are paths, `upgrade` is
    where it has a WebSocket, if it has."""

    port: int
    secret: bytes
    get: bytes
    post: bytes
    upgrade: bytes

    def head(self, line: bytes, *lines: bytes) -> bytes:
        if line.startswith(b"POST"):
            lines = (b"Content-Type: application/json", *lines)
        line = line.replace(b"GET_", self.get).replace(b"POST_", self.post)
        host = b"Host: 127.0.0.1:%d" % self.port
        return b"\r\n".join([line, host, self.secret, *lines, b"", b""])

    async def ask(self, request: bytes) -> bytes:
        """All that comes until the server closes, which it must."""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            with trio.fail_after(5):
                try:
                    await stream.send_all(request)
                except trio.BrokenResourceError:
                    pass
                return await read_all(stream)


@asynccontextmanager
async def _relay() -> AsyncIterator[Wire]:
    async with trio.open_nursery() as nursery:
        web = await start_web(nursery)
        chat = await web.store.create_chat(web.alice.id, workspace_id=web.workspace.id)
        yield Wire(
            int(web.url.rpartition(":")[2]),
            f"Coder-Session-Token: {web.token}".encode(),
            b"/healthz",
            b"/api/v2/chats",
            f"/api/v2/chats/{chat.id}/desktop".encode(),
        )
        await web.aclose()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _workspace_agent() -> AsyncIterator[Wire]:
    async with workspace_agent(FakeDesktop()) as lab:
        secret = f"Authorization: Bearer {SECRET}".encode()
        yield Wire(lab.port, secret, b"/healthz", b"/api/v0/desktop/action", b"/api/v0/desktop/vnc")


@asynccontextmanager
async def _mcp(capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Wire]:
    async with trio.open_nursery() as nursery:
        front = HttpFront("127.0.0.1:0", MCP_TOKEN)
        nursery.start_soon(front.serve, cast(MakeSession, None))
        said = ""
        with trio.fail_after(10):
            while not (found := re.search(r"http://127\.0\.0\.1:([0-9]+)/mcp", said)):
                await trio.sleep(0.01)
                said += capsys.readouterr().err
        yield Wire(int(found[1]), b"Authorization: Bearer " + MCP_TOKEN, b"/mcp", b"/mcp", b"/mcp")
        nursery.cancel_scope.cancel()


@pytest.fixture(params=SERVERS)
async def wire(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Wire]:
    made: dict[str, Callable[[], AbstractAsyncContextManager[Wire]]] = {
        "relay": _relay,
        "workspace agent": _workspace_agent,
        "mcp": partial(_mcp, capsys),
    }
    async with made[request.param]() as wire:
        yield wire


GET, POST = b"GET GET_ HTTP/1.1", b"POST POST_ HTTP/1.1"
CHUNKED = b"Transfer-Encoding: chunked"
BODY = b"2\r\n{}\r\n0\r\n\r\n"


def _raw(head: bytes) -> tuple[bytes, tuple[bytes, ...], bytes]:
    """Instead of a request line and headers of `Wire.head`: the whole, as it is."""
    return b"", (), head


# Request line, headers, what is behind the head.
MALFORMED: dict[str, tuple[bytes, tuple[bytes, ...], bytes]] = {
    "TE and CL": (POST, (CHUNKED, b"Content-Length: 12"), BODY),
    "CL and TE": (POST, (b"Content-Length: 12", CHUNKED), BODY),
    "TE and CL in another case": (POST, (b"TRANSFER-encoding: chunked", b"cOntent-length:0"), BODY),
    "two equal lengths": (POST, (b"Content-Length: 2", b"Content-Length: 2"), b"{}"),
    "two lengths": (POST, (b"Content-Length: 2", b"Content-Length: 3"), b"{}"),
    "a list of lengths": (POST, (b"Content-Length: 2, 2",), b"{}"),
    "a length with a sign": (POST, (b"Content-Length: +2",), b"{}"),
    "a negative length": (POST, (b"Content-Length: -2",), b"{}"),
    "a hexadecimal length": (POST, (b"Content-Length: 0x2",), b"{}"),
    "an empty length": (POST, (b"Content-Length:",), b"{}"),
    "two codings": (POST, (CHUNKED, CHUNKED), BODY),
    "TE in HTTP/1.0": (b"POST POST_ HTTP/1.0", (CHUNKED,), BODY),
    "space before the colon": (POST, (b"Content-Length : 2",), b"{}"),
    "space before TE's colon": (POST, (b"Transfer-Encoding : chunked",), BODY),
    "a header without a colon": (GET, (b"nonsense",), b""),
    "a header without a name": (GET, (b": nonsense",), b""),
    "a folded header": (GET, (b"X-A: b\r\n c",), b""),
    "a folded header, by a tab": (GET, (b"X-A: b\r\n\tc",), b""),
    "a folded TE": (POST, (b"Transfer-Encoding:\r\n chunked",), BODY),
    "a folded first header": _raw(b"GET /healthz HTTP/1.1\r\n X: a\r\nHost: localhost\r\n\r\n"),
    "LF in a value": (GET, (b"X-A: b\nX-C: d",), b""),
    "CR in a value": (GET, (b"X-A: b\rX-C: d",), b""),
    "CR at a value's end": (GET, (b"X-A: b\r",), b""),
    "NUL in a value": (GET, (b"X-A: b\0c",), b""),
    "NUL in a name": (GET, (b"X\0A: b",), b""),
    "LF alone": _raw(b"GET /healthz HTTP/1.1\nHost: localhost\n\n"),
    "LF after the request line": _raw(b"GET /healthz HTTP/1.1\nHost: localhost\r\n\r\n"),
    "LF at the head's end": _raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\n"),
    "LF CR": _raw(b"GET /healthz HTTP/1.1\n\rHost: localhost\n\r\n\r"),
    "CR alone": _raw(b"GET /healthz HTTP/1.1\rHost: localhost\r\r\r\n\r\n"),
    "an empty line first": _raw(b"\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "an LF first": _raw(b"\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "a space first": _raw(b" GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "no host": _raw(b"GET /healthz HTTP/1.1\r\n\r\n"),
    "two hosts": (GET, (b"Host: localhost",), b""),
    "HTTP/0.9": _raw(b"GET /healthz\r\n\r\n"),
    "two spaces": (b"GET  GET_ HTTP/1.1", (), b""),
    "a tab": (b"GET\tGET_ HTTP/1.1", (), b""),
    "a target with a space": (b"GET /a b HTTP/1.1", (), b""),
    "a target with NUL": (b"GET /a\0b HTTP/1.1", (), b""),
    "a target that is not ASCII": ("GET /ä HTTP/1.1".encode(), (), b""),
    "an absolute target": (b"GET http://127.0.0.1GET_ HTTP/1.1", (), b""),
    "another server's target": (b"GET http://evil.exampleGET_ HTTP/1.1", (), b""),
    "an authority": (b"CONNECT localhost:22 HTTP/1.1", (), b""),
    "a target without its slash": (b"GET healthz HTTP/1.1", (), b""),
    "LF behind a chunk's size": (POST, (CHUNKED,), b"2\n{}\r\n0\r\n\r\n"),
    "LF alone in chunks": (POST, (CHUNKED,), b"2\n{}\n0\n\n"),
    "LF in a chunk's extension": (POST, (CHUNKED,), b"2;a\nb\r\n{}\r\n0\r\n\r\n"),
    "CR in a chunk's extension": (POST, (CHUNKED,), b"2;a\rb\r\n{}\r\n0\r\n\r\n"),
    "CR before a chunk's CRLF": (POST, (CHUNKED,), b"2;a\r\r\n{}\r\n0\r\n\r\n"),
    "NUL in a chunk's extension": (POST, (CHUNKED,), b"2;a\0b\r\n{}\r\n0\r\n\r\n"),
    "space behind a chunk's size": (POST, (CHUNKED,), b"2 \r\n{}\r\n0\r\n\r\n"),
    "a chunk's size with a sign": (POST, (CHUNKED,), b"+2\r\n{}\r\n0\r\n\r\n"),
    "a chunk's size with 0x": (POST, (CHUNKED,), b"0x2\r\n{}\r\n0\r\n\r\n"),
    "no chunk's size": (POST, (CHUNKED,), b"\r\n{}\r\n0\r\n\r\n"),
    "a huge chunk": (POST, (CHUNKED,), b"FFFFFFFFFFFFFFFFF\r\n{}\r\n0\r\n\r\n"),
    "a chunk that is too long": (POST, (CHUNKED,), b"2\r\n{}}\r\n0\r\n\r\n"),
    "LF behind a chunk": (POST, (CHUNKED,), b"2\r\n{}\n0\r\n\r\n"),
    "LF in trailers": (POST, (CHUNKED,), b"2\r\n{}\r\n0\r\nX: a\nY: b\r\n\r\n"),
    "a folded trailer": (POST, (CHUNKED,), b"2\r\n{}\r\n0\r\nX: a\r\n b\r\n\r\n"),
    "LF behind trailers": (POST, (CHUNKED,), b"2\r\n{}\r\n0\r\n\n"),
}
OTHER: dict[str, tuple[bytes, tuple[bytes, ...], bytes, int]] = {
    "identity": (POST, (b"Transfer-Encoding: identity",), b"", 501),
    "gzip": (POST, (b"Transfer-Encoding: gzip, chunked",), BODY, 501),
    "chunked, identity": (POST, (b"Transfer-Encoding: chunked, identity",), BODY, 501),
    "HTTP/1.2": (b"GET GET_ HTTP/1.2", (), b"", 505),
    "HTTP/2.0": (b"GET GET_ HTTP/2.0", (), b"", 505),
    "a head without an end": (GET, (b"X: " + b"a" * 20_000,), b"", 431),
}
REFUSED = {name: (*case, 400) for name, case in MALFORMED.items()} | OTHER


async def test_what_is_ambiguous_is_refused_and_nothing_behind_it_is_served(wire: Wire) -> None:
    wrong = {}
    for name, (line, headers, behind, status) in REFUSED.items():
        request = (wire.head(line, *headers) if line else b"") + behind
        answer = await wire.ask(request + wire.head(GET))
        found, told, _ = parse(answer)
        if (found, told["connection"], answer.count(b"HTTP/1.1 ")) != (status, "close", 1):
            wrong[name] = answer
    assert wrong == {}


async def test_who_is_answered_before_the_body_is_told_all_the_same(wire: Wire) -> None:
    stranger = replace(wire, secret=b"X-Stranger: yes")
    for name, (line, headers, behind, _) in REFUSED.items():
        if CHUNKED not in headers:
            continue
        answer = await stranger.ask(stranger.head(line, *headers) + behind + stranger.head(GET))
        found, told, _ = parse(answer)
        assert found in (400, 401), name
        assert (told["connection"], answer.count(b"HTTP/1.1 ")) == ("close", 1), name


async def test_the_same_byte_by_byte(wire: Wire) -> None:
    for name in ("LF in a value", "LF alone", "TE and CL", "LF alone in chunks"):
        line, headers, behind, status = REFUSED[name]
        request = (wire.head(line, *headers) if line else b"") + behind
        async with await trio.open_tcp_stream("127.0.0.1", wire.port) as stream:
            with trio.fail_after(5):
                try:
                    for at in range(len(request)):
                        await stream.send_all(request[at : at + 1])
                        await trio.lowlevel.checkpoint()
                except trio.BrokenResourceError:
                    pass
                assert parse(await read_all(stream))[0] == status, name


TAKEN: dict[str, tuple[bytes, tuple[bytes, ...], bytes]] = {
    "chunks": (POST, (CHUNKED,), BODY),
    "chunks with extensions": (POST, (CHUNKED,), b'2;a="b c"\r\n{}\r\n0;d\r\n\r\n'),
    "chunks with trailers": (POST, (CHUNKED,), b"2\r\n{}\r\n0\r\nX: a\r\nY: b\r\n\r\n"),
    "a length": (POST, (b"content-LENGTH: 2",), b"{}"),
    "a value with tabs": (GET, (b"X-A: \tb\tc ",), b""),
    "an empty value": (GET, (b"X-A:",), b""),
    "a body with line ends": (POST, (b"Content-Length: 6",), b"\n\r\n{}\n"),
}


async def test_what_is_not_ambiguous_is_taken(wire: Wire) -> None:
    for name, (line, headers, behind) in TAKEN.items():
        answer = await wire.ask(
            wire.head(line, *headers) + behind + wire.head(GET, b"Connection: close")
        )
        assert answer.count(b"HTTP/1.1 ") == 2, name
        assert b"Malformed HTTP request." not in answer, name


UPGRADES = {
    "websocket": (
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: " + KEY.encode(),
    ),
    "a bad websocket": (b"Connection: Upgrade", b"Upgrade: websocket"),
    "websocket without Connection": (b"Upgrade: websocket",),
    "h2c": (
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
    ),
    "TLS": (b"Connection: Upgrade", b"Upgrade: TLS/1.0"),
    "nonsense": (b"Connection: Upgrade", b"Upgrade: nonsense/9, websocket"),
}


METHODS = ("GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "BREW")


async def test_a_refused_upgrade_ends_the_connection(wire: Wire) -> None:
    wrong = {}
    for method, kind, path in product(
        METHODS, UPGRADES, {wire.upgrade, wire.get, wire.post, b"/nowhere", b"*"}
    ):
        if (method, kind, path) == ("GET", "websocket", wire.upgrade) and path != b"/mcp":
            continue  # That one is none to refuse.
        line = b"%b %b HTTP/1.1" % (method.encode(), path)
        answer = await wire.ask(wire.head(line, *UPGRADES[kind]) + wire.head(GET))
        status, headers, _ = parse(answer)
        closes = "close" in headers.get("connection", "").split(", ")
        if status == 101 or not closes or answer.count(b"HTTP/1.1 ") != 1:
            wrong[method, kind, path] = answer
    assert wrong == {}


async def test_connection_close_is_kept_every_time(wire: Wire) -> None:
    requests = [
        wire.head(GET, b"Connection: close"),
        wire.head(GET, b"Connection: x, Close"),
        wire.head(b"GET GET_ HTTP/1.0"),
        wire.head(b"GET GET_ HTTP/1.0", b"Connection: keep-alive"),
        wire.head(b"HEAD GET_ HTTP/1.1", b"Connection: close"),
        wire.head(POST, b"Connection: close", b"Content-Length: 2") + b"{}",
        wire.head(POST, b"Content-Length: 5", b"Connection: close") + b"{",
        wire.head(b"PUT /nowhere HTTP/1.1", b"Content-Length: 5") + b"{",
    ]
    for request in requests * 10:
        # A body that is not whole is waited for, by those who read it.
        waits = request.endswith(b"\r\n\r\n{") and request.startswith(b"POST")
        async with await trio.open_tcp_stream("127.0.0.1", wire.port) as stream:
            await stream.send_all(request)
            if waits:
                await stream.send_eof()
            with trio.fail_after(5):
                answer = await read_all(stream)
        assert waits or parse(answer)[1]["connection"] == "close", answer


async def _two_words() -> AsyncIterator[bytes]:
    yield b"a"
    yield b"b"


async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
    """As `GET .../stream`, and MCP's: who waits for the client's leaving cancels who sends."""
    await StreamingResponse(_two_words())(scope, receive, send)


async def test_connection_close_is_kept_by_a_streaming_answer(nursery: trio.Nursery) -> None:
    serve = partial(serve_app, cast(Any, streaming), bind=["127.0.0.1:0"], limit=10)
    (url,) = await nursery.start(serve)
    wire = Wire(int(url.rpartition(":")[2]), b"X: a", b"/", b"/", b"/")
    for line, *headers in [(GET, b"Connection: close"), (b"GET GET_ HTTP/1.0",)] * 50:
        answer = await wire.ask(wire.head(line, *headers))
        assert answer.endswith((b"ab", b"0\r\n\r\n"))
    # And without it, the next request on the connection is answered every time.
    stream = await trio.open_tcp_stream("127.0.0.1", wire.port)
    async with stream:
        for _ in range(50):
            await stream.send_all(wire.head(GET))
            answer = b""
            with trio.fail_after(5):
                while not answer.endswith(b"0\r\n\r\n"):
                    answer += (data := await stream.receive_some(4096))
                    assert data


async def test_paths_with_encoded_control_characters_are_no_bug() -> None:
    async with _relay() as wire:
        for place in (b"/%b", b"/viewer/%b", b"/chats/%b", b"/open/%b", b"/api/v2/chats/%b"):
            for text in (b"%00", b"%0d%0aX:%20a", b"%1b[2J", b"%ff", b"%e2%80%ae", b"..%2f..%2fa"):
                line = b"GET " + place % text + b" HTTP/1.1"
                answer = await wire.ask(wire.head(line, b"Connection: close"))
                assert parse(answer)[0] < 500, line
