"""Carries bytes between two streams as they are: the workspace's end of a desktop, of which the
relay at the other end does the judging.

`bridge` owns one nursery, with a task a direction and the heartbeat.
"""

from __future__ import annotations

from typing import Final

import trio

from relay.net import streams
from relay.net.websocket_stream import WebSocketStream
from relay.rfb.errors import CloseCode

__all__ = ["READ_BYTES", "bridge"]

READ_BYTES: Final = 65_536

SEND_TIMEOUT_S: Final = 60.0
"""For one read's bytes to be taken: 1 KiB a second, slower than any link that carries a desktop."""

HEARTBEAT_S: Final = 20.0
"""Reverse proxies drop connections on which nothing comes back for 60 s."""


async def bridge(relay_end: WebSocketStream, desktop: trio.abc.Stream, hello: bytes = b"") -> str:
    """Carries until either side ends; closes both, and returns which it was, in words. `hello` is
    what was read of the desktop already.

    Holds one read a direction. Cancelled, it tells the relay that this end goes away.
    """
    ended: list[tuple[CloseCode, str]] = []

    async def carry(
        source: trio.abc.ReceiveStream,
        sink: trio.abc.SendStream,
        source_name: str,
        sink_name: str,
        early: bytes = b"",
    ) -> None:
        try:
            while data := early or await source.receive_some(READ_BYTES):
                early = b""
                try:
                    with trio.fail_after(SEND_TIMEOUT_S):
                        await sink.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    ended.append((CloseCode.DESKTOP_GONE, f"{sink_name} has gone"))
                    break
                except trio.TooSlowError:
                    ended.append((CloseCode.POLICY, f"{sink_name} takes no bytes"))
                    break
            else:
                ended.append((CloseCode.DESKTOP_GONE, f"{source_name} has ended"))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            ended.append((CloseCode.DESKTOP_GONE, f"{source_name} was lost"))
        nursery.cancel_scope.cancel()

    async def beat() -> None:
        try:
            while True:
                await trio.sleep(HEARTBEAT_S)
                await relay_end.heartbeat()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # The two others notice it too, and say so.

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(carry, desktop, relay_end, "the desktop", "the relay", hello)
            nursery.start_soon(carry, relay_end, desktop, "the relay", "the desktop")
            nursery.start_soon(beat)
    finally:
        code, why = (
            ended[0] if ended else (CloseCode.GOING_AWAY, "the workspace agent is going away")
        )
        await streams.cut(desktop)
        with trio.CancelScope(shield=True):  # it has its own deadlines
            await relay_end.close(code, why)
    return why
