"""The connection of an RFB client: what is sent to a desktop, and who waits for its answers.

No task runs behind it: who waits for something reads, one task at a time.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Collection
from typing import NoReturn

import trio

from relay.dialling.login import DesktopEnd
from relay.errors import DesktopError, ProtocolError
from relay.limits import Limits
from relay.net import streams
from relay.rfb import encodings
from relay.rfb.encodings.confirmations import ExtendedKeyEvent, ExtendedMouseButtons
from relay.rfb.encodings.cursor import Cursor, CursorWithAlpha, PointerPosition
from relay.rfb.encodings.desktop_name import DesktopName
from relay.rfb.encodings.desktop_size import DesktopSize, ExtendedDesktopSize
from relay.rfb.encodings.led_state import LedState
from relay.rfb.encodings.vmware import VMwareCursorPosition
from relay.rfb.errors import Violation
from relay.rfb.fences import BLOCK_BEFORE, FENCE_REQUEST, fence
from relay.rfb.pixel_format import PixelFormat
from relay.rfb.pixels.canvas import Array, Canvas
from relay.rfb.pixels.messages import Messages

_CAN = (
    Cursor.number,
    CursorWithAlpha.number,
    PointerPosition.number,
    VMwareCursorPosition.number,
    DesktopSize.number,
    ExtendedDesktopSize.number,
    DesktopName.number,
    encodings.LAST_RECT,
    ExtendedKeyEvent.number,
    ExtendedMouseButtons.number,
    # For a client without it Xvnc presses Caps Lock to type a capital letter.
    LedState.number,
    encodings.EXTENDED_CLIPBOARD,
    encodings.FENCE,
    # Understood, and not switched on: nothing reads between two calls, so updates that nobody
    # asked for would pile up at the desktop, and be old when they are read.
    encodings.CONTINUOUS_UPDATES,
)

_QUALITY = -23

ANSWER_TIMEOUT_S = 10.0
"""A desktop that has not answered by then, or not taken what was sent, is as good as gone."""

PICTURE_TIMEOUT_S = 30.0
"""For one picture, however often its size changes before all of it has come."""

REQUEST_TIMEOUT_S = 1.0
"""For a request to go out although nobody waits for its answer any more."""

_READ_BYTES = 262_144

# Its answer comes when what was sent before it has been handled.
_BLOCKING_FENCE = FENCE_REQUEST | BLOCK_BEFORE

_request = struct.Struct(">BBHHHH").pack


class Connection:
    """A desktop's stream after the handshake. Every method that sends or waits raises DesktopError
    once it is gone; `gone` then says why.
    """

    def __init__(
        self,
        end: DesktopEnd,
        pixel_format: PixelFormat,
        pixel_encodings: Collection[int],
        limits: Limits,
    ) -> None:
        self._stream = end.stream
        self.canvas = Canvas(end.width, end.height, pixel_format)
        self.messages = Messages(self.canvas, limits)
        self.messages.name = end.init.name
        self.gone: str | None = None
        self._fences = 0
        # Whether an incremental request is out that no update has come for.
        self._asked = False
        self._reading = trio.Lock()
        self._writing = trio.Lock()
        self._picturing = trio.Lock()
        self._early = end.early
        # Level 9 of JPEG, which Tight may use: text stays legible.
        numbers = [*pixel_encodings, *_CAN, _QUALITY]
        self._hello = b"\0\0\0\0" + pixel_format.pack()
        self._hello += struct.pack(f">BxH{len(numbers)}i", 2, len(numbers), *numbers)

    @property
    def size_px(self) -> tuple[int, int]:
        height, width = self.canvas.pixels.shape[:2]
        return width, height

    async def picture(self) -> Array:
        """A copy of the canvas, once it shows what the desktop does when it has this request."""
        messages = self.messages
        async with self._picturing:
            await self._read_old()
            messages.forget()
            size_px = 0, 0
            with trio.move_on_after(PICTURE_TIMEOUT_S) as patience:
                while not messages.seen:
                    size_px = await self._ask_for_all(size_px)
            if patience.cancelled_caught:
                text = f"the desktop has not shown all of itself within {PICTURE_TIMEOUT_S:g} s"
                raise DesktopError(text, told=text)
            return self.canvas.pixels.copy()

    async def _read_old(self) -> None:
        """What was under way before shows an earlier state. So does an answer to `change` that
        nobody has read, however long ago it came."""
        if self.messages.fences:
            await self._sync_by_fence()
        elif self._asked:
            await self._sync_by_pixel()

    async def read_size(self) -> None:
        """Has `size_px` be what it is now: a new size is told in the answer to a request."""
        async with self._picturing:
            await self._read_old()
            await self._sync_by_pixel()

    async def _ask_for_all(self, asked_px: tuple[int, int]) -> tuple[int, int]:
        """Asks for all there is, of a desktop that was asked when it had another size; returns its
        size. Reads until all has come or has to be asked for again: after a change of the size,
        and after an update without pixels. To a request for what it has sent already TigerVNC's
        server answers first with such a one, and then only if it is asked for what is new."""
        messages = self.messages
        size_px, bare = self.size_px, messages.updates - messages.damages
        await self.send(_request(3, size_px == asked_px, 0, 0, *size_px))
        await self.until(
            lambda: (
                messages.seen
                or size_px != self.size_px
                or bare != messages.updates - messages.damages
            )
        )
        return size_px

    async def change(self) -> None:
        """Waits for an update, which may have painted nothing."""
        if not self._asked:
            self._asked = True
            # Whoever waits here gives up at any time, and what is cut off ends the connection.
            with trio.move_on_after(REQUEST_TIMEOUT_S, shield=True) as patience:
                await self.send(_request(3, 1, 0, 0, *self.size_px))
            if patience.cancelled_caught:
                self._asked = False
        updates = self.messages.updates
        await self.until(lambda: self.messages.updates > updates, math.inf)

    async def settled(self, *, quiet_s: float, limit_s: float) -> bool:
        """Waits until nothing has been painted for so long; false where `limit_s` came first."""
        messages = self.messages
        with trio.move_on_after(limit_s):
            while True:
                damages = messages.damages
                with trio.move_on_after(quiet_s) as quiet:
                    while messages.damages == damages:
                        await self.change()
                if quiet.cancelled_caught:
                    return True
        return False

    async def sync(self) -> None:
        """Waits until the desktop has taken all that was sent to it."""
        if self.messages.fences:
            await self._sync_by_fence()
        else:
            async with self._picturing:
                await self._sync_by_pixel()

    async def _sync_by_fence(self) -> None:
        self._fences += 1
        payload = struct.pack(">I", self._fences)
        await self.send(fence(_BLOCKING_FENCE, payload))
        # They come back in order, so a later one is as good.
        await self.until(lambda: self.messages.answered >= payload)

    async def _sync_by_pixel(self) -> None:
        """One, changed or not, is answered by any desktop."""
        before = self.messages.updates
        await self.send(_request(3, 0, 0, 0, 1, 1))
        await self.until(lambda: self.messages.updates > before)

    async def send(self, data: bytes, *, shield: bool = False) -> None:
        """Behind what the desktop is still to be answered. Raises DesktopError also where it takes
        nothing for too long. With `shield` what has begun is finished, cancelled or not."""
        messages = self.messages
        async with self._writing:
            self._check()
            data = self._hello + messages.replies + data
            self._hello = b""
            messages.replies.clear()
            try:
                with trio.move_on_after(ANSWER_TIMEOUT_S, shield=shield) as patience:
                    await streams.send(self._stream, data)
                if patience.cancelled_caught:
                    self._end(f"the desktop has not taken a message within {ANSWER_TIMEOUT_S:g} s")
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._end("the desktop has closed the connection")
            except trio.Cancelled:
                # Half a message may have gone out, behind which nothing can be said.
                self.gone = "a message to the desktop was cut off"
                raise

    async def until(self, done: Callable[[], bool], within_s: float = ANSWER_TIMEOUT_S) -> None:
        """Reads until `done`. Raises DesktopError, also where the desktop takes longer: then it is
        gone, for one that vanished without a word would be waited for by each action anew."""
        with trio.move_on_after(within_s) as patience:
            while not done():
                self._check()
                async with self._reading:
                    if not done():
                        await self._read()
        if patience.cancelled_caught:
            self._end(f"the desktop has not answered within {within_s:g} s")

    async def close(self) -> None:
        """At once, whatever is under way."""
        self.gone = self.gone or "the connection to the desktop has been closed here"
        await streams.cut(self._stream)

    async def _read(self) -> None:
        messages = self.messages
        data, self._early = self._early, b""
        if not data and not messages.behind:
            try:
                data = await streams.receive(self._stream, _READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                self._end("the desktop has closed the connection")
        updates = messages.updates
        try:
            messages.feed(data)
        except (Violation, ProtocolError) as error:
            self._end(f"the desktop does not speak RFB as it should: {error}")
        self._asked &= messages.updates == updates
        if messages.replies:
            # Who is cancelled while another sends leaves them to whoever sends next. Who waits for
            # quiet gives up at any time, and a busy desktop is to be answered all the time.
            await self.send(b"", shield=True)
        # A desktop that always has more to say must not have Trio wait.
        await trio.lowlevel.checkpoint()

    def _end(self, why: str) -> NoReturn:
        # What came first is why.
        self.gone = self.gone or why
        raise DesktopError(self.gone, told=self.gone)

    def _check(self) -> None:
        if self.gone is not None:
            raise DesktopError(self.gone, told=self.gone)
