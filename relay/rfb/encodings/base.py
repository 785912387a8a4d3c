"""The three shapes an encoding's payload can have, as far as framing goes.

An encoding says how many bytes its payload has without decoding a pixel. It is stateless and
shared by all sessions; what it needs to know comes with the call.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator

from relay.rfb.state import State

NEED = -1
"""Returned by `measure` when the head of the payload has not arrived whole."""

Window = tuple[bytearray, int, int]
"""A buffer, the position to read on from, and where its bytes end."""

u32 = struct.Struct(">I").unpack_from


Measure = Callable[[bytearray, int, int, int, int, State], int]
"""`Encoding.measure` of an encoding."""


class Encoding:
    """A rectangle's payload: its number, its name, and its size.

    `pixels` says that x, y, w and h are an area of the framebuffer and must lie inside it;
    pseudo-encodings use those fields for anything. `walks` is true for a `Walker`.
    `in_pixel_format` says of a pseudo-encoding that its payload is in the viewer's format.
    `element_limit_bytes` is the most that waits for more, behind the rectangle's header: a
    head, or an element of a walk, less than whole.
    """

    number: int
    name: str
    pixels = True
    walks = False
    in_pixel_format = False
    element_limit_bytes = 0

    def measure(self, buf: bytearray, pos: int, stop: int, w: int, h: int, state: State) -> int:
        """Size in bytes of the payload that begins at `buf[pos]`, or NEED when `stop` comes
        before its head does end. Raises Violation. What is behind the head is opaque."""
        raise NotImplementedError

    def behind(
        self, buf: bytearray, pos: int, w: int, h: int
    ) -> Generator[int, Window, int] | None:
        """A walk over what follows the head at `buf[pos]` besides what `measure` counts, where
        there is such a thing."""
        return None

    def applied(
        self, buf: bytearray, pos: int, x: int, y: int, w: int, h: int, state: State
    ) -> bool:
        """Called once the head at `buf[pos]` of a rectangle without pixels has passed its checks.
        Returns whether the rectangle is not for the viewer. Raises Violation."""
        return False


class Fixed(Encoding):
    """The size follows from the rectangle's header alone."""

    def size(self, w: int, h: int, state: State) -> int:
        raise NotImplementedError

    def measure(self, buf: bytearray, pos: int, stop: int, w: int, h: int, state: State) -> int:
        return self.size(w, h, state)


class Prefixed(Encoding):
    """A head of at most `element_limit_bytes` says how long the rest is."""


class Walker(Encoding):
    """The payload is a chain of small elements, each of which says where the next begins."""

    walks = True

    def walk(self, w: int, h: int, state: State) -> Generator[int, Window, int]:
        """Approves element by element. Primed with next(); then takes windows by send() and
        yields the position up to which one is approved whenever it needs more bytes than it
        has. A position behind the window's end means that the bytes between are opaque. What
        it did not approve must be presented again. Returns the final position, of the same
        meaning. Raises Violation.
        """
        raise NotImplementedError
