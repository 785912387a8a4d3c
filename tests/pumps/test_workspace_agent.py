"""Sessions whose desktop is behind a workspace agent: frames on both sides
(tests/session/test_session.py has what they do as any other)."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from relay import CloseCode, Limits, Reason
from relay.net.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FLOOD_FRAMES,
    PING,
    PONG,
    close_payload,
    frame,
    masked,
)
from relay.net.websocket_stream import FRAME_BYTES, WebSocketStream
from relay.pumps.streams import StreamPumps
from relay.pumps.workspace_agent import WorkspaceAgentPumps
from tests.labs.peers import (
    BELL,
    KEY,
    KEY_UP,
    UPDATE_REQUEST,
    Lab,
    WorkspaceAgentEnd,
    client_frame,
    close_far_ends,
    desktop_end,
    memory_lab,
    raw_rectangle,
    workspace_agent_lab,
)

__all__ = ["close_far_ends"]  # the fixture


@asynccontextmanager
async def running(limits: Limits | None = None) -> AsyncIterator[tuple[Lab, trio.SocketStream]]:
    """A session behind its handshakes, and the workspace agent's end without its framing."""
    lab = workspace_agent_lab(limits or Limits(close_timeout_s=0.5))
    assert isinstance(lab.desktop, WorkspaceAgentEnd)
    async with lab.running() as nursery:
        assert isinstance(lab.session._pumps, WorkspaceAgentPumps)
        yield lab, lab.desktop.raw
        nursery.cancel_scope.cancel()


async def next_frame(raw: trio.abc.Stream) -> tuple[int, bytes]:
    """A frame of the relay's, which must be masked (RFC 6455, Section 5.1)."""
    data = await exactly(raw, 2)
    assert data[1] & 0x80
    size = data[1] & 0x7F
    if size == 126:
        (size,) = struct.unpack(">H", await exactly(raw, 2))
    elif size == 127:
        (size,) = struct.unpack(">Q", await exactly(raw, 8))
    mask = await exactly(raw, 4)
    return data[0] & 15, masked(await exactly(raw, size), mask)


async def exactly(raw: trio.abc.Stream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = await raw.receive_some(count - len(data))
        assert more, data
        data += more
    return data


def in_pieces(data: bytes, size: int) -> bytes:
    """One message in fragments."""
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    framed = [frame(CONTINUATION if at else BINARY, piece) for at, piece in enumerate(pieces)]
    last = len(framed) - 1
    return b"".join(
        bytes([one[0] & 0x7F]) + one[1:] if at < last else one for at, one in enumerate(framed)
    )


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("framing", ["whole", "fragments", "small"])
async def test_however_frames_and_messages_lie(framing: str, size: int) -> None:
    said = BELL + raw_rectangle(7, 5) + BELL * 3
    framed = {
        "whole": frame(BINARY, said),
        "fragments": in_pieces(said, 40),
        "small": b"".join(frame(BINARY, bytes([byte])) for byte in said),
    }[framing]
    async with running() as (lab, raw):
        await lab.viewer.send_all(client_frame(UPDATE_REQUEST))
        assert await next_frame(raw) == (BINARY, UPDATE_REQUEST)
        for at in range(0, len(framed), size):
            await raw.send_all(framed[at : at + size])
            if size < 10:
                await trio.testing.wait_all_tasks_blocked()
        assert await lab.frames.binary(len(said)) == said


async def test_every_message_up_has_a_mask_of_its_own() -> None:
    async with running() as (lab, raw):
        seen = set()
        for _ in range(3):
            await lab.viewer.send_all(client_frame(KEY))
            seen.add((await exactly(raw, 6 + len(KEY)))[2:6])
        assert len(seen) == 3


async def test_a_large_text_goes_up_in_frames_that_workspace_agents_take() -> None:
    text = b"x" * (FRAME_BYTES * 2)
    message = struct.pack(">BxxxI", 6, len(text)) + text
    async with running(Limits(clipboard_bytes=1 << 20)) as (lab, raw), trio.open_nursery() as both:
        both.start_soon(
            lab.viewer.send_all,
            b"".join(
                client_frame(message[at : at + 60_000]) for at in range(0, len(message), 60_000)
            ),
        )
        got = b""
        while len(got) < len(message):
            opcode, payload = await next_frame(raw)
            assert opcode == BINARY
            assert len(payload) <= FRAME_BYTES
            got += payload
        assert got == message


async def test_pings_are_answered_between_messages() -> None:
    async with running() as (lab, raw):
        await raw.send_all(frame(PING, b"there?") + frame(BINARY, BELL) + frame(PONG, b"beat"))
        assert await next_frame(raw) == (PONG, b"there?")
        assert await lab.frames.binary(1) == BELL


async def test_a_workspace_agent_that_pings_and_reads_nothing_collects_one_pong() -> None:
    async with running(Limits(clipboard_bytes=1 << 20)) as (lab, raw), trio.open_nursery() as both:
        for end in (raw.socket, lab.desktop_near._stream.socket):  # type: ignore[attr-defined]
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        text = b"x" * 300_000
        message = struct.pack(">BxxxI", 6, len(text)) + text
        both.start_soon(
            lab.viewer.send_all,
            b"".join(
                client_frame(message[at : at + 60_000]) for at in range(0, len(message), 60_000)
            ),
        )
        while not lab.session._pumps._to_desktop:  # type: ignore[union-attr]
            await trio.sleep(0.001)
        for number in range(100):
            await raw.send_all(frame(PING, b"%d" % number))
        await trio.testing.wait_all_tasks_blocked(0.01)
        got = b""
        pongs: list[bytes] = []
        while len(got) < len(message) or not pongs:
            opcode, payload = await next_frame(raw)
            got += payload if opcode == BINARY else b""
            pongs += [payload] if opcode == PONG else []
        assert got == message
        assert pongs[-1] == b"99"
        assert len(pongs) < 5


async def test_a_close_frame_of_the_workspace_agents_ends_the_session_behind_what_it_said() -> None:
    async with running() as (lab, raw):
        await raw.send_all(
            frame(BINARY, BELL)
            + frame(CLOSE, close_payload(4503, "the desktop has ended"))
            + frame(BINARY, BELL)
        )
        assert await lab.frames.binary(1) == BELL
        assert await lab.frames.close() == (
            CloseCode.DESKTOP_GONE,
            "the desktop closed the connection",
        )
        await lab.viewer.aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert lab.ended.reason is Reason.DESKTOP_CLOSED
        assert lab.ended.detail == "close code 4503"


async def test_the_workspace_agent_is_told_that_the_session_has_ended() -> None:
    async with running() as (lab, raw):
        await lab.viewer.send_all(client_frame(KEY))
        assert await next_frame(raw) == (BINARY, KEY)
        await lab.viewer.aclose()
        assert await next_frame(raw) == (BINARY, KEY_UP)
        assert await next_frame(raw) == (CLOSE, close_payload(1000, ""))
        assert await raw.receive_some() == b""


@pytest.mark.parametrize(
    ("said", "rule", "code"),
    [
        (client_frame(BELL), "frame-mask", 1002),
        (frame(PING, b"there?") + client_frame(BELL), "frame-mask", 1002),
        (frame(1, b"text"), "text-frame", 1003),
        (b"\xc2\x01\x02", "frame-reserved-bit", 1002),
        (frame(CONTINUATION, BELL), "frame-order", 1002),
        (b"\x82\x7f" + struct.pack(">Q", 1 << 40), "frame-size", 1009),
        (frame(CLOSE, b"\x03"), "close-payload", 1002),
        (frame(PONG, b"") * (FLOOD_FRAMES + 1), "control-flood", 1008),
        (frame(BINARY, b"\x63"), "message-type", 1000),
    ],
)
async def test_a_workspace_agent_that_breaks_a_rule(said: bytes, rule: str, code: int) -> None:
    async with running() as (lab, raw):
        await raw.send_all(said)
        # The viewer hears that it was the desktop, the workspace agent which rule of the framing.
        told = f"the desktop broke the protocol: {rule}"
        assert await lab.frames.close() == (CloseCode.DESKTOP_FAULT, told)
        assert await next_frame(raw) == (CLOSE, close_payload(code, ""))
        await lab.viewer.aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert lab.ended.reason is Reason.DESKTOP_FAULT
        assert lab.ended.rule == rule


async def test_heartbeats_of_a_day_are_no_flood(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as (lab, raw):
        while trio.current_time() < 86_400:
            await raw.send_all(frame(PONG, b""))
            assert await lab.frames.next() == (PING, b"")
            await lab.viewer.send_all(client_frame(b"", PONG))
        await raw.send_all(frame(BINARY, BELL))
        assert await lab.frames.binary(1) == BELL


async def test_the_kernel_moves_nothing_of_a_workspace_agents() -> None:
    update = raw_rectangle(640, 400)
    async with running() as (lab, raw), trio.open_nursery() as both:
        await lab.viewer.send_all(client_frame(UPDATE_REQUEST))
        assert await next_frame(raw) == (BINARY, UPDATE_REQUEST)
        both.start_soon(raw.send_all, b"".join(frame(BINARY, one) for one in in_parts(update)))
        assert await lab.frames.binary(len(update)) == update


def in_parts(data: bytes) -> list[bytes]:
    return [data[at : at + 1_000] for at in range(0, len(data), 1_000)]


async def test_what_the_workspace_agent_had_not_taken_comes_before_the_last_words() -> None:
    text = b"x" * 300_000
    message = struct.pack(">BxxxI", 6, len(text)) + text
    framed = b"".join(client_frame(one) for one in in_parts(message))
    async with running(Limits(clipboard_bytes=1 << 20)) as (lab, raw):
        for end in (raw.socket, lab.desktop_near._stream.socket):  # type: ignore[attr-defined]
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with trio.move_on_after(5):
            async with trio.open_nursery() as sending:
                sending.start_soon(lab.viewer.send_all, framed)
                while not lab.session._pumps._to_desktop:  # type: ignore[union-attr]
                    await trio.sleep(0.001)
                sending.cancel_scope.cancel()
        lab.session.stop(1000, "enough")
        got = b""
        while (said := await next_frame(raw))[0] == BINARY:
            got += said[1]
        assert said == (CLOSE, close_payload(1000, ""))
        # The text under way ends in spaces.
        assert len(got) == len(message)
        assert got.rstrip() == message[: len(got.rstrip())]


async def test_a_close_frame_behind_what_the_viewer_has_not_taken() -> None:
    update = raw_rectangle(300, 200)
    async with running() as (lab, raw), trio.open_nursery() as both:
        assert isinstance(lab.viewer, trio.SocketStream)
        pumps = lab.session._pumps
        assert isinstance(pumps, WorkspaceAgentPumps)
        pumps._viewer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        await lab.viewer.send_all(client_frame(UPDATE_REQUEST))
        assert await next_frame(raw) == (BINARY, UPDATE_REQUEST)
        said = b"".join(frame(BINARY, one) for one in in_parts(update))
        both.start_soon(raw.send_all, said + frame(PING, b"?") + frame(CLOSE, b""))
        while not pumps._to_viewer:
            await trio.sleep(0.001)
        await trio.sleep(0.05)
        assert not lab.result
        assert await lab.frames.binary(len(update)) == update
        assert (await lab.frames.close())[0] == CloseCode.DESKTOP_GONE


@asynccontextmanager
async def running_as_streams() -> AsyncIterator[tuple[Lab, trio.abc.Stream]]:
    """As `running`, of streams that are no sockets, as a viewer's in TLS is none."""
    lab = memory_lab(Limits(close_timeout_s=0.5))
    near, far = trio.testing.memory_stream_pair()
    desktop = WebSocketStream(near, client=True, limit_bytes=1000)
    lab.session._desktop = desktop_end(desktop)
    async with lab.running() as nursery:
        assert isinstance(lab.session._pumps, StreamPumps)
        yield lab, far
        nursery.cancel_scope.cancel()


async def test_what_is_no_socket_goes_on_as_a_stream() -> None:
    lab = workspace_agent_lab()
    near, _far = trio.testing.memory_stream_pair()
    encrypted = WebSocketStream(near, client=True, limit_bytes=1000)
    lab.session._desktop = desktop_end(encrypted)
    await trio.aclose_forcefully(lab.desktop_near)
    async with lab.running() as nursery:
        assert isinstance(lab.session._pumps, StreamPumps)
        nursery.cancel_scope.cancel()


async def test_streams_tell_the_workspace_agent_that_the_session_has_ended() -> None:
    async with running_as_streams() as (lab, far):
        await lab.viewer.send_all(client_frame(KEY))
        assert await next_frame(far) == (BINARY, KEY)
        await lab.viewer.aclose()
        assert await next_frame(far) == (BINARY, KEY_UP)
        assert await next_frame(far) == (CLOSE, close_payload(1000, ""))


async def test_streams_tell_the_viewer_of_a_workspace_agents_framing() -> None:
    async with running_as_streams() as (lab, far):
        await far.send_all(client_frame(BELL))
        told = "the desktop broke the protocol: frame-mask"
        assert await lab.frames.close() == (CloseCode.DESKTOP_FAULT, told)
        opcode, payload = await next_frame(far)
        assert (opcode, payload[:2]) == (CLOSE, close_payload(1002, ""))
        await lab.viewer.aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert lab.ended.reason is Reason.DESKTOP_FAULT
