"""The README's embedding example runs as it stands."""

from __future__ import annotations

import re
import struct
from typing import Any

import pytest
import trio
import trio.testing

import relay
from tests.labs.peers import BELL, PIXEL_FORMAT, Frames, client_frame, say_hello
from tests.labs.places import README


def example() -> str:
    block = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert block is not None
    return block.group(1)


def test_it_is_ten_lines() -> None:
    assert len([line for line in example().splitlines() if line.strip()]) <= 10


async def desktop(stream: trio.SocketStream) -> None:
    """Rings a bell and goes."""
    await say_hello(stream, 8, 8, b"")
    await stream.send_all(BELL)


async def test_it_relays(capsys: pytest.CaptureFixture[str]) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    code = example().replace("5901", str(port))
    scope: dict[str, Any] = {}
    exec(compile(code, str(README), "exec"), scope)
    viewer, far = trio.testing.memory_stream_pair()
    frames = Frames(far)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, desktop, [listener])

        async def serve() -> None:
            ended = await scope["serve_viewer"](viewer)
            assert ended.reason is relay.Reason.DESKTOP_CLOSED
            nursery.cancel_scope.cancel()

        nursery.start_soon(serve)
        for answer in (b"RFB 003.008\n", b"\x01", b"\x01"):
            await far.send_all(client_frame(answer))
        assert await frames.binary(12 + 2 + 4 + 24 + 1) == (
            b"RFB 003.008\n\x01\x01\0\0\0\0"
            + struct.pack(">HH", 8, 8)
            + PIXEL_FORMAT
            + b"\0\0\0\0"
            + b"\x02"
        )
        assert (await frames.close())[0] == relay.CloseCode.DESKTOP_GONE
        await far.aclose()
    assert capsys.readouterr().out == "desktop_closed 1\n"
