"""How the RFB client's connection begins."""

from __future__ import annotations

import struct

import pytest
import trio
import trio.testing

import relay
from relay import Password
from relay.desktops import RunningDesktop
from relay.dialling.login import DesktopEnd, vnc_auth_response
from relay.errors import DesktopError
from relay.limits import Limits
from tests.labs.client import INIT
from tests.labs.peers import desktop_end


async def test_a_password_may_be_a_text(nursery: trio.Nursery) -> None:
    challenge, answer = bytes(range(16)), b""

    async def ask(stream: trio.SocketStream) -> None:
        nonlocal answer
        async with stream:
            await stream.send_all(b"RFB 003.008\n\x01\x02" + challenge)
            said = b""
            while len(said) < 12 + 1 + 16:
                said += await stream.receive_some(100)
            answer = said[13:]
            await stream.send_all(struct.pack(">II", 1, 0))

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, ask, [listener])
    port = listener.socket.getsockname()[1]
    with pytest.raises(DesktopError):
        async with relay.connect(f"tcp://127.0.0.1:{port}", password="secret"):
            pass
    assert answer == vnc_auth_response(challenge, Password("secret"))


async def test_a_connection_that_cannot_be_used_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = trio.testing.memory_stream_pair()
    end = desktop_end(near, INIT)

    async def log_in(_self: RunningDesktop, _limits: Limits) -> DesktopEnd:
        await trio.lowlevel.checkpoint()
        return end

    monkeypatch.setattr(RunningDesktop, "open", log_in)
    with pytest.raises(struct.error):
        async with relay.connect("tcp://127.0.0.1:5901", encodings=[1 << 40]):
            pass
    with trio.fail_after(2):
        assert await far.receive_some() == b""
