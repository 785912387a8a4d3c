"""TLS toward an agent: a stream of Trio's, and what raw pumps do with it."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
import trio.testing

from relay import DesktopEnd, Limits, Session
from relay.agent_dial import client_tls
from relay.agent_pumps import AgentPumps
from relay.tls import TlsStream
from relay.websocket import CLOSE, close_payload
from relay.websocket_stream import WebSocketStream
from tests.certificates import Authority
from tests.peers import (
    INIT,
    UPDATE_REQUEST,
    Frames,
    Lab,
    client_frame,
    close_far_ends,
    far_ends,
    raw_rectangle,
)

__all__ = ["close_far_ends"]  # the fixture

NAME = "127.0.0.1"


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A relay's and an agent's."""
    with TemporaryDirectory() as folder:
        authority = Authority(Path(folder), "authority")
        mine = authority.vouch("agent")
        agent = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        agent.load_cert_chain(mine.cert, mine.key)
        return client_tls(authority.cert), agent


def sockets(buffer_bytes: int = 0) -> tuple[trio.SocketStream, trio.SocketStream]:
    near, far = trio.socket.socketpair()
    for end in (near, far) if buffer_bytes else ():
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
    return trio.SocketStream(near), trio.SocketStream(far)


@asynccontextmanager
async def connected(
    buffer_bytes: int = 0,
) -> AsyncIterator[tuple[TlsStream, trio.SSLStream[trio.SocketStream]]]:
    """A relay's end and an agent's, behind their handshake."""
    relay, agent = contexts()
    near, far = sockets(buffer_bytes)
    client = TlsStream(near, relay, server_hostname=NAME)
    server = trio.SSLStream(far, agent, server_side=True, https_compatible=True)
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
    near, far = sockets()
    client = TlsStream(near, contexts()[0], server_hostname=NAME)
    async with far, client:
        await far.send_all(b"RFB 003.008\n" * 10)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await client.do_handshake()
        assert isinstance(caught.value.__cause__, ssl.SSLError)


async def test_a_name_that_is_not_its() -> None:
    relay, agent = contexts()
    near, far = sockets()
    client = TlsStream(near, relay, server_hostname="127.0.0.2")
    server = trio.SSLStream(far, agent, server_side=True)
    async with client, trio.open_nursery() as nursery:

        async def handshake() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await server.do_handshake()
            await trio.aclose_forcefully(server)

        nursery.start_soon(handshake)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await client.do_handshake()
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        await client.aclose()


async def test_raw_reads_are_short_only_where_there_is_no_more() -> None:
    async with connected() as (client, server):
        data = bytes(at % 251 for at in range(100_000))
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


@asynccontextmanager
async def session(
    buffer_bytes: int = 0, early: bytes = b""
) -> AsyncIterator[tuple[Lab, WebSocketStream]]:
    """A session behind its handshakes, and the agent's end. `early` the agent has said before the
    session begins; a login reads 4 KiB at a time."""
    async with connected(buffer_bytes) as (client, server):
        viewer, viewer_far = sockets(buffer_bytes)
        far_ends.append(viewer_far)
        desktop = WebSocketStream(client, client=True, limit_bytes=1 << 24)
        agent = WebSocketStream(server, client=False, limit_bytes=1 << 24)
        if early:
            await agent.send_all(early)
            early = await desktop.receive_some(4096)
            assert client.socket.pending()
        limits = Limits(clipboard_bytes=1 << 20, close_timeout_s=0.5)
        end = DesktopEnd(desktop, INIT, version="3.8", security_type=1, early=early)
        carried = Session(viewer, end, limits=limits)
        lab = Lab(carried, viewer_far, server, Frames(viewer_far), [], desktop)  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lab.run)
            await lab.greet()
            assert isinstance(lab.session._pumps, AgentPumps)
            yield lab, agent
            nursery.cancel_scope.cancel()


async def test_a_large_update_comes_down_and_a_large_text_goes_up() -> None:
    update = raw_rectangle(640, 400)
    text = b"x" * 400_000
    message = struct.pack(">BxxxI", 6, len(text)) + text
    async with session(4096) as (lab, agent), trio.open_nursery() as nursery:
        await lab.viewer.send_all(client_frame(UPDATE_REQUEST))
        assert await read(agent, 10) == UPDATE_REQUEST
        nursery.start_soon(agent.send_all, update)
        frames = [client_frame(message[at : at + 60_000]) for at in range(0, len(message), 60_000)]
        nursery.start_soon(lab.viewer.send_all, b"".join(frames))
        assert await read(agent, len(message)) == message
        assert await lab.frames.binary(len(update)) == update


async def test_what_was_decrypted_before_the_pumps_began_comes_down() -> None:
    # RFC 6143, Section 7.6.4: ServerCutText.
    message = struct.pack(">BxxxI", 3, 5_000) + b"x" * 5_000
    async with session(early=message) as (lab, _agent):
        with trio.fail_after(5):
            assert await lab.frames.binary(len(message)) == message


async def test_it_ends_with_a_close_frame() -> None:
    async with session() as (lab, agent):
        await lab.viewer.send_all(client_frame(close_payload(1000, ""), CLOSE))
        assert await agent.receive_some() == b""
        assert agent.closed == (1000, "")
