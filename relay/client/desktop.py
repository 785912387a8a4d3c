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

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

import trio

from relay.client.connection import Connection
from relay.client.input import Input, letting_go
from relay.client.pictures import png
from relay.client.text import Text
from relay.desktops.provider import RunningDesktop
from relay.dialling.addresses import Address, UnixAddress, parse_address
from relay.dialling.login import DesktopEnd
from relay.dialling.passwords import Password, PasswordSource
from relay.dialling.workspace_agent import WorkspaceAgentAddress
from relay.limits import Limits
from relay.net import streams
from relay.rfb import handshake
from relay.rfb.pixel_format import PixelFormat
from relay.rfb.pixels.canvas import Array
from relay.rfb.pixels.cursor import draw

__all__ = ["ENCODINGS_HERE", "ENCODINGS_THERE", "RGBX", "Desktop", "connect", "encodings_for"]

RGBX = PixelFormat(32, 24, False, True, 255, 255, 255, 0, 8, 16)
"""Red, green and blue a byte each, and one more: what the canvas holds."""

ENCODINGS_HERE: Sequence[int] = (0, 1)
"""For a desktop of this machine: it takes longer to compress than to copy. TigerVNC's server takes
any other that is offered rather than Raw."""

ENCODINGS_THERE: Sequence[int] = (7, 1, 16, 6, 5, 2, 0)
"""For a desktop behind a network, best first."""

CLICK_PAUSE_S = 0.02
"""Between the clicks of a double click. Two presses in the same millisecond are one to Chromium,
which it has been told of twice."""

_WHEEL = range(4, 8)


@asynccontextmanager
async def connect(
    desktop: str | Address | RunningDesktop,
    *,
    password: PasswordSource | str | None = None,
    encodings: Sequence[int] | None = None,
    pixel_format: PixelFormat = RGBX,
    limits: Limits | None = None,
) -> AsyncIterator[Desktop]:
    """A connection to a desktop, while the block runs: at an address ("tcp://HOST:PORT",
    "unix:PATH", or "wss://HOST:PORT" of a workspace agent, for whose secret and certificates
    there is `parse_address`), or one that a provider has started.

    `password` is for an address; a desktop that was started brings its own. `encodings` are those
    of pixels that it may use, best first. Raises DesktopError where it cannot be reached or logged
    in to, ValueError for an address that is none. At the end, whatever ended the block, what is
    held down is released.
    """
    limits = limits or Limits()
    if isinstance(password, str):
        password = Password(password)
    if isinstance(desktop, str):
        desktop = parse_address(desktop)
    if not isinstance(desktop, RunningDesktop):
        desktop = RunningDesktop(desktop, password)
    if encodings is None:
        encodings = encodings_for(desktop.address)
    end = await desktop.open(limits)
    try:
        connected = Desktop(end, pixel_format, encodings, limits)
    except BaseException:
        await streams.cut(end.stream)
        raise
    try:
        # Its answer tells what it can do.
        await connected.sync()
        yield connected
    finally:
        await connected.aclose()


def encodings_for(address: Address) -> Sequence[int]:
    """The encodings of pixels that suit a desktop at `address`, best first."""
    if isinstance(address, WorkspaceAgentAddress):
        return ENCODINGS_THERE  # At a loopback address it is the end of a tunnel.
    here = isinstance(address, UnixAddress) or address.host in ("127.0.0.1", "::1", "localhost")
    return ENCODINGS_HERE if here else ENCODINGS_THERE


class Desktop:
    """A desktop after the handshake. Every method raises DesktopError once it is gone.

    `pointer` is where it was last told to be, by us or by the desktop; None as long as nobody did:
    few desktops tell. A button without it is pressed in the middle. Buttons are numbered as in
    RFC 6143, Section 7.5.5: 1 left, 2 middle, 3 right, the wheel's 4 up, 5 down, 6 left, 7 right,
    and 8 back. 9, forward, takes a desktop with extended mouse buttons (community specification).
    """

    def __init__(
        self,
        end: DesktopEnd,
        pixel_format: PixelFormat,
        pixel_encodings: Collection[int],
        limits: Limits,
    ) -> None:
        self._connection = Connection(end, pixel_format, pixel_encodings, limits)
        self._messages = self._connection.messages
        self._input = Input(self._connection)
        self._text = Text(self._connection, self._input)

    @property
    def width(self) -> int:
        return self._connection.size_px[0]

    @property
    def height(self) -> int:
        return self._connection.size_px[1]

    @property
    def name(self) -> str:
        return handshake.printable(self._messages.name)

    @property
    def pointer(self) -> tuple[int, int] | None:
        return self._messages.pointer

    @property
    def gone(self) -> bool:
        """Whether the connection is known to have ended."""
        return self._connection.gone is not None

    @property
    def clipboard(self) -> str | None:
        """What the desktop last put on its clipboard, as far as has been read: `sync` and all that
        wait for the desktop read. None where it has not yet. Where the clipboard is Unicode, the
        desktop says first that there is something, and the text comes some time after that."""
        return self._messages.clipboard

    # What the desktop shows.

    async def picture(self, *, cursor: bool = False) -> Array:
        """What the desktop shows once it has this request: (height, width, 4) uint8, RGBA, with the
        cursor's shape drawn at `pointer`, if it is wanted.

        TigerVNC's server paints the cursor too, wanted or not, where somebody else has moved it.
        """
        picture = await self._connection.picture()
        shape = self._connection.canvas.cursor
        if cursor and shape is not None and self.pointer is not None:
            draw(shape, *self.pointer, picture)
        return picture

    async def screenshot(self, *, cursor: bool = False) -> bytes:
        """`picture` as a PNG file."""
        # In a thread: it takes 20 ms, longer than other tasks of the process should wait.
        return await trio.to_thread.run_sync(png, await self.picture(cursor=cursor))

    async def settled(self, *, quiet_s: float, limit_s: float) -> bool:
        """Waits until the desktop has painted nothing for `quiet_s` seconds; false where
        that did not come about within `limit_s`."""
        return await self._connection.settled(quiet_s=quiet_s, limit_s=limit_s)

    async def read_size(self) -> tuple[int, int]:
        """Width and height as they are now. Without it they are those of the last picture, or of
        the last action that waited for the screen: a desktop tells a new size only if asked."""
        await self._connection.read_size()
        return self.width, self.height

    async def sync(self) -> None:
        """Waits until the desktop has taken all that was sent to it. Reads what it has said."""
        await self._connection.sync()

    # What is done to it.

    async def move(self, x: int, y: int) -> None:
        """Moves the pointer. Raises ValueError outside the desktop, as large as it was last seen
        (`read_size`)."""
        await self._input.move(x, y)

    async def button_down(self, button: int = 1) -> None:
        """Presses a button where the pointer is. Raises ValueError for one that there is not."""
        await self._input.button_down(button)

    async def button_up(self, button: int = 1) -> None:
        """Releases a button where the pointer is."""
        await self._input.button_up(button)

    async def click(
        self, x: int | None = None, y: int | None = None, *, button: int = 1, count: int = 1
    ) -> None:
        """Clicks, `count` times: at x, y, or where the pointer is. Returns when the desktop has
        taken it. Raises ValueError outside the desktop, and for one coordinate without the
        other."""
        if (x is None) != (y is None):
            raise ValueError("x and y go together")
        if x is not None and y is not None:
            await self.read_size()
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
            await self._input.let_go(button)
        await self.sync()

    async def drag(self, x: int, y: int, *, button: int = 1) -> None:
        """From where the pointer is to x, y, with a button held down. Raises ValueError outside
        the desktop, before anything is pressed."""
        await self.read_size()
        self._input.on_desktop(x, y)
        try:
            await self.button_down(button)
            await self.move(x, y)
            await self.button_up(button)
        finally:
            await self._input.let_go(button)
        await self.sync()

    async def scroll(self, right: int = 0, down: int = 0) -> None:
        """Turns the wheel where the pointer is, by so many clicks; negative ones the other way."""
        for clicks, forward, back in ((right, 7, 6), (down, 5, 4)):
            if clicks:
                await self.click(button=forward if clicks > 0 else back, count=abs(clicks))

    async def key_down(self, keysym: int) -> None:
        """Presses a key, by its X keysym. Raises ValueError for a number that is none."""
        await self._input.key_down(keysym)

    async def key_up(self, keysym: int) -> None:
        """Releases a key. Raises ValueError as `key_down`."""
        await self._input.key_up(keysym)

    async def press(self, keys: str, *, count: int = 1) -> None:
        """Presses and releases a key or combination such as "Return" or "ctrl+shift+t". Raises
        ValueError for a name that is none."""
        await self._input.press(keys, count=count)

    async def type(self, text: str) -> bool:
        """Types text, of any script. Returns when the desktop has taken it; false where it stopped,
        because no program asked for what was pasted. Raises ValueError for a character that cannot
        be typed, before the first.

        What no keyboard of a Latin script has is pasted, with Shift and Insert, and what is between
        it in a line, where the desktop has a clipboard of Unicode and asks for what is on it when a
        program does; what was on it is lost. As keys, where it has not: x11vnc has as many as it
        needs, but TigerVNC's server adds some 20 of them to its keyboard and does nothing for more,
        and programs may not notice the first in time. So it is with Latin letters where the
        keyboard has none (a Russian one alone): `paste` those.
        """
        return await self._text.type(text)

    async def paste(self, text: str) -> bool:
        """Pastes text with Shift and Insert, whatever the keyboard has. What was on the clipboard
        is lost. False where it stopped, because no program asked for the text within 2 s; not every
        desktop can tell. Where it has only the plain form, what is not Latin-1 becomes question
        marks. Raises ValueError for half of a surrogate pair."""
        return await self._text.paste(text)

    async def set_clipboard(self, text: str) -> None:
        """Puts text on the desktop's clipboard. Where the desktop has only the plain form, what is
        not Latin-1 becomes question marks. Raises ValueError for text of more than
        `Limits.clipboard_bytes`, and for half of a surrogate pair."""
        await self._text.set_clipboard(text)

    async def release_all(self) -> None:
        """Every key and button that is held down goes up."""
        await self._input.release_all()

    # The connection.

    async def aclose(self) -> None:
        """Releases what is held down, and closes. Never raises."""
        try:
            with letting_go():
                await self.release_all()
        finally:
            await self._connection.close()
