"""The way to a workspace agent, against some that answer what they like."""

from __future__ import annotations

import base64
import hashlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair

from relay import (
    Password,
    PasswordFile,
    WorkspaceAgentAddress,
    WorkspaceAgentCredentials,
    WorkspaceAgentError,
    WorkspaceAgentStep,
)
from relay.dialling.addresses import dial, parse_address
from relay.dialling.workspace_agent import ANSWER_TIMEOUT_S, TLS_TIMEOUT_S, client_tls, upgraded
from relay.net.websocket import BINARY, frame
from relay.net.websocket_stream import WebSocketStream
from tests.labs.certificates import Authority

ADDRESS = WorkspaceAgentAddress("ws", "desk.example", 6081)
SECRET = "correct horse battery"
Answer = Callable[[dict[str, str]], bytes]


def switching(headers: dict[str, str], extra: str = "") -> bytes:
    # RFC 6455, Section 4.2.2, step 5.
    guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    digest = hashlib.sha1(headers["sec-websocket-key"].encode() + guid).digest()
    accept = base64.b64encode(digest).decode()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n{extra}\r\n"
    ).encode()


async def ask(
    answer: Answer, address: WorkspaceAgentAddress = ADDRESS
) -> tuple[WebSocketStream, str, dict[str, str]]:
    """What comes of dialling a workspace agent that answers so, the request line, the headers."""
    near, far = memory_stream_pair()
    result: list[WebSocketStream] = []
    async with trio.open_nursery() as nursery:

        async def dialled() -> None:
            result.append(await upgraded(near, address))

        nursery.start_soon(dialled)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await far.receive_some()
        line, *lines = head.decode().strip().split("\r\n")
        pairs = (one.partition(": ") for one in lines)
        headers = {name.lower(): value for name, _, value in pairs}
        await far.send_all(answer(headers))
        far.send_stream.close()
    return result[0], line, headers


async def refused(answer: Answer, address: WorkspaceAgentAddress = ADDRESS) -> WorkspaceAgentError:
    with pytest.raises(BaseExceptionGroup) as caught:
        await ask(answer, address)
    (error,) = caught.value.exceptions
    assert isinstance(error, WorkspaceAgentError)
    return error


async def test_it_asks_as_rfc_6455_has_it() -> None:
    address = replace(ADDRESS, credentials=WorkspaceAgentCredentials(Password(SECRET)))
    stream, line, headers = await ask(switching, address)
    assert line == "GET /api/v0/desktop/vnc HTTP/1.1"
    assert len(base64.b64decode(headers.pop("sec-websocket-key"), validate=True)) == 16
    assert headers == {
        "host": "desk.example:6081",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-version": "13",
        "authorization": f"Bearer {SECRET}",
    }
    assert await stream.receive_some() == b""


async def test_what_comes_with_the_101_is_kept() -> None:
    stream, _, headers = await ask(
        lambda headers: switching(headers) + frame(BINARY, b"RFB 003.008\n")
    )
    assert await stream.receive_some() == b"RFB 003.008\n"
    assert "authorization" not in headers


async def test_hints_before_the_101_are_passed_over() -> None:
    await ask(lambda headers: b"HTTP/1.1 103 Early Hints\r\n\r\n" + switching(headers))


def plain(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


WRONG: dict[str, tuple[Answer, WorkspaceAgentStep, str]] = {
    "wrong secret": (
        lambda _: plain("401 Unauthorized", b'{"message": "Unauthorized.", "detail": "Why."}'),
        WorkspaceAgentStep.DIAL,
        "ws://desk.example:6081 answered 401: Unauthorized. Why.",
    ),
    "forbidden": (
        lambda _: plain("403 Forbidden", b"no"),
        WorkspaceAgentStep.DIAL,
        "answered 403: no",
    ),
    "its desktop does not start": (
        lambda _: plain(
            "500 Internal Server Error",
            b'{"message": "Failed to start desktop session.", "detail": "Xvnc is not installed"}',
        ),
        WorkspaceAgentStep.DESKTOP,
        "answered 500: Failed to start desktop session. Xvnc is not installed",
    ),
    "a page": (
        lambda _: plain("200 OK", b"<html>\x1b[31m" + b"x" * 10_000),
        WorkspaceAgentStep.DESKTOP,
        "answered 200: <html> [31mxxx",
    ),
    "half a character": (
        lambda _: plain("500 x", b'{"message": "no \\ud83d"}'),
        WorkspaceAgentStep.DESKTOP,
        "answered 500: no ?",
    ),
    "half a character, cut": (
        lambda _: b'HTTP/1.1 500 x\r\nContent-Length: 99\r\n\r\n{"message": "no \\ud83d"}',
        WorkspaceAgentStep.DESKTOP,
        "answered 500: no ?",
    ),
    "a list": (
        lambda _: plain("200 OK", b"[1]"),
        WorkspaceAgentStep.DESKTOP,
        "answered 200: nothing more",
    ),
    "an empty body": (
        lambda _: plain("404 x", b""),
        WorkspaceAgentStep.DESKTOP,
        "404: nothing more",
    ),
    "a body that is cut": (
        lambda _: b"HTTP/1.1 500 x\r\nContent-Length: 100\r\n\r\nwhat is",
        WorkspaceAgentStep.DESKTOP,
        "answered 500: what is",
    ),
    "another key's answer": (
        lambda _: switching({"sec-websocket-key": "x"}),
        WorkspaceAgentStep.DESKTOP,
        "answered with a 101 that is none of a WebSocket",
    ),
    "an extension nobody offered": (
        lambda headers: switching(headers, "Sec-WebSocket-Extensions: permessage-deflate\r\n"),
        WorkspaceAgentStep.DESKTOP,
        "answered with a 101 that is none of a WebSocket",
    ),
    "a protocol nobody offered": (
        lambda headers: switching(headers, "Sec-WebSocket-Protocol: \xff\r\n"),
        WorkspaceAgentStep.DESKTOP,
        "answered with a 101 that is none of a WebSocket",
    ),
    "chunks that are none": (
        lambda _: b"HTTP/1.1 502 x\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n\r\n",
        WorkspaceAgentStep.DESKTOP,
        "answered 502: no chunk",
    ),
    "an endless refusal": (
        lambda _: b"HTTP/1.1 403 x\r\n\r\n" + b"no " * 50_000,
        WorkspaceAgentStep.DIAL,
        "answered 403: no no no",
    ),
    "RFB": (
        lambda _: b"RFB 003.008\r\n\r\n",
        WorkspaceAgentStep.DESKTOP,
        "does not answer as a workspace agent",
    ),
    "a long line": (
        lambda _: b"\x1b" * 5_000 + b"\r\n\r\n",
        WorkspaceAgentStep.DESKTOP,
        "does not answer as a workspace agent",
    ),
    "nothing": (
        lambda _: b"",
        WorkspaceAgentStep.DIAL,
        "closed the connection before it had answered",
    ),
    "half a head": (
        lambda _: b"HTTP/1.1 101",
        WorkspaceAgentStep.DIAL,
        "closed the connection before it had answered",
    ),
    "an endless head": (
        lambda _: b"HTTP/1.1 101 x\r\nX: " + b"x" * 20_000,
        WorkspaceAgentStep.DESKTOP,
        "does not answer as a workspace agent",
    ),
}


@pytest.mark.parametrize("name", WRONG)
async def test_an_answer_that_is_no_desktop(name: str) -> None:
    answer, step, text = WRONG[name]
    error = await refused(answer)
    assert error.step is step
    assert text in str(error)
    assert len(str(error)) < 400
    assert str(error).isprintable()


BASES: dict[str, Answer] = {
    "101": switching,
    "chunks": lambda _: b"HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    "hint": lambda _: b"HTTP/1.1 103 Early Hints\r\n\r\n" + plain("404 x", b"no"),
}
Change = tuple[float, int]


@given(
    st.sampled_from(sorted(BASES)),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=4),
)
def test_a_damaged_answer_is_a_workspace_agents_error(name: str, changes: list[Change]) -> None:
    def answer(headers: dict[str, str]) -> bytes:
        data = bytearray(BASES[name](headers))
        for where, byte in changes:
            data[int(where * len(data))] = byte
        return bytes(data)

    async def dialled() -> None:
        try:
            await ask(answer)
        except* WorkspaceAgentError:
            pass  # Of another error the run would end.

    trio.run(dialled, clock=MockClock(autojump_threshold=0))


async def test_a_workspace_agent_that_does_not_answer(autojump_clock: MockClock) -> None:
    near, far = memory_stream_pair()
    began = trio.current_time()
    with pytest.raises(WorkspaceAgentError, match="did not answer in time") as caught:
        await upgraded(near, ADDRESS)
    assert caught.value.step is WorkspaceAgentStep.TIMEOUT
    assert trio.current_time() - began == ANSWER_TIMEOUT_S
    assert b"GET " in await far.receive_some()
    assert await far.receive_some() == b"", "the connection was left open"


async def test_a_workspace_agent_that_drips(autojump_clock: MockClock) -> None:
    near, far = memory_stream_pair()

    async def drip() -> None:
        try:
            while True:
                await far.send_all(b"HTTP/1.1 102 x\r\n\r\n")
                await trio.sleep(1)
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        with pytest.raises(WorkspaceAgentError, match="did not answer in time"):
            await upgraded(near, ADDRESS)


async def test_a_workspace_agent_that_says_nothing_of_tls(autojump_clock: MockClock) -> None:
    near, far = trio.socket.socketpair()
    began = trio.current_time()
    with far, pytest.raises(WorkspaceAgentError) as caught:
        await upgraded(trio.SocketStream(near), replace(ADDRESS, scheme="wss"))
    assert caught.value.step is WorkspaceAgentStep.TIMEOUT
    assert trio.current_time() - began == TLS_TIMEOUT_S


@pytest.mark.parametrize("said", [b"", b"busy\r\n"])
async def test_a_workspace_agent_that_is_gone_before_tls_begins(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = await trio.open_tcp_stream(*listener.getsockname())
        far, _ = listener.accept()
        # With a reset.
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.sendall(said)
        far.close()
        with pytest.raises(WorkspaceAgentError) as caught:
            await upgraded(near, replace(ADDRESS, scheme="wss"))
    assert caught.value.step is WorkspaceAgentStep.DIAL
    assert near.socket.fileno() == -1


async def test_nobody_listens() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(WorkspaceAgentError, match="Connection refused") as caught:
        await dial(parse_address(f"ws://127.0.0.1:{port}"), timeout_s=5)
    assert caught.value.step is WorkspaceAgentStep.DISCONNECTED


@pytest.mark.parametrize("secret", ["line\nbreak", "zero\0"])
async def test_a_secret_that_no_header_can_have_shows_itself_nowhere(secret: str) -> None:
    near, _far = memory_stream_pair()
    address = replace(ADDRESS, credentials=WorkspaceAgentCredentials(Password(secret)))
    with pytest.raises(
        WorkspaceAgentError, match="has characters that a header cannot have"
    ) as caught:
        await upgraded(near, address)
    assert secret not in str(caught.value)
    assert caught.value.__suppress_context__
    assert secret not in repr(address)


async def test_a_secret_file_that_cannot_be_read(tmp_path: Path) -> None:
    near, _far = memory_stream_pair()
    credentials = WorkspaceAgentCredentials(PasswordFile(tmp_path / "gone"))
    with pytest.raises(WorkspaceAgentError, match="cannot read") as caught:
        await upgraded(near, replace(ADDRESS, credentials=credentials))
    assert caught.value.step is WorkspaceAgentStep.DIAL


# TLS


@asynccontextmanager
async def tls_workspace_agent(context: ssl.SSLContext) -> AsyncIterator[int]:
    """The port of a workspace agent that answers every upgrade."""

    async def serve(raw: trio.SocketStream) -> None:
        stream = trio.SSLStream(raw, context, server_side=True, https_compatible=True)
        try:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                data = await stream.receive_some()
                if not data:
                    return
                head += data
            key = head.decode().split("Sec-WebSocket-Key: ")[1].split("\r\n")[0]
            await stream.send_all(switching({"sec-websocket-key": key}) + frame(BINARY, b"hi"))
            await stream.receive_some()
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(stream)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


async def said(port: int, credentials: WorkspaceAgentCredentials) -> bytes:
    address = parse_address(f"wss://127.0.0.1:{port}", credentials)
    stream = await dial(address, timeout_s=5)
    try:
        return bytes(await stream.receive_some())
    finally:
        await trio.aclose_forcefully(stream)


def workspace_agent_context(authority: Authority, address: str = "127.0.0.1") -> ssl.SSLContext:
    mine = authority.vouch("workspace", address)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(mine.cert, mine.key)
    return context


async def test_tls(authority: Authority) -> None:
    async with tls_workspace_agent(workspace_agent_context(authority)) as port:
        trusting = WorkspaceAgentCredentials(tls=client_tls(authority.cert))
        assert await said(port, trusting) == b"hi"


async def test_a_certificate_of_an_authority_nobody_knows(authority: Authority) -> None:
    async with tls_workspace_agent(workspace_agent_context(authority)) as port:
        with pytest.raises(WorkspaceAgentError, match="no TLS with wss:") as caught:
            await said(port, WorkspaceAgentCredentials())
    assert caught.value.step is WorkspaceAgentStep.DIAL


async def test_a_certificate_of_another_machine(authority: Authority) -> None:
    async with tls_workspace_agent(workspace_agent_context(authority, "127.0.0.2")) as port:
        with pytest.raises(WorkspaceAgentError, match="IP address mismatch") as caught:
            await said(port, WorkspaceAgentCredentials(tls=client_tls(authority.cert)))
    assert caught.value.step is WorkspaceAgentStep.DIAL


def test_no_peer_has_a_handshake_repeated() -> None:
    assert client_tls(None).options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize("known", ["none", "another authority's", "right"])
async def test_the_workspace_agent_wants_a_certificate(
    authority: Authority, tmp_path: Path, known: str
) -> None:
    context = workspace_agent_context(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.cert)
    tls = client_tls(authority.cert)
    if known != "none":
        other = authority if known == "right" else Authority(tmp_path, "other")
        mine = other.vouch("relay")
        tls = client_tls(authority.cert, mine.cert, mine.key)
    async with tls_workspace_agent(context) as port:
        if known == "right":
            assert await said(port, WorkspaceAgentCredentials(tls=tls)) == b"hi"
            return
        with pytest.raises(WorkspaceAgentError) as caught:
            await said(port, WorkspaceAgentCredentials(tls=tls))
    # With TLS 1.3 the client's certificate is judged behind the client's handshake.
    assert caught.value.step is WorkspaceAgentStep.DIAL
    assert "that do not take this relay's certificate" in str(caught.value)


async def test_a_workspace_agent_without_tls() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await read_some(stream)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    async def read_some(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        with pytest.raises(WorkspaceAgentError, match="no TLS with") as caught:
            await said(listener.socket.getsockname()[1], WorkspaceAgentCredentials())
        nursery.cancel_scope.cancel()
    assert caught.value.step is WorkspaceAgentStep.DIAL


@pytest.mark.parametrize("wrong", ["ca", "cert", "key"])
def test_files_that_are_no_certificates(authority: Authority, tmp_path: Path, wrong: str) -> None:
    mine = authority.vouch("relay")
    files = {"ca": authority.cert, "cert": mine.cert, "key": mine.key}
    files[wrong] = tmp_path / "nowhere"
    with pytest.raises(ValueError, match=r"cannot use the certificates in .*No such file"):
        client_tls(*files.values())
    files[wrong].write_text("no certificate")
    with pytest.raises(ValueError, match="cannot use the certificates in "):
        client_tls(*files.values())
