"""What the raw pumps ask of the kernel, beside reading and writing: how sockets behave, and pages
for what a socket did not take.
"""

from __future__ import annotations

import mmap
import socket

import trio

from relay.net.tls import TlsStream

_TCP_NOTSENT_LOWAT = 25
_TCP_CONGESTION = 13
_INTERNET = (socket.AF_INET, socket.AF_INET6)
_LOOPBACK_4 = ("127.", "::ffff:127.")

# What is kept for a slow peer, from here on in pages of its own: the heap would have holes
# afterwards. When 1,000 stalled sessions had ended, the process still had 110 MiB of theirs.
_OWN_PAGES_FROM_BYTES = 16_384


def hold_unsent(viewer: trio.SocketStream, limit_bytes: int) -> None:
    """A socket that has more unsent takes nothing, and tells when it has less."""
    if viewer.socket.family in _INTERNET:
        viewer.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, limit_bytes)


def unpace(viewer: trio.SocketStream) -> None:
    """A browser or a proxy on this machine gets what it takes. Where the system's congestion
    control is BBR, it measures a path that is not there, and sends by timers: 2.1 GB/s became 3.1,
    and half of the CPU was left (docs/decisions/0002-splice.md)."""
    if viewer.socket.family not in _INTERNET:
        return
    try:
        host = viewer.socket.getpeername()[0]
        if host == "::1" or host.startswith(_LOOPBACK_4):
            viewer.setsockopt(socket.IPPROTO_TCP, _TCP_CONGESTION, b"reno")
    except OSError:
        # The viewer is gone, which the next read tells; or the system allows no other.
        pass


def hold_unread(desktop: trio.SocketStream | TlsStream, limit_bytes: int) -> None:
    """The kernel holds about twice as much that was not read, and no more."""
    desktop.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, limit_bytes)


def read_urgent_too(stream: trio.SocketStream | TlsStream) -> None:
    """A read would stop short at an urgent byte, and look as if there was no more."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def kept(rest: memoryview) -> memoryview:
    """What a socket did not take, in memory that the system has back when it is sent."""
    if len(rest) < _OWN_PAGES_FROM_BYTES:
        return memoryview(bytes(rest))
    pages = mmap.mmap(-1, len(rest), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages[:] = rest
    return memoryview(pages)
