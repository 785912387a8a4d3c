"""Legal streams of RFB: what a stream knows of itself, what both directions write alike, and the
viewer's messages (strategies: tests/labs/rfb_streams/strategies.py).

A stream is written from the specification's tables. It knows where its length and count fields
are and where its elements begin and end, so that mutations hit them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeVar

from hypothesis import strategies as st

from tests.labs.rfb_model.desktop import FromDesktop
from tests.labs.rfb_model.reader import LEVELS, Format, FromViewer, Known
from tests.labs.rfb_model.rectangles import CHAINS, LAST_RECT, PIXELS, PSEUDO

T = TypeVar("T")

FORMATS = [
    Format(),
    Format(32, 32),
    Format(32, 24, True, (255, 255, 255), (24, 16, 8)),
    Format(32, 24, True, (255, 255, 255), (0, 16, 24)),
    Format(32, 30, True, (1023, 1023, 1023), (20, 10, 0)),
    Format(32, 16, True, (31, 63, 31), (11, 5, 0)),
    Format(32, 24, False),
    Format(16, 16, True, (31, 63, 31), (11, 5, 0)),
    Format(16, 15, True, (31, 31, 31), (10, 5, 0)),
    Format(8, 8, True, (7, 7, 3), (0, 3, 6)),
    Format(8, 8, False),
]
SIZES = [(1, 1), (16, 16), (17, 33), (64, 48), (130, 70), (640, 480), (2100, 20)]
SIGNALS = frozenset({LAST_RECT, -305, -309, -312, -313, 0xC0A1E5CE - (1 << 32)})
EVERYTHING = frozenset({*CHAINS, *PIXELS, *PSEUDO, *SIGNALS, -26})
EXTENSIONS = [
    "audio",
    "continuous_updates",
    "extended_buttons",
    "extended_clipboard",
    "extended_desktop_size",
    "extended_keys",
    "fences",
    "gii",
    "xvp",
]
SIDES = [0, 1, 2, 7, 9, 15, 16, 17, 33]


@dataclass
class Stream:
    """Bytes of one direction, and what both sides knew before them."""

    known: Known
    reader: type[FromViewer] | type[FromDesktop]
    data: bytearray = field(default_factory=bytearray)
    fields: list[tuple[int, int]] = field(default_factory=list)
    """Positions and sizes of lengths, counts and the like."""
    spans: list[tuple[int, int]] = field(default_factory=list)
    """Messages and rectangles."""

    def put(self, layout: str, *values: int) -> None:
        """Fields, each of which a mutation may change."""
        for code, value in zip(layout, values, strict=True):
            self.fields.append((len(self.data), struct.calcsize(code)))
            self.data += struct.pack(">" + code, value)


class Writer:
    """Appends legal elements to a stream; follows size and pixel format as a desktop would."""

    reader: ClassVar[type[FromViewer] | type[FromDesktop]]

    def __init__(self, draw: st.DrawFn, known: Known) -> None:
        self.draw = draw
        self.s = Stream(replace(known, confirmed=set(known.confirmed)), self.reader)
        self.width, self.height = known.width, known.height
        self.format = known.pixel_format
        self.known = known

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.draw(st.integers(0, len(choices) - 1))]

    def upto(self, most: int) -> int:
        return self.draw(st.integers(0, most))

    def fill(self, count: int) -> None:
        """Bytes that mean nothing: few are drawn, many repeat one."""
        if count <= 3:
            self.s.data += self.draw(st.binary(min_size=count, max_size=count))
        else:
            self.s.data += bytes([self.upto(255)]) * count

    def raw(self, data: bytes) -> None:
        self.s.data += data

    def span(self, write: Callable[[], None]) -> None:
        start = len(self.s.data)
        write()
        self.s.spans.append((start, len(self.s.data)))

    def pixel_format(self) -> Format:
        made = self.pick(FORMATS)
        flag = self.pick([1, 1, 255]) if made.true_colour else 0
        self.s.put("BBBB", made.bits, made.depth, self.upto(1), flag)
        self.s.put("HHHBBB", *made.maxima, *made.shifts)
        self.fill(3)
        return made

    # Either direction.

    def cut_text(self, kind: int, *, extended: bool) -> None:
        self.s.put("B", kind)
        self.fill(3)
        if not (extended and self.upto(2)):
            count = self.pick([0, 1, 5, 40, 300])
            self.s.put("I", count)
            self.fill(count)
            return
        formats = self.upto(31)
        action = self.upto(4)
        if action == 0:
            count = formats.bit_count() + self.pick([0, 0, 1])
            self.s.put("iI", -4 - 4 * count, (self.upto(31) << 24 | 1 << 24) | formats)
            self.fill(4 * count)
        elif action == 4:
            count = self.pick([0, 1, 30])
            self.s.put("iI", -4 - count, 1 << 28 | formats)
            self.fill(count)
        else:
            self.s.put("iI", -4, 1 << 24 + action | formats)

    def fence(self) -> None:
        self.s.put("B", 248)
        self.fill(3)
        payload = self.pick([b"", b"x", b"\0deskrelax", b"p" * 64])
        self.s.put("IB", self.pick([1 << 31, 1 << 31 | 7, 0, 5]), len(payload))
        self.raw(payload)

    def gii(self, kinds: Sequence[tuple[int, int]]) -> None:
        kind, length = self.pick(kinds)
        self.s.put("BB", 253, kind | self.pick([0, 128]))
        self.raw(struct.pack(">H" if self.s.data[-1] & 128 else "<H", length))
        self.s.fields.append((len(self.s.data) - 2, 2))
        self.fill(length)


class ViewerWriter(Writer):
    reader = FromViewer

    def message(self) -> None:
        plain = [
            self.set_pixel_format,
            self.set_encodings,
            self.area_message,
            self.key,
            self.pointer,
            self.text,
        ]
        extensions: dict[str, Callable[[], None]] = {
            "audio": self.audio,
            "continuous_updates": self.enable,
            "extended_desktop_size": self.set_desktop_size,
            "extended_keys": self.extended_key,
            "fences": self.fence,
            "gii": lambda: self.gii([(1, 2), (2, 56), (2, 172), (3, 4), (0, 0), (0, 24)]),
            "xvp": self.xvp,
        }
        confirmed = [w for name, w in extensions.items() if name in self.known.confirmed]
        self.span(self.pick(plain + confirmed))

    def set_pixel_format(self) -> None:
        self.s.put("B", 0)
        self.fill(3)
        self.pixel_format()

    def set_encodings(self) -> None:
        choices = [*sorted(EVERYTHING), *LEVELS[:3], 18, -1, -317, 0x7FFFFFFF]
        numbers = [self.pick(choices) for _ in range(self.upto(6))]
        self.s.put("BBH", 2, self.upto(255), len(numbers))
        for number in numbers:
            self.s.put("i", number)

    def area(self) -> None:
        for _ in range(4):
            self.s.put("H", self.pick([0, 1, 16, 640, 641, 65535]))

    def area_message(self) -> None:
        self.s.put("BB", 3, self.pick([0, 1, 255]))
        self.area()

    def enable(self) -> None:
        self.s.put("BB", 150, self.pick([0, 1, 255]))
        self.area()

    def key(self) -> None:
        self.s.put("BB", 4, self.pick([0, 1, 255]))
        self.fill(2)
        self.s.put("I", self.pick([0x61, 0xFFE1, 0]))

    def pointer(self) -> None:
        buttons = self.upto(255)
        self.s.put("BBHH", 5, buttons, self.pick([0, 5, 65535]), self.pick([0, 5, 65535]))
        if "extended_buttons" in self.known.confirmed and buttons & 0x80:
            self.s.put("B", self.upto(255))

    def text(self) -> None:
        self.cut_text(6, extended="extended_clipboard" in self.known.confirmed)

    def xvp(self) -> None:
        self.s.put("BBBB", 250, self.upto(255), 1, self.pick([2, 3, 4]))

    def set_desktop_size(self) -> None:
        width, height = self.pick(SIZES)
        count = self.pick([1, 2, 16])
        self.s.put("BBHHBB", 251, self.upto(255), width, height, count, self.upto(255))
        for number in range(count):
            x, y = self.upto(width), self.upto(height)
            self.s.put("IHHHH", number, x, y, self.upto(width - x), self.upto(height - y))
            self.fill(4)

    def extended_key(self) -> None:
        self.s.put("BBHII", 255, 0, self.upto(2), self.pick([0, 0x61]), self.upto(255))

    def audio(self) -> None:
        operation = self.upto(2)
        self.s.put("BBH", 255, 1, operation)
        if operation == 2:
            self.s.put("BBI", self.upto(5), self.pick([1, 2]), 44100)
