"""TLS toward a workspace agent, as a Trio stream that raw pumps can take over.

trio.SSLStream keeps its bytes from whoever would move them without Trio. Through it an update of
33 KB from a workspace agent cost 257 us of the relay's CPU, and costs 101 now (74 without TLS,
beside it).

OpenSSL has no socket here. From one it would read as long as there are records that bring nothing:
a workspace agent that sends one KeyUpdate after the other kept every session of the process waiting
for as long as it liked. For that a connection that has had a large update holds 45 KiB instead of
25.
"""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Sequence
from typing import Final, cast

import trio

__all__ = ["TlsStream"]

READ_BYTES: Final = 65_536

WIRE_BYTES: Final = 5 + 16_384 + 256
"""What is read from the socket at once: the longest record (RFC 8446, Section 5.2), so that what a
desktop sends is never looked at without getting some of it. Twice as much was slower."""

RECORD_BYTES: Final = 16_384
"""The most that a record has (RFC 8446, Section 5.1)."""

BARREN: Final = 4
"""Times as much on the wire as it brings is no desktop, but may be an attack. It is left for
another turn."""

ANSWERS_BYTES: Final = 65_536
"""What the records of a peer that takes none may be answered with, as a KeyUpdate is."""


class TlsStream(trio.abc.Stream):
    """The client's end. Begins with `do_handshake`; ends without saying so, which WebSocket does.

    Raises what streams of Trio do; a trio.BrokenResourceError for TLS's sake has the ssl.SSLError
    as its cause. `readv` and `writev` are for who takes it over; after a `readv`, `more` tells
    whether another may bring something, or the end, although nothing new comes from the peer.
    """

    def __init__(
        self, stream: trio.SocketStream, context: ssl.SSLContext, *, server_hostname: str
    ) -> None:
        self._stream = stream
        self.socket = stream.socket
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=server_hostname
        )
        # Of what was encrypted, and how much in it is of who writes.
        self._unsent = b""
        self._begun_bytes = 0
        # What broke it behind bytes that were still to be had.
        self._failure: OSError | None = None
        self.more = True

    async def do_handshake(self) -> None:
        self._check()
        done = False
        try:
            while not done:
                await trio.lowlevel.checkpoint()
                try:
                    self._tls.do_handshake()
                    done = True
                except ssl.SSLWantReadError:
                    pass
                while not self._flush():
                    await trio.lowlevel.wait_writable(self.socket)
                while not done and self._feed() is None:
                    await trio.lowlevel.wait_readable(self.socket)
        except OSError as error:
            self._say_why()
            raise trio.BrokenResourceError(str(error)) from error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        self._check()
        view = memoryview(bytearray(max_bytes or READ_BYTES))
        while True:
            try:
                return bytes(view[: self.readv(-1, (view,))])
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.socket)
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        view = memoryview(data)
        while view:
            try:
                view = view[self.writev(-1, (view,)) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.socket)
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error

    async def wait_send_all_might_not_block(self) -> None:
        self._check()
        await trio.lowlevel.wait_writable(self.socket)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self._stream.setsockopt(level, option, value)

    def readv(self, _descriptor: int, views: Sequence[memoryview]) -> int:
        """As os.readv into one view. Less than it holds where there is no more, or `more`."""
        (view,) = views
        try:
            count = self._read(view)
        finally:
            if self._outgoing.pending:
                self._say_why()
        if len(self._unsent) > ANSWERS_BYTES:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return count

    def writev(self, _descriptor: int, pieces: Sequence[bytes | memoryview]) -> int:
        """As os.writev. What was not taken must come first, and whole, the next time."""
        view = memoryview(b"".join(pieces))
        sent = 0
        if self._flush():
            sent, self._begun_bytes = self._begun_bytes, 0
            while sent < len(view):
                record = view[sent : sent + RECORD_BYTES]
                self._tls.write(record)
                if not self._flush():
                    self._begun_bytes = len(record)
                    break
                sent += len(record)
        if not sent:
            raise BlockingIOError
        return sent

    def _check(self) -> None:
        if self.socket.fileno() < 0:
            raise trio.ClosedResourceError("this stream is closed")

    def _read(self, view: memoryview) -> int:
        if self._failure is not None:
            raise self._failure
        self.more = True
        count = fed_bytes = 0
        drained = False
        try:
            while count < len(view):
                got = self._decrypt(view[count:])
                if got is not None:
                    if not got:
                        return count
                    count += got
                    continue
                if fed_bytes >= WIRE_BYTES and fed_bytes > BARREN * count:
                    break
                # A peer's end, of which one edge told, may stand behind half a record.
                came_bytes = None if drained and count else self._feed()
                if came_bytes is None:
                    self.more = False
                    break
                fed_bytes += came_bytes
                drained = 0 < came_bytes < WIRE_BYTES
        except OSError as error:
            self._failure = error
            if not count:
                raise
        if not count:
            raise BlockingIOError
        return count

    def _decrypt(self, view: memoryview) -> int | None:
        """As much as a record has, 0 at the end; None where the next record is not all here."""
        try:
            # With a buffer to read into it returns a count, of which the stubs do not know.
            return cast(int, self._tls.read(len(view), view))
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLEOFError:
            return 0

    def _feed(self) -> int | None:
        """How many bytes came from the socket, 0 at its end; None if it has nothing yet."""
        try:
            data = os.read(self.socket.fileno(), WIRE_BYTES)
        except BlockingIOError:
            return None
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return len(data)

    def _flush(self) -> bool:
        """Whether the socket has taken all that was encrypted."""
        data = self._unsent + self._outgoing.read()
        if data:
            self._unsent = data
            try:
                self._unsent = data[os.write(self.socket.fileno(), data) :]
            except BlockingIOError:
                return False
        return not self._unsent

    def _say_why(self) -> None:
        """What OpenSSL itself has to say: why it ends, or that it has new keys."""
        try:
            self._flush()
        except OSError:
            pass  # Whoever writes is told; what came before can still be read.
