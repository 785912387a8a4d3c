"""Streams without a turn of Trio's where a socket need not wait: one costs about 12 us, and a
session's start and end have dozens of such places.

None of these is a checkpoint when it does not wait.
"""

from __future__ import annotations

import os

import trio


async def send(stream: trio.abc.SendStream, data: bytes) -> None:
    """`send_all`: a socket has room for all of a handshake's messages. Raises
    trio.BrokenResourceError and trio.ClosedResourceError."""
    if isinstance(stream, trio.SocketStream):
        try:
            data = data[os.write(_descriptor(stream), data) :]
        except BlockingIOError:
            pass
        except OSError as error:
            raise trio.BrokenResourceError from error
        if not data:
            return
    await stream.send_all(data)


async def receive(stream: trio.abc.ReceiveStream, limit_bytes: int) -> bytes:
    """`receive_some`: at most so many bytes, none at the end of the stream. Raises
    trio.BrokenResourceError and trio.ClosedResourceError."""
    if not isinstance(stream, trio.SocketStream):
        return bytes(await stream.receive_some(limit_bytes))
    while True:
        try:
            return os.read(_descriptor(stream), limit_bytes)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(stream.socket)
        except OSError as error:
            raise trio.BrokenResourceError from error


async def cut(stream: trio.abc.AsyncResource) -> None:
    """Closes it at once, cancelled or not."""
    if isinstance(stream, trio.SocketStream):
        stream.socket.close()
    else:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


def _descriptor(stream: trio.SocketStream) -> int:
    descriptor = stream.socket.fileno()
    if descriptor < 0:
        raise trio.ClosedResourceError("this stream is closed")
    return descriptor
