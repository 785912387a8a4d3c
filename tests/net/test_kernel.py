"""What the raw pumps ask of the kernel for a viewer's socket."""

from __future__ import annotations

import errno
import socket
from typing import cast

import pytest
import trio

from relay.net import kernel
from tests.labs.peers import pumps_over_tcp


class Socket:
    """A viewer's, as far as it is asked where it leads, and told how to send."""

    def __init__(self, host: str | None, *, allowed: bool = True) -> None:
        self.socket = self
        self.family = socket.AF_INET6 if host and ":" in host else socket.AF_INET
        self.told: list[tuple[int, int, bytes]] = []
        self._host = host
        self._allowed = allowed

    def getpeername(self) -> tuple[str, int]:
        if self._host is None:
            raise OSError(errno.ENOTCONN, "gone")
        return self._host, 1

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        if not self._allowed:
            raise PermissionError(errno.EPERM, "tcp_allowed_congestion_control")
        self.told.append((level, option, value))


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.0.2.127", False),
        ("2001:db8::1", False),
        ("::1:2", False),
        ("::ffff:192.0.2.1", False),
        (None, False),
    ],
)
def test_only_a_viewer_on_this_machine_is_sent_to_without_pacing(
    host: str | None, here: bool
) -> None:
    viewer = Socket(host)
    kernel.unpace(cast(trio.SocketStream, viewer))
    assert viewer.told == [(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")] * here


def test_pacing_that_cannot_be_changed_stays() -> None:
    kernel.unpace(cast(trio.SocketStream, Socket("127.0.0.1", allowed=False)))


async def test_a_sessions_viewer_on_this_machine_is_not_paced() -> None:
    with pumps_over_tcp() as (_, near):
        control = near.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        assert control.rstrip(b"\0") == b"reno"
