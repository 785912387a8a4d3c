"""An RFB client: sees a desktop and acts on it, as a viewer does.

    async with relay.connect("tcp://127.0.0.1:5901") as desktop:
        await desktop.click(10, 20)
        await desktop.type("hello\\n")
        png = await desktop.screenshot()

No task runs behind it, and nothing is asked of a desktop that nobody waits for: who waits for
something reads, one task at a time, so that several may share a `Desktop`. Coordinates are the
desktop's pixels, from the top left. Needs NumPy and Pillow (`pip install "deskrelay[client]"`).
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager

import trio

from relay import streams
from relay.agent_dial import AgentAddress
from relay.desktops.provider import RunningDesktop
from relay.dial import Address, UnixAddress, parse_address
from relay.errors import DesktopError, ProtocolError
from relay.keysyms import KEYCODES, combination, keysym_of
from relay.limits import Limits
from relay.login import DesktopEnd
from relay.passwords import PasswordSource
from relay.pictures import png
from relay.rfb import encodings, handshake
from relay.rfb.encodings.confirmations import ExtendedKeyEvent
from relay.rfb.encodings.cursor import Cursor, CursorWithAlpha, PointerPosition
from relay.rfb.encodings.desktop_name import DesktopName
from relay.rfb.encodings.desktop_size import DesktopSize, ExtendedDesktopSize
from relay.rfb.encodings.led_state import LedState
from relay.rfb.errors import Violation
from relay.rfb.pixel_format import PixelFormat
from relay.rfb.pixels.canvas import Array, Canvas
from relay.rfb.pixels.cursor import draw
from relay.rfb.pixels.messages import Messages, fence

__all__ = ["ENCODINGS_HERE", "ENCODINGS_THERE", "RGBX", "Desktop", "connect", "encodings_for"]

RGBX = PixelFormat(32, 24, False, True, 255, 255, 255, 0, 8, 16)
"""Red, green and blue a byte each, and one more: what the canvas holds."""

_CAN = (
    Cursor.number,
    CursorWithAlpha.number,
    PointerPosition.number,
    DesktopSize.number,
    ExtendedDesktopSize.number,
    DesktopName.number,
    encodings.LAST_RECT,
    ExtendedKeyEvent.number,
    # For a client without it Xvnc presses Caps Lock to type a capital letter.
    LedState.number,
    encodings.EXTENDED_CLIPBOARD,
    encodings.FENCE,
    encodings.CONTINUOUS_UPDATES,
)

ENCODINGS_HERE: Sequence[int] = (0, 1)
"""For a desktop of this machine: it takes longer to compress than to copy. TigerVNC's server takes
any other that is offered rather than Raw."""

ENCODINGS_THERE: Sequence[int] = (7, 1, 16, 6, 5, 2, 0)
"""For a desktop behind a network, best first."""

_QUALITY = -23

ANSWER_TIMEOUT_S = 10.0
"""A desktop that has not answered by then is as good as gone."""

_READ_BYTES = 262_144
_RELEASE_TIMEOUT_S = 1.0

CLICK_PAUSE_S = 0.02
"""Between the clicks of a double click. Two presses in the same millisecond are one to Chromium,
which it has been told of twice."""

_WHEEL = range(4, 8)

# Characters behind which the desktop is waited for, so that long text does not fill its buffers.
_TYPED_AT_ONCE = 64

_UNICODE = 0x01000000
"""From here on keysyms are those of Unicode's characters beyond Latin-1."""

_PASTE_TIMEOUT_S = 2.0
_PASTE_QUIET_S = 0.08

_REQUEST_FENCE = 1 << 31 | 1  # and "block before": what was sent before it has been handled

_key_event = struct.Struct(">BBxxI").pack
_extended_key_event = struct.Struct(">BBHII").pack
_pointer_event = struct.Struct(">BBHH").pack
_request = struct.Struct(">BBHHHH").pack


@asynccontextmanager
async def connect(
    desktop: str | Address | RunningDesktop,
    *,
    password: PasswordSource | None = None,
    encodings: Sequence[int] | None = None,
    pixel_format: PixelFormat = RGBX,
    limits: Limits | None = None,
) -> AsyncIterator[Desktop]:
    """A connection to a desktop, while the block runs: at an address ("tcp://HOST:PORT",
    "unix:PATH", or "wss://HOST:PORT" of a workspace's agent, for whose secret and certificates
    there is `parse_address`), or one that a provider has started.

    `encodings` are those of pixels that it may use, best first. Raises DesktopError where it cannot
    be reached or logged in to, ValueError for an address that is none. At the end, whatever ended
    the block, what is held down is released.
    """
    limits = limits or Limits()
    if isinstance(desktop, str):
        desktop = parse_address(desktop)
    if not isinstance(desktop, RunningDesktop):
        desktop = RunningDesktop(desktop, password)
    if encodings is None:
        encodings = encodings_for(desktop.address)
    connected = Desktop(await desktop.open(limits), pixel_format, encodings, limits)
    try:
        # Its answer tells what it can do.
        await connected.sync()
        yield connected
    finally:
        await connected.aclose()


def encodings_for(address: Address) -> Sequence[int]:
    """The encodings of pixels that suit a desktop at `address`, best first."""
    if isinstance(address, AgentAddress):
        return ENCODINGS_THERE  # At a loopback address it is the end of a tunnel.
    here = isinstance(address, UnixAddress) or address.host in ("127.0.0.1", "::1", "localhost")
    return ENCODINGS_HERE if here else ENCODINGS_THERE


class Desktop:
    """A desktop after the handshake. Every method raises DesktopError once it is gone.

    `pointer` is where it was last told to be, by us or by the desktop; None as long as nobody did:
    few desktops tell. A button without it is pressed at 0, 0. Buttons are numbered as in
    RFC 6143, Section 7.5.5: 1 left, 2 middle, 3 right, and the wheel's 4 up, 5 down, 6 left and
    7 right.
    """

    def __init__(
        self,
        end: DesktopEnd,
        pixel_format: PixelFormat,
        pixel_encodings: Collection[int],
        limits: Limits,
    ) -> None:
        self._stream = end.stream
        self._canvas = Canvas(end.width, end.height, pixel_format)
        self._messages = Messages(self._canvas, limits)
        self._messages.name = end.init.name
        self._x = self._y = 0
        self._pointed = False
        self._buttons = 0
        self._keys: dict[int, None] = {}
        self._fences = 0
        # Whether an incremental request is out that no update has come for.
        self._asked = False
        self._reading = trio.Lock()
        self._writing = trio.Lock()
        self._picturing = trio.Lock()
        self._gone: str | None = None
        self._early = end.early
        # Level 9 of JPEG, which Tight may use: text stays legible.
        numbers = [*pixel_encodings, *_CAN, _QUALITY]
        self._hello = b"\0\0\0\0" + pixel_format.pack()
        self._hello += struct.pack(f">BxH{len(numbers)}i", 2, len(numbers), *numbers)

    @property
    def width(self) -> int:
        return int(self._canvas.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self._canvas.pixels.shape[0])

    @property
    def name(self) -> str:
        return handshake.printable(self._messages.name)

    @property
    def pointer(self) -> tuple[int, int] | None:
        return (self._x, self._y) if self._pointed else None

    @property
    def gone(self) -> bool:
        """Whether the connection is known to have ended."""
        return self._gone is not None

    @property
    def clipboard(self) -> str | None:
        """What the desktop last put on its clipboard; None where it has not yet."""
        return self._messages.clipboard

    # What the desktop shows.

    async def picture(self, *, cursor: bool = False) -> Array:
        """What the desktop shows once it has this request: (height, width, 4) uint8, RGBA, with the
        cursor's shape drawn where the pointer is, if it is wanted."""
        messages = self._messages
        async with self._picturing:
            if messages.fences:
                # What was under way before shows an earlier state.
                await self.sync()
            messages.forget()
            size_px = 0, 0
            while not messages.seen:
                size_px = await self._ask_for_all(size_px)
            picture = self._canvas.pixels.copy()
        # TigerVNC's server paints it where somebody else has moved it.
        if cursor and self._canvas.cursor is not None and self._pointed:
            draw(self._canvas.cursor, self._x, self._y, picture)
        return picture

    async def _ask_for_all(self, asked_px: tuple[int, int]) -> tuple[int, int]:
        """Asks for all there is, of a desktop that was asked when it had another size; returns its
        size. Reads until all has come or has to be asked for again: after a change of the size,
        and after an update without pixels. To a request for what it has sent already TigerVNC's
        server answers first with such a one, and then only if it is asked for what is new."""
        messages = self._messages
        size_px, bare = (self.width, self.height), messages.updates - messages.damages
        await self._send(_request(3, size_px == asked_px, 0, 0, *size_px))
        await self._until(
            lambda: (
                messages.seen
                or size_px != (self.width, self.height)
                or bare != messages.updates - messages.damages
            )
        )
        return size_px

    async def screenshot(self, *, cursor: bool = False) -> bytes:
        """`picture` as a PNG file."""
        # In a thread: it takes 20 ms, longer than other tasks of the process should wait.
        return await trio.to_thread.run_sync(png, await self.picture(cursor=cursor))

    async def settled(self, *, quiet_s: float, limit_s: float) -> bool:
        """Waits until the desktop has painted nothing for `quiet_s` seconds; false where
        that did not come about within `limit_s`."""
        messages = self._messages
        with trio.move_on_after(limit_s):
            while True:
                damages = messages.damages
                with trio.move_on_after(quiet_s) as quiet:
                    while messages.damages == damages:
                        await self._change()
                if quiet.cancelled_caught:
                    return True
        return False

    async def _change(self) -> None:
        """Waits for an update, which may have painted nothing."""
        if not self._asked:
            self._asked = True
            # Whoever waits here gives up at any time, and what is cut off ends the connection.
            with _cleanup():
                await self._send(_request(3, 1, 0, 0, self.width, self.height))
        updates = self._messages.updates
        await self._until(lambda: self._messages.updates > updates, math.inf)

    async def sync(self) -> None:
        """Waits until the desktop has taken all that was sent to it."""
        messages = self._messages
        if messages.fences:
            self._fences += 1
            payload = struct.pack(">I", self._fences)
            await self._send(fence(_REQUEST_FENCE, payload))
            # They come back in order, so a later one is as good.
            await self._until(lambda: messages.answered >= payload)
            return
        # One pixel, changed or not, is answered by any desktop.
        async with self._picturing:
            before = messages.updates
            await self._send(_request(3, 0, 0, 0, 1, 1))
            await self._until(lambda: messages.updates > before)

    # What is done to it.

    async def move(self, x: int, y: int) -> None:
        """Moves the pointer. Raises ValueError outside the desktop."""
        if not (0 <= x < self.width and 0 <= y < self.height):
            size = f"{self.width}x{self.height}"
            raise ValueError(f"({x}, {y}) is not on the desktop, which is {size}")
        self._x, self._y = x, y
        self._pointed = True
        await self._send(self._point())

    async def button_down(self, button: int = 1) -> None:
        """Presses a button where the pointer is."""
        self._buttons |= _mask(button)
        await self._send(self._point())

    async def button_up(self, button: int = 1) -> None:
        """Releases a button where the pointer is."""
        self._buttons &= ~_mask(button)
        await self._send(self._point())

    async def click(
        self, x: int | None = None, y: int | None = None, *, button: int = 1, count: int = 1
    ) -> None:
        """Clicks, `count` times: at x, y, or where the pointer is. Returns when the desktop has
        taken it."""
        if x is not None and y is not None:
            await self.move(x, y)
        try:
            for number in range(count):
                if number and button not in _WHEEL:
                    # A desktop that is busy would take it together with the last.
                    await self.sync()
                    await trio.sleep(CLICK_PAUSE_S)
                await self.button_down(button)
                await self.button_up(button)
        finally:
            await self._let_go(_mask(button))
        await self.sync()

    async def drag(self, x: int, y: int, *, button: int = 1) -> None:
        """From where the pointer is to x, y, with a button held down."""
        try:
            await self.button_down(button)
            await self.move(x, y)
            await self.button_up(button)
        finally:
            await self._let_go(_mask(button))
        await self.sync()

    async def scroll(self, right: int = 0, down: int = 0) -> None:
        """Turns the wheel where the pointer is, by so many clicks; negative ones the other way."""
        for clicks, forward, back in ((right, 7, 6), (down, 5, 4)):
            if clicks:
                await self.click(button=forward if clicks > 0 else back, count=abs(clicks))

    async def key_down(self, keysym: int) -> None:
        """Presses a key, by its X keysym."""
        self._keys[keysym] = None
        await self._send(self._key(keysym, down=True))

    async def key_up(self, keysym: int) -> None:
        """Releases a key."""
        self._keys.pop(keysym, None)
        await self._send(self._key(keysym, down=False))

    async def press(self, keys: str, *, count: int = 1) -> None:
        """Presses and releases a key or combination such as "Return" or "ctrl+shift+t". Raises
        ValueError for a name that is none."""
        keysyms = combination(keys)
        for _ in range(count):
            try:
                for keysym in keysyms:
                    await self.key_down(keysym)
            finally:
                with _cleanup():
                    for keysym in reversed(keysyms):
                        if keysym in self._keys:
                            await self.key_up(keysym)
        await self.sync()

    async def type(self, text: str) -> None:
        """Types text, of any script. Returns when the desktop has taken it. Raises ValueError for
        a character that cannot be typed, before the first.

        What no keyboard of a Latin script has is pasted, with Shift and Insert, where the desktop
        has a clipboard of Unicode; what was on it is lost. As keys, where it has not: TigerVNC's
        server adds some 20 of them to its keyboard and does nothing for more, and programs may not
        notice the first in time.
        """
        text = text.replace("\r\n", "\n")
        keysyms = {character: keysym_of(character) for character in text}
        pastes = self._messages.extended_clipboard
        for paste, group in itertools.groupby(text, lambda c: pastes and keysyms[c] >= _UNICODE):
            part = "".join(group)
            if paste:
                await self._paste(part)
            else:
                await self._type([keysyms[character] for character in part])

    async def _type(self, keysyms: list[int]) -> None:
        for at in range(0, len(keysyms), _TYPED_AT_ONCE):
            some = keysyms[at : at + _TYPED_AT_ONCE]
            # In one send: it is whole or the connection is broken, so no key stays down.
            await self._send(
                b"".join(self._key(key, down=True) + self._key(key, down=False) for key in some)
            )
            await self.sync()

    async def _paste(self, text: str) -> None:
        messages = self._messages
        await self.set_clipboard(text)
        provided = messages.provided
        await self.press("shift+Insert")
        with trio.move_on_after(_PASTE_TIMEOUT_S):
            await self._until(lambda: messages.provided > provided)
            # Programs insert it in their own time, and keys that come behind must not overtake it.
            await self.settled(quiet_s=_PASTE_QUIET_S, limit_s=_PASTE_TIMEOUT_S)

    async def set_clipboard(self, text: str) -> None:
        """Puts text on the desktop's clipboard. Where the desktop has only the plain form, what is
        not Latin-1 becomes question marks."""
        await self._send(self._messages.offer(text))
        await self.sync()

    async def release_all(self) -> None:
        """Every key and button that is held down goes up."""
        released = b"".join(self._key(keysym, down=False) for keysym in reversed(self._keys))
        self._keys.clear()
        if self._buttons:
            self._buttons = 0
            released += self._point()
        if released:
            await self._send(released)

    async def _let_go(self, mask: int) -> None:
        """After a click or a drag: a button that is still down was being held when it was cut."""
        if self._buttons & mask and self._gone is None:
            with _cleanup():
                self._buttons &= ~mask
                await self._send(self._point())

    def _point(self) -> bytes:
        return _pointer_event(5, self._buttons, self._x, self._y)

    def _key(self, keysym: int, *, down: bool) -> bytes:
        # With a keycode the desktop's own layout decides what a letter is, so only keys that are
        # the same in every layout have one.
        keycode = KEYCODES.get(keysym, 0) if keysym >= 0xFF00 else 0
        if keycode and self._messages.extended_keys:
            return _extended_key_event(255, 0, down, keysym, keycode)
        return _key_event(4, down, keysym)

    # The connection.

    async def aclose(self) -> None:
        """Releases what is held down, and closes. Never raises."""
        with _cleanup():
            try:
                if self._gone is None:
                    await self.release_all()
            except DesktopError:
                # It is gone, and with it what was held down.
                pass
        await streams.cut(self._stream)

    async def _send(self, data: bytes) -> None:
        async with self._writing:
            self._check()
            hello, self._hello = self._hello, b""
            try:
                await streams.send(self._stream, hello + data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._gone = "the desktop has closed the connection"
                self._check()
            except trio.Cancelled:
                # Half a message may have gone out, behind which nothing can be said.
                self._gone = "a message to the desktop was cut off"
                raise

    async def _until(self, done: Callable[[], bool], within_s: float = ANSWER_TIMEOUT_S) -> None:
        """Reads until `done`. Raises DesktopError, also where the desktop takes longer."""
        with trio.move_on_after(within_s) as patience:
            while not done():
                self._check()
                async with self._reading:
                    if not done():
                        await self._read()
        if patience.cancelled_caught:
            raise DesktopError(f"the desktop has not answered within {within_s:g} s")

    async def _read(self) -> None:
        data, self._early = self._early, b""
        if not data:
            try:
                data = await streams.receive(self._stream, _READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
        if not data:
            self._gone = "the desktop has closed the connection"
            self._check()
        messages = self._messages
        updates = messages.updates
        try:
            messages.feed(data)
        except (Violation, ProtocolError) as error:
            self._gone = f"the desktop does not speak RFB as it should: {error}"
            self._check()
        self._asked &= messages.updates == updates
        if messages.pointer is not None:
            self._x, self._y = messages.pointer
            self._pointed = True
            messages.pointer = None
        if messages.replies:
            replies = bytes(messages.replies)
            messages.replies.clear()
            await self._send(replies)
        # A desktop that always has more to say must not have Trio wait.
        await trio.lowlevel.checkpoint()

    def _check(self) -> None:
        if self._gone is not None:
            raise DesktopError(self._gone)


def _mask(button: int) -> int:
    if not 1 <= button <= 8:
        raise ValueError(f"there is no button {button}; buttons are 1 to 8")
    return 1 << (button - 1)


def _cleanup() -> trio.CancelScope:
    return trio.CancelScope(shield=True, deadline=trio.current_time() + _RELEASE_TIMEOUT_S)
