"""Legal streams of RFB: the desktop's messages and rectangles."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

from tests.labs.rfb_model.desktop import FromDesktop
from tests.labs.rfb_model.reader import JPEG_QUALITIES, Format
from tests.labs.rfb_model.rectangles import CHAINS, LAST_RECT, PIXELS, PSEUDO, ULTRA_ZIP, VMWARE
from tests.labs.rfb_streams.viewer import (
    SIDES,
    SIGNALS,
    SIZES,
    Writer,
)


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

    def zrle(self, w: int, h: int) -> None:
        count = self.pick([0, 8, 100])
        self.s.put("I", count)
        if count:
            self.raw(b"\x78")
            self.fill(count - 1)

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
        jpeg = not alpha and self.known.offered.intersection(JPEG_QUALITIES)
        basic = [] if png and wide else ["copy", "filter", "filter"]
        kind = self.pick(["fill"] + ["jpeg"] * bool(jpeg) + ["png"] * png + basic)
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
        inner = self.pick([0, *(n for n in (5, 7, 16) if n in self.known.offered)])
        self.s.put("i", inner)
        if inner == 0:
            self.fill(w * h * 4)
        elif inner == 5:
            self.format, outside = Format(32, 32), self.format
            self.hextile(w, h)
            self.format = outside
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
    16: DesktopWriter.zrle,
    17: DesktopWriter.zrle,
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
