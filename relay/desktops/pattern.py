"""The test pattern: a small RFB 3.8 server that needs nothing installed.

`Pattern.run` owns a nursery with the listener, the animation and one task per viewer; a
viewer's task owns a nursery with its reader and its writer, and ends when either does.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Awaitable, Callable

import trio

from relay.desktops.provider import RunningDesktop
from relay.desktops.region import Rect, Region
from relay.desktops.runtime import runtime_directory
from relay.desktops.screen import NATIVE, Screen, Translation
from relay.dialling.addresses import UnixAddress
from relay.dialling.login import PeerClosed, drive, open_desktop
from relay.errors import DesktopError, ProtocolError
from relay.limits import Limits
from relay.rfb import handshake, pixel_format

logger = logging.getLogger("relay.desktops")

TICK_S = 0.1
"""Between two steps of what moves: lively, at next to no cost."""

SIDE_MIN_PX, SIDE_MAX_PX = 64, 4096
"""Sizes that a viewer may ask for. 4096 x 4096 is 64 MiB of pixels."""

_RAW, _DESKTOP_SIZE, _DESKTOP_NAME, _EXTENDED_DESKTOP_SIZE = 0, -223, -307, -308

# ExtendedDesktopSize (community specification): why it is sent, and how a request ended.
_BY_SERVER, _BY_THIS_VIEWER, _BY_OTHER_VIEWER = 0, 1, 2
_DONE, _OUT_OF_RESOURCES = 0, 2

_RECTANGLE = struct.Struct(">HHHHi")
_SCREENS = struct.Struct(">BxxxIHHHHI")


class Pattern:
    """The test pattern as a desktop of its own."""

    name = "pattern"

    def __init__(self, size: tuple[int, int], limits: Limits) -> None:
        self._size = size
        self._limits = limits

    async def run(self, *, task_status: trio.TaskStatus[RunningDesktop]) -> None:
        failure: DesktopError | None = None
        async with runtime_directory(self.name) as directory:
            address = UnixAddress(str(directory / "rfb"))
            listener = await _listen(address)
            server = PatternServer(*self._size, limits=self._limits)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.animate)
                await nursery.start(trio.serve_listeners, server.serve, [listener])
                try:
                    await (await open_desktop(address, limits=self._limits)).aclose()
                    task_status.started(RunningDesktop(address))
                except DesktopError as error:
                    failure = error
                    nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure


async def _listen(address: UnixAddress) -> trio.SocketListener:
    listening = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        await listening.bind(address.path)
        listening.listen()
    except BaseException as error:
        listening.close()
        if not isinstance(error, OSError):
            raise  # Cancelled.
        raise DesktopError(f"cannot listen at {address}: {error}") from None
    return trio.SocketListener(listening)


class PatternServer:
    """One screen, and the viewers that look at it."""

    def __init__(self, width: int, height: int, *, limits: Limits) -> None:
        self._limits = limits
        self._viewers: set[_Viewer] = set()
        self._first_viewer = trio.lowlevel.ParkingLot()
        self.screen = Screen(width, height, self._damaged)

    async def animate(self) -> None:
        """Moves what moves, for ever, while somebody looks."""
        while True:
            if not self._viewers:
                await self._first_viewer.park()
            await trio.sleep(TICK_S)
            self.screen.tick()

    async def serve(self, stream: trio.abc.Stream) -> None:
        """One viewer, from the first byte of its handshake to its end. Closes the stream."""
        wire = _Wire(stream)
        async with stream:
            try:
                with trio.fail_after(self._limits.handshake_timeout_s):
                    await drive(handshake.greet(self._init().pack(1024)), wire)
            except (PeerClosed, ProtocolError, trio.TooSlowError, trio.BrokenResourceError):
                return
            viewer = _Viewer(self, wire)
            self._viewers.add(viewer)
            self._first_viewer.unpark_all()
            try:
                async with trio.open_nursery() as nursery:
                    for half in (viewer.read, viewer.write):
                        nursery.start_soon(_until_gone, half, nursery.cancel_scope)
            finally:
                self._viewers.remove(viewer)

    @property
    def name(self) -> bytes:
        return f"Test pattern {self.screen.width}x{self.screen.height}".encode()

    def resize(self, width: int, height: int, *, wish_of: _Viewer) -> None:
        """Carries out or refuses a viewer's SetDesktopSize."""
        if not all(SIDE_MIN_PX <= side <= SIDE_MAX_PX for side in (width, height)):
            wish_of.tell_size(_BY_THIS_VIEWER, _OUT_OF_RESOURCES)
            return
        self.screen.resize(width, height)
        for viewer in self._viewers:
            viewer.tell_size(_BY_THIS_VIEWER if viewer is wish_of else _BY_OTHER_VIEWER, _DONE)

    def _init(self) -> handshake.ServerInit:
        return handshake.ServerInit(self.screen.width, self.screen.height, NATIVE, self.name)

    def _damaged(self, rect: Rect) -> None:
        for viewer in self._viewers:
            viewer.damaged(rect)


class _Fault(Exception):
    """A viewer broke the protocol. The text is ours."""


async def _until_gone(half: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
    """Runs one half of a viewer to its end, which is the end of the other half too."""
    try:
        await half()
    except (PeerClosed, trio.BrokenResourceError):
        pass
    except _Fault as fault:
        logger.info("a viewer of the test pattern broke the protocol: %s", fault)
    scope.cancel()


class _Wire:
    """A viewer's stream, read in exact counts."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._unread = bytearray()
        self.send_all = stream.send_all

    async def read_exactly(self, count: int) -> bytes:
        while len(self._unread) < count:
            await self._read_more()
        taken = bytes(self._unread[:count])
        del self._unread[:count]
        return taken

    async def skip(self, count: int) -> None:
        while len(self._unread) < count:
            count -= len(self._unread)
            self._unread.clear()
            await self._read_more()
        del self._unread[:count]

    async def _read_more(self) -> None:
        data = await self._stream.receive_some(4096)
        if not data:
            raise PeerClosed
        self._unread += data


class _Viewer:
    """What one viewer has asked for and not got yet.

    An update is sent only as the answer to a request, and one update answers all requests
    that have come in so far (RFC 6143, Section 7.5.3).
    """

    def __init__(self, server: PatternServer, wire: _Wire) -> None:
        self._server = server
        self._wire = wire
        self._size = (server.screen.width, server.screen.height)
        self._encodings: frozenset[int] = frozenset()
        self._translate = Translation(NATIVE)
        self._damage = Region()
        self._request: Rect | None = None
        self._answer_now = False
        # Sizes to tell: reason to status. One of a kind, however often a viewer asks.
        self._size_news: dict[int, int] = {}
        self._news = trio.lowlevel.ParkingLot()

    def damaged(self, rect: Rect) -> None:
        self._damage.add(rect)
        self._news.unpark_all()

    def tell_size(self, reason: int, status: int) -> None:
        """Queues the screen's size for a viewer that understands such news."""
        if _EXTENDED_DESKTOP_SIZE in self._encodings or (
            _DESKTOP_SIZE in self._encodings and status == _DONE
        ):
            self._size_news[reason] = status
            self._news.unpark_all()

    async def write(self) -> None:
        while True:
            update = self._next_update()
            if update is None:
                await self._news.park()
            else:
                await self._wire.send_all(update)

    async def read(self) -> None:
        while True:
            kind = (await self._wire.read_exactly(1))[0]
            if kind not in _MESSAGES:
                raise _Fault(f"message type {kind}")
            size, act = _MESSAGES[kind]
            await act(self, await self._wire.read_exactly(size))

    def _next_update(self) -> bytes | None:
        """A FramebufferUpdate (RFC 6143, Section 7.6.1), or None while none is due."""
        if self._request is None:
            return None
        screen = self._server.screen
        rectangles = [self._size_rectangle(*news) for news in self._size_news.items()]
        size = (screen.width, screen.height)
        if self._size_news and self._size != size:
            # No pixels with a new size: a viewer may drop what comes with it.
            self._size = size
            if _DESKTOP_NAME in self._encodings:
                rectangles.append(self._name_rectangle())
            self._damage.add(screen.bounds)
        else:
            # A viewer that cannot be told of a new size keeps its own.
            window = self._request.intersect(Rect(0, 0, *self._size))
            window = window and window.intersect(screen.bounds)
            for rect in self._damage.take(window) if window else []:
                pixels = self._translate(screen.read(rect))
                rectangles.append(_RECTANGLE.pack(*rect, _RAW) + pixels)
            if not rectangles and not self._answer_now:
                return None
        self._size_news.clear()
        self._request = None
        self._answer_now = False
        return struct.pack(">BxH", 0, len(rectangles)) + b"".join(rectangles)

    def _size_rectangle(self, reason: int, status: int) -> bytes:
        width, height = self._server.screen.width, self._server.screen.height
        if _EXTENDED_DESKTOP_SIZE not in self._encodings:
            return _RECTANGLE.pack(0, 0, width, height, _DESKTOP_SIZE)
        return _RECTANGLE.pack(
            reason, status, width, height, _EXTENDED_DESKTOP_SIZE
        ) + _SCREENS.pack(1, 0, 0, 0, width, height, 0)

    def _name_rectangle(self) -> bytes:
        name = self._server.name
        return _RECTANGLE.pack(0, 0, 0, 0, _DESKTOP_NAME) + struct.pack(">I", len(name)) + name

    async def _set_pixel_format(self, body: bytes) -> None:
        try:
            wanted = pixel_format.parse(body, 3)
        except ValueError as error:
            raise _Fault(f"SetPixelFormat: {error}") from None
        if not wanted.true_colour:
            raise _Fault("SetPixelFormat asks for a colour map")
        self._translate = Translation(wanted)

    async def _set_encodings(self, body: bytes) -> None:
        (count,) = struct.unpack(">xH", body)
        if count > self._server._limits.encodings_count:
            raise _Fault(f"{count} encodings")
        before = self._encodings
        listed = await self._wire.read_exactly(4 * count)
        self._encodings = frozenset(struct.unpack(f">{count}i", listed))
        if self._encodings.isdisjoint((_DESKTOP_SIZE, _EXTENDED_DESKTOP_SIZE)):
            self._size_news.clear()
        if _EXTENDED_DESKTOP_SIZE in self._encodings - before:
            self.tell_size(_BY_SERVER, _DONE)

    async def _update_request(self, body: bytes) -> None:
        incremental, *area = struct.unpack(">BHHHH", body)
        asked = Rect(*area)
        self._request = asked if self._request is None else self._request.bound(asked)
        if not incremental:
            self._answer_now = True
            visible = asked.intersect(self._server.screen.bounds)
            if visible is not None:
                self._damage.add(visible)
        self._news.unpark_all()

    async def _key(self, body: bytes) -> None:
        down, keysym = struct.unpack(">BxxI", body)
        self._server.screen.key(keysym, down=bool(down))

    async def _pointer(self, body: bytes) -> None:
        buttons, x, y = struct.unpack(">BHH", body)
        self._server.screen.pointer(x, y, buttons)

    async def _cut_text(self, body: bytes) -> None:
        # Negative lengths are the extended clipboard's, which was not offered; nothing is kept.
        (length,) = struct.unpack(">xxxi", body)
        await self._wire.skip(abs(length))

    async def _set_desktop_size(self, body: bytes) -> None:
        width, height, screens = struct.unpack(">xHHBx", body)
        await self._wire.read_exactly(16 * screens)
        self._server.resize(width, height, wish_of=self)


# By message type (RFC 6143, Section 7.5; 251 is SetDesktopSize of the community specification):
# the size of the fixed part after the type, and what to do.
_MESSAGES: dict[int, tuple[int, Callable[[_Viewer, bytes], Awaitable[None]]]] = {
    0: (19, _Viewer._set_pixel_format),
    2: (3, _Viewer._set_encodings),
    3: (9, _Viewer._update_request),
    4: (7, _Viewer._key),
    5: (5, _Viewer._pointer),
    6: (7, _Viewer._cut_text),
    251: (7, _Viewer._set_desktop_size),
}
