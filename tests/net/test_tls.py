"""TLS toward a workspace agent: a stream of Trio's, and what raw pumps do with it."""

from __future__ import annotations

import array
import fcntl
import math
import socket
import ssl
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
import trio.testing

from relay import CloseCode, Limits
from relay.dialling.workspace_agent import client_tls
from relay.net.tls import ANSWERS_BYTES, WIRE_BYTES, TlsStream
from relay.net.websocket import CLOSE, close_payload
from relay.net.websocket_stream import WebSocketStream
from relay.pumps import slices
from relay.pumps.workspace_agent import WorkspaceAgentPumps
from tests.labs.certificates import Authority
from tests.labs.peers import (
    BELL,
    UPDATE_REQUEST,
    Lab,
    client_frame,
    close_far_ends,
    lab_over,
    raw_rectangle,
    socket_pair,
)

__all__ = ["close_far_ends"]  # the fixture

NAME = "127.0.0.1"


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A relay's and a workspace agent's."""
    with TemporaryDirectory() as folder:
        authority = Authority(Path(folder), "authority")
        mine = authority.vouch("workspace")
        workspace_agent = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        workspace_agent.load_cert_chain(mine.cert, mine.key)
        return client_tls(authority.cert), workspace_agent


@asynccontextmanager
async def connected(
    buffer_bytes: int = 0,
) -> AsyncIterator[tuple[TlsStream, trio.SSLStream[trio.SocketStream]]]:
    """A relay's end and a workspace agent's, behind their handshake."""
    relay, workspace_agent = contexts()
    near, far = socket_pair(buffer_bytes)
    client = TlsStream(near, relay, server_hostname=NAME)
    server = trio.SSLStream(far, workspace_agent, server_side=True, https_compatible=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.do_handshake)
        await client.do_handshake()
    try:
        yield client, server
    finally:
        await trio.aclose_forcefully(client)
        await trio.aclose_forcefully(server)


async def read(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = await stream.receive_some(100_000)
        assert more, len(data)
        data += more
    return data


@pytest.mark.parametrize("size", [1, 16_384, 16_385, 1_000_000])
async def test_bytes_go_both_ways_at_once(size: int) -> None:
    data = bytes(at * 7 % 251 for at in range(size))
    async with connected(4096) as (client, server), trio.open_nursery() as nursery:
        for sender in (client, server):
            nursery.start_soon(sender.send_all, data)

        async def check(stream: trio.abc.ReceiveStream) -> None:
            assert await read(stream, size) == data

        nursery.start_soon(check, client)
        nursery.start_soon(check, server)


async def test_the_end_and_after_it() -> None:
    async with connected() as (client, server):
        await server.send_all(b"last")
        await trio.aclose_forcefully(server)
        assert await read(client, 4) == b"last"
        assert await client.receive_some() == b""
        await client.aclose()
        await client.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await client.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await client.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await client.wait_send_all_might_not_block()


async def test_a_read_ends_where_the_stream_is_closed() -> None:
    async with connected() as (client, _server), trio.open_nursery() as nursery:

        async def reads() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await client.receive_some()

        nursery.start_soon(reads)
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()


async def test_bytes_that_are_no_tls_break_it() -> None:
    near, far = socket_pair()
    client = TlsStream(near, contexts()[0], server_hostname=NAME)
    async with far, client:
        await far.send_all(b"RFB 003.008\n" * 10)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await client.do_handshake()
        assert isinstance(caught.value.__cause__, ssl.SSLError)


async def test_a_name_that_is_not_its() -> None:
    relay, workspace_agent = contexts()
    near, far = socket_pair()
    client = TlsStream(near, relay, server_hostname="127.0.0.2")
    server = trio.SSLStream(far, workspace_agent, server_side=True)
    async with client, trio.open_nursery() as nursery:

        async def handshake() -> None:
            with pytest.raises(trio.BrokenResourceError) as told:
                await server.do_handshake()
            assert "ALERT_BAD_CERTIFICATE" in str(told.value.__cause__)
            await trio.aclose_forcefully(server)

        nursery.start_soon(handshake)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await client.do_handshake()
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        await client.aclose()


async def test_raw_reads_are_short_only_where_there_is_no_more() -> None:
    async with connected() as (client, server):
        data = bytes(at % 251 for at in range(100_000))
        await server.send_all(b"tickets come first")
        await read(client, 18)
        await server.send_all(data)
        view = memoryview(bytearray(60_000))
        with pytest.raises(ValueError, match="too many"):
            client.readv(-1, (view, view))
        assert client.readv(-1, (view,)) == 60_000
        assert view == data[:60_000]
        assert client.readv(-1, (view,)) == 40_000
        assert view[:40_000] == data[60_000:]
        with pytest.raises(BlockingIOError):
            client.readv(-1, (view,))
        await trio.aclose_forcefully(server)
        assert client.readv(-1, (view,)) == 0


async def test_raw_writes_take_what_goes_and_go_on() -> None:
    data = bytes(at % 251 for at in range(3_000_000))
    async with connected() as (client, server), trio.open_nursery() as nursery:

        async def check() -> None:
            assert await read(server, len(data)) == data

        rest = memoryview(data)
        assert client.writev(-1, [rest[:200], rest[200:20_000]]) == 20_000
        rest = rest[20_000:]
        rest = rest[client.writev(-1, [rest]) :]
        assert 0 < len(rest) < 2_980_000
        with pytest.raises(BlockingIOError):
            client.writev(-1, [rest])
        nursery.start_soon(check)
        while rest:
            await client.wait_send_all_might_not_block()
            try:
                rest = rest[client.writev(-1, [rest]) :]
            except BlockingIOError:
                pass


def carried(
    client: TlsStream,
    server: trio.SSLStream[trio.SocketStream],
    buffer_bytes: int = 0,
) -> tuple[Lab, WebSocketStream]:
    """A session that has not begun, and the workspace agent's end."""
    viewer, viewer_far = socket_pair(buffer_bytes)
    desktop = WebSocketStream(client, client=True, limit_bytes=1 << 24)
    workspace_agent = WebSocketStream(server, client=False, limit_bytes=1 << 24)
    limits = Limits(clipboard_bytes=1 << 20, close_timeout_s=0.5)
    lab = lab_over(viewer, viewer_far, desktop, server, limits)  # type: ignore[arg-type]
    return lab, workspace_agent


@asynccontextmanager
async def session(
    buffer_bytes: int = 0, early: bytes = b""
) -> AsyncIterator[tuple[Lab, WebSocketStream]]:
    """A session behind its handshakes, and the workspace agent's end. `early` it has said before
    the session begins; a login reads 4 KiB at a time."""
    async with connected(buffer_bytes) as (client, server):
        lab, workspace_agent = carried(client, server, buffer_bytes)
        if early:
            await workspace_agent.send_all(early)
            lab.session._desktop.early = bytes(await lab.desktop_near.receive_some(4096))
            assert client.more
        async with lab.running() as nursery:
            assert isinstance(lab.session._pumps, WorkspaceAgentPumps)
            yield lab, workspace_agent
            nursery.cancel_scope.cancel()


async def test_a_large_update_comes_down_and_a_large_text_goes_up() -> None:
    update = raw_rectangle(640, 400)
    text = b"x" * 400_000
    message = struct.pack(">BxxxI", 6, len(text)) + text
    async with session(4096) as (lab, workspace_agent), trio.open_nursery() as nursery:
        await lab.viewer.send_all(client_frame(UPDATE_REQUEST))
        assert await read(workspace_agent, 10) == UPDATE_REQUEST
        nursery.start_soon(workspace_agent.send_all, update)
        frames = [client_frame(message[at : at + 60_000]) for at in range(0, len(message), 60_000)]
        nursery.start_soon(lab.viewer.send_all, b"".join(frames))
        assert await read(workspace_agent, len(message)) == message
        assert await lab.frames.binary(len(update)) == update


async def test_what_was_decrypted_before_the_pumps_began_comes_down() -> None:
    # RFC 6143, Section 7.6.4: ServerCutText.
    message = struct.pack(">BxxxI", 3, 5_000) + b"x" * 5_000
    async with session(early=message) as (lab, _workspace_agent):
        with trio.fail_after(5):
            assert await lab.frames.binary(len(message)) == message


async def test_it_ends_with_a_close_frame() -> None:
    async with session() as (lab, workspace_agent):
        await lab.viewer.send_all(client_frame(close_payload(1000, ""), CLOSE))
        assert await workspace_agent.receive_some() == b""
        assert workspace_agent.closed == (1000, "")


async def test_the_end_of_tls_is_told_behind_the_last_bytes() -> None:
    async with connected() as (client, server), trio.open_nursery() as nursery:
        await server.send_all(b"last")
        # With a close_notify that is to be answered, so no end of the connection.
        nursery.start_soon(server.unwrap)
        await trio.testing.wait_all_tasks_blocked()
        view = memoryview(bytearray(100))
        assert client.readv(-1, (view,)) == 4
        assert client.more
        assert client.readv(-1, (view,)) == 0
        nursery.cancel_scope.cancel()


async def test_what_came_before_a_reset_is_read() -> None:
    async with connected() as (client, server):
        await client.send_all(b"unread, which makes of the end a reset")
        await server.send_all(b"last")
        await trio.aclose_forcefully(server)
        view = memoryview(bytearray(100))
        assert client.readv(-1, (view,)) == 4
        for _ in range(2):
            with pytest.raises(ConnectionResetError):
                client.readv(-1, (view,))


async def test_what_came_before_a_record_that_is_none_is_read() -> None:
    async with connected() as (client, server):
        await server.send_all(b"last")
        await server.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        view = memoryview(bytearray(100))
        assert client.readv(-1, (view,)) == 4
        assert client.more
        for _ in range(2):
            with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
                client.readv(-1, (view,))
        with pytest.raises(trio.BrokenResourceError) as told:
            await server.receive_some()
        assert "ALERT_BAD_RECORD_MAC" in str(told.value.__cause__)


async def test_half_a_record_and_the_end() -> None:
    async with connected() as (client, server):
        # RFC 8446, Section 5.2: the header of a record of 16 KiB, and little of it.
        await server.transport_stream.send_all(b"\x17\x03\x03\x40\x00" + b"x" * 100)
        await trio.aclose_forcefully(server)
        # One edge told of both.
        assert client.readv(-1, (memoryview(bytearray(100)),)) == 0


async def test_a_session_ends_where_tls_does() -> None:
    async with connected() as (client, server), trio.open_nursery() as nursery:
        lab, workspace_agent = carried(client, server)
        await workspace_agent.send_all(raw_rectangle())
        nursery.start_soon(server.unwrap)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(lab.run)
        await lab.greet()
        with trio.fail_after(5):
            assert await lab.frames.close() == (
                CloseCode.DESKTOP_GONE,
                "the desktop closed the connection",
            )
        nursery.cancel_scope.cancel()


TICKETS = 500
"""About 120 KB of records that bring nothing (RFC 8446, Section 4.6.1)."""


@asynccontextmanager
async def with_tickets() -> AsyncIterator[tuple[TlsStream, trio.SSLStream[trio.SocketStream]]]:
    """As `connected`, with a workspace agent whose tickets go out before the first that it says."""
    authority, workspace_agent = contexts()
    near, far = socket_pair()
    for end in (near, far):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    client = TlsStream(near, authority, server_hostname=NAME)
    workspace_agent.num_tickets = TICKETS
    try:
        server = trio.SSLStream(far, workspace_agent, server_side=True, https_compatible=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.do_handshake)
            await client.do_handshake()
        yield client, server
    finally:
        workspace_agent.num_tickets = 2
        await trio.aclose_forcefully(client)
        await trio.aclose_forcefully(server)


def unread_bytes(stream: TlsStream) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(stream.socket.fileno(), termios.FIONREAD, count)
    return count[0]


async def test_records_that_bring_nothing_are_read_a_little_at_a_time() -> None:
    async with with_tickets() as (client, server):
        await server.send_all(b"hi")
        view = memoryview(bytearray(100))
        left = unread_bytes(client)
        assert left > WIRE_BYTES * 4
        while left > WIRE_BYTES:
            with pytest.raises(BlockingIOError):
                client.readv(-1, (view,))
            assert client.more
            assert left - unread_bytes(client) == WIRE_BYTES
            left -= WIRE_BYTES
        assert client.readv(-1, (view,)) == 2
        assert not client.more


async def test_what_is_behind_them_comes() -> None:
    async with with_tickets() as (client, server):
        await server.send_all(b"hi")
        assert await client.receive_some() == b"hi"


async def test_a_session_goes_on_behind_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "FREE_SLICES", 2)
    async with with_tickets() as (client, server), trio.open_nursery() as nursery:
        lab, workspace_agent = carried(client, server)
        await workspace_agent.send_all(raw_rectangle())
        nursery.start_soon(lab.run)
        await lab.greet()
        with trio.fail_after(5):
            while (pumps := lab.session._pumps) is None or pumps.desktop_rests_until == math.inf:
                await trio.lowlevel.checkpoint()
            assert await lab.frames.binary(len(raw_rectangle())) == raw_rectangle()
        nursery.cancel_scope.cancel()


async def test_a_peer_that_takes_no_answers_is_not_collected_for() -> None:
    async with connected() as (client, server):
        view = memoryview(bytearray(100))
        with suppress(BlockingIOError):
            while True:
                client.writev(-1, [bytes(100_000)])
        await server.send_all(b"one")
        assert client.readv(-1, (view,)) == 3
        # As OpenSSL does for so many KeyUpdates that ask for one.
        client._outgoing.write(bytes(ANSWERS_BYTES))
        await server.send_all(b"two")
        with pytest.raises(OSError, match="No buffer space"):
            client.readv(-1, (view,))


async def test_a_workspace_agent_of_large_updates_does_not_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slices, "FREE_SLICES", 0)
    update = raw_rectangle(640, 400)
    async with session() as (lab, workspace_agent), trio.open_nursery() as nursery:
        await workspace_agent.send_all(BELL)
        assert await lab.frames.binary(1) == BELL
        await lab.viewer.send_all(client_frame(UPDATE_REQUEST))
        assert await read(workspace_agent, 10) == UPDATE_REQUEST
        nursery.start_soon(workspace_agent.send_all, update)
        pumps = lab.session._pumps
        assert pumps is not None
        for at in range(0, len(update), 1_000):
            part = update[at : at + 1_000]
            assert await lab.frames.binary(len(part)) == part
            assert pumps.desktop_rests_until == math.inf
