"""Hypothesis strategies for RFB: legal streams of either direction, and mutations of them.

A stream is written from the specification's tables. It knows where its length and count fields
are and where its elements begin and end, so that mutations hit them.
"""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeVar

from hypothesis import strategies as st

from tests.model import JPEG_QUALITIES, LEVELS, OUR_FENCE, Format, FromViewer, Known
from tests.model_desktop import FromDesktop
from tests.model_rectangles import CHAINS, LAST_RECT, PIXELS, PSEUDO, ULTRA_ZIP, VMWARE

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
EXTREMES = [0, 1, 2, 3, 4, 5, 7, 16, 64, 65, 0x7F, 0x80, 0xFF, 0x100, 4096, 4097, 0xFFFF, 0x10000]
EXTREMES += [262_145, 0x100001, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFC, 0xFFFFFFFF]


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


class DesktopWriter(Writer):
    reader = FromDesktop

    def message(self) -> None:
        choices = [self.update] * 6 + [self.colour_map, self.bell, self.text]
        offered = self.known.offered
        if -313 in offered and self.known.enables:
            self.known = replace(self.known, enables=self.known.enables - 1)
            choices.append(lambda: self.s.put("B", 150))
        if -312 in offered:
            choices.append(self.fence)
        if -309 in offered:
            choices.append(lambda: self.s.put("BBBB", 250, 0, self.pick([1, 2]), self.upto(1)))
        if -305 in offered:
            choices.append(lambda: self.gii([(1, 4), (2, 4)]))
        if self.known.audio_enabled:
            choices.append(self.audio)
        self.span(self.pick(choices))

    def colour_map(self) -> None:
        count = self.pick([0, 1, 3, 256])
        self.s.put("BBHH", 1, self.upto(255), 0 if count > 3 else self.upto(250), count)
        self.fill(6 * count)

    def bell(self) -> None:
        self.s.put("B", 2)

    def text(self) -> None:
        self.cut_text(3, extended=min(SIGNALS) in self.known.offered)

    def audio(self) -> None:
        operation = self.upto(2)
        self.s.put("BBH", 255, 1, operation)
        if operation == 2:
            self.s.put("I", self.pick([0, 4, 50]))
            self.fill(int.from_bytes(self.s.data[-4:], "big"))

    def update(self) -> None:
        numbers = sorted(n for n in self.known.offered if n in BODIES) + [0]
        count = self.upto(4)
        last = LAST_RECT in self.known.offered and self.upto(2) == 0
        self.s.put("BBH", 0, self.upto(255), self.pick([65535, count + 1]) if last else count)
        for _ in range(count):
            self.span(lambda: self.rectangle(self.pick(numbers)))
        if last:
            self.span(lambda: self.header(self.upto(9), 0, 0, 0, LAST_RECT))

    def header(self, x: int, y: int, w: int, h: int, number: int) -> None:
        self.s.put("HHHH", x, y, w, h)
        self.raw(struct.pack(">i", number))

    def rectangle(self, number: int) -> None:
        if number in PIXELS or number in CHAINS:
            w, h = min(self.pick(SIDES), self.width), min(self.pick(SIDES), self.height)
            if self.width > 2048 and self.upto(9) == 0:
                w, h = self.pick([2047, 2048, 2049]), 1
            self.header(self.upto(self.width - w), self.upto(self.height - h), w, h, number)
            BODIES[number](self, w, h)
        else:
            PSEUDO_BODIES[number](self, number)

    # Bodies.

    def pixels(self, count: int) -> None:
        self.fill(count * self.format.pixel)

    def plain(self, w: int, h: int) -> None:
        self.pixels(w * h)

    def copy(self, w: int, h: int) -> None:
        self.s.put("HH", self.upto(self.width - w), self.upto(self.height - h))

    def subrectangles(self, w: int, h: int, code: str) -> None:
        count = min(self.pick([0, 1, 2, 5]), w * h)
        self.s.put("I", count)
        self.pixels(1)
        most = 255 if code == "B" else 65535
        for _ in range(count):
            self.pixels(1)
            x, y = self.upto(min(w, most)), self.upto(min(h, most))
            self.s.put(code * 4, x, y, self.upto(min(w - x, most)), self.upto(min(h - y, most)))

    def rre(self, w: int, h: int) -> None:
        self.subrectangles(w, h, "H")

    def corre(self, w: int, h: int) -> None:
        self.subrectangles(w, h, "B")

    def hextile(self, w: int, h: int, *, deflated: bool = False) -> None:
        for top in range(0, h, 16):
            for left in range(0, w, 16):
                mask = self.pick([0, 2, 1, 31, 8, 24, 14, *([32, 64, 0x7E] * deflated)])
                self.s.put("B", mask)
                if mask & 0x60:
                    self.counted("H", self.pick([0, 1, 30]))
                else:
                    self.tile(mask, min(16, w - left), min(16, h - top))

    def tile(self, mask: int, w: int, h: int) -> None:
        if mask & 1:
            self.pixels(w * h)
            return
        self.pixels((mask >> 1 & 1) + (mask >> 2 & 1))
        if mask & 8:
            count = self.pick([0, 1, 3])
            self.s.put("B", count)
            for _ in range(count):
                self.pixels(mask >> 4)
                x, y = self.upto(w - 1), self.upto(h - 1)
                self.s.put("BB", x << 4 | y, self.upto(w - 1 - x) << 4 | self.upto(h - 1 - y))

    def zlibhex(self, w: int, h: int) -> None:
        self.hextile(w, h, deflated=True)

    def counted(self, code: str, count: int) -> None:
        self.s.put(code, count)
        self.fill(count)

    def deflated(self, w: int, h: int) -> None:
        self.counted("I", self.pick([0, 8, 100]))

    def h264(self, w: int, h: int) -> None:
        count = self.pick([0, 8, 100])
        self.s.put("II", count, self.upto(3))
        self.fill(count)

    def compact(self, count: int) -> None:
        self.s.fields.append((len(self.s.data), 1))
        self.s.fields.append((len(self.s.data) + 1, 1))
        if count < 0x80 and self.upto(3):
            self.raw(bytes([count]))
        elif count < 0x4000 and self.upto(3):
            self.raw(bytes([count & 0x7F | 0x80, count >> 7]))
        else:
            self.raw(bytes([count & 0x7F | 0x80, count >> 7 & 0x7F | 0x80, count >> 14]))

    def image(self, magic: bytes) -> None:
        count = self.pick([4, 5, 126, 300])
        self.compact(count)
        self.raw(magic)
        self.fill(count - 2)

    def tight(self, w: int, h: int, *, png: bool = False, alpha: bool = False) -> None:
        tpixel = 4 if alpha else self.format.tpixel
        wide = alpha or self.format.bits != 8
        jpeg = wide and not alpha and self.known.offered.intersection(JPEG_QUALITIES)
        kind = self.pick(
            ["fill"] + ["jpeg"] * bool(jpeg) + (["png"] if png else ["copy", "filter", "filter"])
        )
        codes = {"fill": 8, "jpeg": 9, "png": 10, "copy": self.upto(3), "filter": 4 + self.upto(3)}
        self.s.put("B", codes[kind] << 4 | self.pick([0, 15]))
        if kind == "fill":
            self.fill(tpixel)
        elif kind in ("jpeg", "png"):
            self.image(b"\xff\xd8" if kind == "jpeg" else b"\x89P")
        else:
            size = w * h * tpixel
            if kind == "filter":
                number = self.pick([0, 1, 2] if wide else [0, 1])
                self.s.put("B", number)
                if number == 1:
                    colours = self.pick([1, 2, 3, 256])
                    self.s.put("B", colours - 1)
                    self.fill(colours * tpixel)
                    size = (w + 7) // 8 * h if colours <= 2 else w * h
            if size >= 12:
                size = self.pick([0, 20, 127, 128, 200])
                self.compact(size)
            self.fill(size)

    def tight_png(self, w: int, h: int) -> None:
        self.tight(w, h, png=True)

    def trle(self, w: int, h: int) -> None:
        palette = 0
        cpixel = self.format.cpixel
        for top in range(0, h, 16):
            for left in range(0, w, 16):
                tile_w, tile_h = min(16, w - left), min(16, h - top)
                kinds = [0, 1, 2, 3, 5, 16, 128, 130, 255]
                kinds += [127] * (2 <= palette <= 16) + [129] * (palette >= 2)
                kind = self.pick(kinds)
                self.s.put("B", kind)
                if kind not in (127, 129):
                    self.fill((kind & 127) * cpixel)
                    palette = kind & 127 if kind & 127 > 1 else palette
                if kind == 0:
                    self.fill(tile_w * tile_h * cpixel)
                elif 2 <= kind <= 127:
                    bits = 1 if palette == 2 else 2 if palette <= 4 else 4
                    self.fill((tile_w * bits + 7) // 8 * tile_h)
                elif kind >= 128:
                    self.runs(tile_w * tile_h, None if kind == 128 else palette)

    def runs(self, left: int, palette: int | None) -> None:
        singles = 3
        while left:
            if palette is None:
                self.fill(self.format.cpixel)
            else:
                index = self.upto(palette - 1)
                if singles and self.upto(1):
                    singles -= 1
                    left -= 1
                    self.s.put("B", index)
                    continue
                self.s.put("B", index | 128)
            length = min(left, self.pick([1, 2, 255, 256]))
            left -= length
            self.raw(b"\xff" * ((length - 1) // 255))
            self.s.put("B", (length - 1) % 255)

    def jpeg(self, w: int, h: int) -> None:
        self.s.put("BB", 0xFF, 0xD8)
        for _ in range(self.upto(3)):
            marker = self.pick([0xE0, 0xC0, 0xC4, 0x01, 0xD3, 0xDB])
            self.s.put("BB", 0xFF, marker)
            if marker == 0xC0:
                self.s.put("HBHH", 11, 8, self.upto(h), self.upto(w))
                self.fill(4)
            elif marker not in (0x01, 0xD3):
                count = self.pick([0, 1, 20])
                self.s.put("H", count + 2)
                self.fill(count)
        if self.upto(3):
            self.s.put("BBH", 0xFF, 0xDA, 8)
            self.fill(6)
            for _ in range(self.upto(4)):
                self.raw(self.pick([b"\x12\x34", b"\xff\x00", b"\xff\xd7", b"\n" * 30]))
        self.s.put("BB", 0xFF, 0xD9)

    # Pseudo-encodings, header and all.

    def small(self, number: int) -> tuple[int, int]:
        w, h = self.pick([0, 1, 8, 9, 24]), self.pick([0, 1, 8, 24])
        self.header(self.upto(9), self.upto(9), w, h, number)
        return w, h

    def cursor(self, number: int) -> None:
        w, h = self.small(number)
        self.pixels(w * h)
        self.fill((w + 7) // 8 * h)

    def x_cursor(self, number: int) -> None:
        w, h = self.small(number)
        self.fill(6 + 2 * ((w + 7) // 8) * h if w and h else 0)

    def vmware_cursor(self, number: int) -> None:
        w, h = self.small(number)
        kind = self.upto(1)
        self.s.put("BB", kind, self.upto(255))
        self.fill(w * h * 4 if kind else 2 * w * h * self.format.pixel)

    def alpha_cursor(self, number: int) -> None:
        w, h = self.small(number)
        inner = self.pick([0, *(n for n in (7, 16) if n in self.known.offered)])
        self.s.put("i", inner)
        if inner == 0:
            self.fill(w * h * 4)
        elif inner == 7:
            self.tight(w, h, alpha=True)
        else:
            self.deflated(w, h)

    def resize(self, number: int) -> None:
        self.width, self.height = self.pick(SIZES)
        self.header(self.upto(9), self.upto(9), self.width, self.height, number)

    def extended_size(self, number: int) -> None:
        reason, status = self.upto(2), self.upto(2)
        width, height = self.pick(SIZES)
        if reason == 1 and status:
            width, height = self.pick([(0, 0), (65535, 65535), (width, height)])
        else:
            self.width, self.height = width, height
        self.header(reason, status, width, height, number)
        count = self.pick([0, 1, 2, 16])
        self.s.put("B", count)
        self.fill(3)
        self.fill(16 * count)

    def display_mode(self, number: int) -> None:
        self.width, self.height = self.pick(SIZES)
        self.header(0, 0, self.width, self.height, number)
        self.format = self.pixel_format()

    def name(self, number: int) -> None:
        self.header(self.pick([0, 0, 1]), 0, 0, 0, number)
        self.counted("I", self.pick([0, 3, 40]))

    def notice(self, number: int) -> None:
        self.header(self.upto(1), self.upto(9), self.upto(9), 0, number)
        self.fill({-261: 1, VMWARE + 1: 2, VMWARE + 3: 10, VMWARE + 4: 4}.get(number, 0))
        self.fill(2 * (number == VMWARE + 6))

    def by_width(self, number: int) -> None:
        w = 64 if number == -0x1FFFF else self.pick([0, 4, 40])
        self.header(0, 0, w, self.upto(9), number)
        self.fill(w)

    def ultra_zip(self, number: int) -> None:
        self.header(self.upto(65535), self.upto(65535), self.upto(9), 0, number)
        self.deflated(0, 0)


BODIES: dict[int, Callable[..., None]] = {
    0: DesktopWriter.plain,
    1: DesktopWriter.copy,
    2: DesktopWriter.rre,
    4: DesktopWriter.corre,
    5: DesktopWriter.hextile,
    6: DesktopWriter.deflated,
    7: DesktopWriter.tight,
    8: DesktopWriter.zlibhex,
    9: DesktopWriter.deflated,
    10: DesktopWriter.deflated,
    15: DesktopWriter.trle,
    16: DesktopWriter.deflated,
    17: DesktopWriter.deflated,
    21: DesktopWriter.jpeg,
    50: DesktopWriter.h264,
    -260: DesktopWriter.tight_png,
}
PSEUDO_BODIES: dict[int, Callable[..., None]] = {
    **dict.fromkeys(sorted(PSEUDO.keys() - {LAST_RECT}), DesktopWriter.notice),
    ULTRA_ZIP: DesktopWriter.ultra_zip,
    -223: DesktopWriter.resize,
    -239: DesktopWriter.cursor,
    -240: DesktopWriter.x_cursor,
    -307: DesktopWriter.name,
    -308: DesktopWriter.extended_size,
    -314: DesktopWriter.alpha_cursor,
    VMWARE: DesktopWriter.vmware_cursor,
    VMWARE + 5: DesktopWriter.display_mode,
    -0x1FFFF: DesktopWriter.by_width,
    -0x1FFFE: DesktopWriter.by_width,
    -0x1FFFD: DesktopWriter.by_width,
}
BODIES |= PSEUDO_BODIES


@st.composite
def from_viewer(draw: st.DrawFn) -> Stream:
    """What a viewer may send once the desktop has confirmed some extensions."""
    confirmed = draw(st.one_of(st.just(EXTENSIONS), st.lists(st.sampled_from(EXTENSIONS))))
    known = Known(
        offered=EVERYTHING - set(LEVELS), confirmed=set(confirmed), answers=draw(st.integers(0, 2))
    )
    writer = ViewerWriter(draw, known)
    for _ in range(draw(st.integers(1, 6))):
        writer.message()
    return writer.s


@st.composite
def from_desktop(draw: st.DrawFn) -> Stream:
    """What a desktop may send after SetEncodings."""
    some = st.frozensets(st.sampled_from(sorted(EVERYTHING)))
    few = st.tuples(st.sampled_from(sorted(BODIES)), st.sampled_from([LAST_RECT, -26]))
    offered = draw(st.one_of(st.just(EVERYTHING), some, few.map(frozenset)))
    width, height = draw(st.sampled_from(SIZES))
    known = Known(
        width,
        height,
        draw(st.sampled_from(FORMATS)),
        offered,
        audio_enabled=draw(st.booleans()),
        requests=draw(st.integers(0, 2)),
        continuous=draw(st.booleans()),
        enables=draw(st.integers(0, 2)),
        answers=draw(st.integers(0, 2)),
        unrequested=draw(st.sampled_from([64, 1])),
        slack=draw(st.sampled_from([1 << 20, 1 << 20, 100])),
    )
    writer = DesktopWriter(draw, known)
    for _ in range(draw(st.integers(1, 4))):
        writer.message()
    return writer.s


@st.composite
def mutated(draw: st.DrawFn, streams: st.SearchStrategy[Stream]) -> Stream:
    """A legal stream with one to three changes."""
    stream = draw(streams)
    data = bytearray(stream.data)
    for _ in range(draw(st.integers(1, 3))):
        change = draw(st.sampled_from(CHANGES))
        data = change(draw, stream, data)
    return replace(stream, data=data)


@st.composite
def inside(draw: st.DrawFn, numbers: list[int]) -> Stream:
    """Rectangles in one encoding, with changes behind their headers only."""
    number = draw(st.sampled_from(numbers))
    known = Known(
        *draw(st.sampled_from(SIZES[1:])), draw(st.sampled_from(FORMATS)), EVERYTHING, requests=1
    )
    writer = DesktopWriter(draw, known)
    count = draw(st.integers(1, 2))
    writer.s.put("BBH", 0, 0, count)
    for _ in range(count):
        writer.span(lambda: writer.rectangle(number))
    stream = writer.s
    heads = [range(4), *(range(first, first + 12) for first, _ in stream.spans)]
    stream.fields = [f for f in stream.fields if not any(f[0] in head for head in heads)]
    data = bytearray(stream.data)
    for _ in range(draw(st.integers(1, 2)) if stream.fields else 0):
        data = draw(st.sampled_from([_extreme, _boundary, _nudge]))(draw, stream, data)
    return replace(stream, data=data)


def _nudge(draw: st.DrawFn, stream: Stream, data: bytearray) -> bytearray:
    at, _ = stream.fields[draw(st.integers(0, len(stream.fields) - 1))]
    if at < len(data):  # a field may be empty, at the end
        data[at] ^= draw(st.integers(1, 255))
    return data


def _flip(draw: st.DrawFn, stream: Stream, data: bytearray) -> bytearray:
    if data:
        data[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
    return data


def _extreme(draw: st.DrawFn, stream: Stream, data: bytearray) -> bytearray:
    at, size = stream.fields[draw(st.integers(0, len(stream.fields) - 1))]
    if at + size > len(data):
        return data
    value = int.from_bytes(data[at : at + size], "big")
    near = [value + 1, value - 1, 2 * value, value ^ (1 << 8 * size - 1)]
    value = draw(st.sampled_from(EXTREMES + near)) & (1 << 8 * size) - 1
    data[at : at + size] = value.to_bytes(size, "big")
    return data


def _boundary(draw: st.DrawFn, stream: Stream, data: bytearray) -> bytearray:
    """The last value of a field that the model accepts, or the first that it does not."""
    at, size = stream.fields[draw(st.integers(0, len(stream.fields) - 1))]

    def refused(value: int) -> bool:
        data[at : at + size] = value.to_bytes(size, "big")
        return stream.reader(bytes(data), copy.deepcopy(stream.known)).read().verdict == "refused"

    if at + size <= len(data):
        good = int.from_bytes(data[at : at + size], "big")
        bad = draw(st.sampled_from([(1 << 8 * size) - 1, 1 << 8 * size - 1, 1 << 4 * size]))
        if not refused(good) and refused(bad):
            while abs(bad - good) > 1:
                middle = (bad + good) // 2
                good, bad = (good, middle) if refused(middle) else (middle, bad)
        data[at : at + size] = draw(st.sampled_from([good, bad])).to_bytes(size, "big")
    return data


def _span(draw: st.DrawFn, stream: Stream, data: bytearray) -> bytearray:
    """An element twice, or not at all, or two in the wrong order."""
    first, behind = draw(st.sampled_from(stream.spans))
    kind = draw(st.integers(0, 2))
    if kind == 0:
        return data[:behind] + data[first:behind] + data[behind:]
    if kind == 1:
        return data[:first] + data[behind:]
    other = draw(st.sampled_from(stream.spans))
    (a, b), (c, d) = sorted([(first, behind), other])
    return data if c < b else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _cut(draw: st.DrawFn, stream: Stream, data: bytearray) -> bytearray:
    return data[: draw(st.integers(0, len(data)))]


def _splice(draw: st.DrawFn, stream: Stream, data: bytearray) -> bytearray:
    """Bytes put in or taken out anywhere."""
    at = draw(st.integers(0, len(data)))
    put = draw(st.one_of(st.binary(max_size=4), st.just(b"\xff" * 4), st.just(OUR_FENCE)))
    return data[:at] + put + data[at + draw(st.integers(0, 4)) :]


CHANGES = [_flip, _extreme, _extreme, _extreme, _boundary, _boundary, _span, _cut, _splice]
