"""The desktop endpoint's sessions: how they begin and end, and what they leave."""

from __future__ import annotations

import json
import os
import struct

import pytest
import trio

from relay import CloseCode
from relay.net import streams
from tests.labs.desktop_server import Lab, lab, parse, read_all, read_head
from tests.labs.peers import KEY, KEY_UP, PIXEL_FORMAT, Frames, client_frame

# The fixture.
__all__ = ["lab"]


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
        head = await read_head(stream)
        assert b" 101 " in head
        init = struct.pack(">HH", 64, 48) + PIXEL_FORMAT + b"\0\0\0\x03lab"
        assert await Frames(stream).binary(18 + len(init)) == (
            b"RFB 003.008\n\x01\x01\0\0\0\0" + init
        )


async def waiting(lab: Lab) -> trio.SocketStream:
    """A viewer whose desktop does not start."""
    lab.desktops.hold = trio.Event()
    stream = await lab.connect()
    await stream.send_all(lab.head())
    await lab.desktops.asked.wait()
    return stream


async def test_archiving_refuses_who_waits_for_the_desktop(lab: Lab) -> None:
    async with await waiting(lab) as stream:
        lab.live.end_chat(lab.chat, CloseCode.ARCHIVED, "chat archived")
        status, _, body = parse(await read_all(stream))
    assert (status, json.loads(body)["message"]) == (400, "Chat is archived.")
    assert lab.live.count == 0
    assert lab.accepted == []


async def test_a_viewer_that_leaves_takes_its_start_along(lab: Lab) -> None:
    await (await waiting(lab)).aclose()
    with trio.fail_after(5):
        await lab.desktops.cancelled.wait()
        while lab.live.count:
            await trio.sleep(0.01)
    assert lab.accepted == []


async def test_a_viewer_that_leaves_below_its_101_is_no_bug(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    send = streams.send

    async def reset(stream: trio.abc.SendStream, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 101 "):
            raise trio.BrokenResourceError
        await send(stream, data)

    monkeypatch.setattr(streams, "send", reset)
    async with await lab.connect() as stream:
        await stream.send_all(lab.head())
        await read_all(stream)
    log = capsys.readouterr().out
    assert "upgrade failed" in log
    assert "Traceback" not in log
    assert lab.live.count == 0


async def test_one_session_too_many_starts_no_desktop(lab: Lab) -> None:
    lab.live.capacity = 1
    stream, _ = await lab.open()
    async with stream:
        status, headers, body = await lab.ask(lab.head())
        assert (status, json.loads(body)["message"]) == (503, "Too many desktop sessions.")
        assert headers["retry-after"] == "10"
        assert lab.desktops.starts == 1
        await Frames(stream).binary(12)  # the first one goes on


GREETING = client_frame(b"RFB 003.008\n") + client_frame(b"\x01\x01")


@pytest.mark.parametrize(
    ("query", "heard"),
    [
        ("", KEY + KEY_UP),
        ("?view_only=1", b""),
        ("?view_only=1&view_only=0", b""),
    ],
    ids=["full", "view", "both"],
)
async def test_who_asks_only_to_view_touches_nothing(lab: Lab, query: str, heard: bytes) -> None:
    stream = await lab.connect()
    async with stream:
        await stream.send_all(lab.head(path=lab.path + query))
        await read_head(stream)
        await stream.send_all(GREETING + client_frame(KEY))
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
            "the viewer broke the protocol: message-type",
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
    async with await waiting(lab) as stream:
        lab.serving.cancel()
        status, _, body = parse(await read_all(stream))
    assert (status, json.loads(body)["message"]) == (503, "Server is going away.")


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
