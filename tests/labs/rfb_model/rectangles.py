"""The model's rectangles: each encoding, read from its own words. See
`tests.labs.rfb_model.reader`.

libvncserver's own encodings are read from its rfbproto.h and client (L), JPEG's markers from
ITU-T T.81 (J), the head of a zlib stream from RFC 1950 (Z).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.labs.rfb_model.reader import (
    JPEG_QUALITIES,
    SCREENS,
    Format,
    Model,
    Refused,
    number,
    signed,
    size_is_legal,
)

NAME_BYTES = 4_096
CURSOR_SIDE_PX = 1_024

LAST_RECT = -224
ULTRA_ZIP = 0xFFFF0009 - (1 << 32)
VMWARE = 0x574D5664
LED_STATE, SUPPORTED_MESSAGES, SUPPORTED_ENCODINGS, IDENTITY = range(-0x20000, -0x1FFFC)

ALPHA = Format(32, 32)
"""P, Cursor With Alpha: four channels of eight bits, so no byte can be left out."""


@dataclass
class Rectangle:
    at: int
    x: int
    y: int
    w: int
    h: int
    encoding: int

    def need(self, held: bool, rule: str, at: int | None = None) -> None:
        if not held:
            raise Refused(self.at if at is None else at, rule)


class Rectangles(Model):
    """How each encoding is read, behind the rectangle's header."""

    zrle_begun = False
    """Whether the zlib stream of ZRLE has."""

    def raw_bytes(self, r: Rectangle) -> int:
        return r.w * r.h * self.known.pixel_format.pixel

    def chain_in_cursor(self, r: Rectangle) -> int:
        raise NotImplementedError

    # Encodings with a head; each returns how many bytes follow it.

    def raw(self, r: Rectangle) -> int:
        return self.raw_bytes(r)

    def copy(self, r: Rectangle) -> int:
        x, y = self.b.u16(), self.b.u16()
        inside = x + r.w <= self.known.width and y + r.h <= self.known.height
        r.need(inside, "copyrect-source")
        return 0

    def deflated(self, r: Rectangle, most: int, rule: str) -> int:
        """A length and so many bytes; what they may be at most is policy, here and below."""
        length = self.b.u32()
        r.need(length <= most, rule)
        return length

    def zlib(self, r: Rectangle) -> int:
        return self.deflated(r, 2 * self.raw_bytes(r) + 4096, "zlib-length")

    def ultra(self, r: Rectangle) -> int:
        return self.deflated(r, 2 * self.raw_bytes(r) + 4096, "ultra-length")

    def ultra2(self, r: Rectangle) -> int:
        return self.deflated(r, 8 * r.w * r.h + 65_536, "ultra-length")

    def zrle(self, r: Rectangle) -> int:
        pixels = r.w * r.h * self.known.pixel_format.cpixel
        tiles = len(self.tiles(r, 64))
        length = self.deflated(r, 2 * pixels + 64 * tiles + 4096, "zrle-length")
        # Z 2.2: deflate with a window of 32 KiB. In a cursor, whose stream it is depends.
        alpha = self.known.pixel_format is ALPHA
        if not alpha and length and not self.zrle_begun:
            r.need(self.b.peek(1)[0] == 0x78, "zrle-header")
        self.zrle_begun = self.zrle_begun or alpha or length > 0
        return length

    def h264(self, r: Rectangle) -> int:
        self.b.peek(8)
        length = self.deflated(r, 4 << 20, "h264-length")
        self.b.take(4)
        return length

    def tight(self, r: Rectangle, *, png: bool = False) -> int:
        tpixel = self.known.pixel_format.tpixel
        control = self.b.u8() >> 4
        if control == 8:
            return tpixel  # TigerVNC's server fills any width
        r.need(r.w <= 2048, "tight-width")
        if control == 9:
            jpeg = self.known.pixel_format is not ALPHA
            jpeg = jpeg and bool(self.known.offered.intersection(JPEG_QUALITIES))
            r.need(jpeg, "tight-jpeg")
            return self.image(r, b"\xff\xd8")
        if control == 10 and png:
            return self.image(r, b"\x89P")
        # In TightPNG at 8 bits only, where QEMU and libvncserver send it.
        basic = not png or self.known.pixel_format.bits == 8
        r.need(control < 8 and basic, "tight-control")
        return self.tight_basic(r, control)

    def tight_png(self, r: Rectangle) -> int:
        return self.tight(r, png=True)

    def compact(self) -> int:
        """P, Tight: a length of 7, 14 or 22 bits."""
        first = self.b.u8()
        if first < 0x80:
            return first
        second = self.b.u8()
        if second < 0x80:
            return first & 0x7F | second << 7
        return first & 0x7F | (second & 0x7F) << 7 | self.b.u8() << 14

    def image(self, r: Rectangle, magic: bytes) -> int:
        length = self.compact()
        r.need(4 <= length <= 8 * r.w * r.h + 65_536, "image-length")
        r.need(self.b.peek(2) == magic, "image-magic")
        return length

    def tight_basic(self, r: Rectangle, control: int) -> int:
        pixel_format = self.known.pixel_format
        size = r.w * r.h * pixel_format.tpixel
        if control & 4:
            kind = self.b.u8()
            r.need(kind <= 2, "tight-filter")
            r.need(kind != 2 or pixel_format.bits != 8, "tight-gradient")
            if kind == 1:
                # One colour passes (policy: TigerVNC's viewer takes it).
                colours = self.b.u8() + 1
                size = (r.w + 7) // 8 * r.h if colours <= 2 else r.w * r.h
                if size < 12:
                    return colours * pixel_format.tpixel + size
                self.b.take(colours * pixel_format.tpixel)
        if size < 12:
            return size
        length = self.compact()
        r.need(length <= size + size // 8 + 4096, "tight-length")
        return length

    # Encodings made of a chain of elements.

    def rre(self, r: Rectangle) -> None:
        self.subrectangles(r, 2)

    def corre(self, r: Rectangle) -> None:
        self.subrectangles(r, 1)

    def subrectangles(self, r: Rectangle, width: int) -> None:
        pixel = self.known.pixel_format.pixel
        at = self.b.at
        count = number(self.b.take(4 + pixel)[:4])
        r.need(count <= r.w * r.h, "rre-count", at)
        for _ in range(count):
            at = self.b.at
            element = self.b.take(pixel + 4 * width)[pixel:]
            x, y, w, h = (number(element[i * width : (i + 1) * width]) for i in range(4))
            r.need(x + w <= r.w and y + h <= r.h, "rre-subrectangle", at)

    def tiles(self, r: Rectangle, side: int) -> list[tuple[int, int]]:
        return [
            (min(side, r.w - x), min(side, r.h - y))
            for y in range(0, r.h, side)
            for x in range(0, r.w, side)
        ]

    def hextile(self, r: Rectangle) -> None:
        for w, h in self.tiles(r, 16):
            at = self.b.at
            mask = self.b.u8()
            r.need(mask <= 0x1F, "hextile-mask", at)
            self.hextile_tile(r, at, mask, w, h)

    def hextile_tile(self, r: Rectangle, at: int, mask: int, w: int, h: int) -> None:
        """R 7.7.4. That colours may not be carried over everywhere is not checked (policy:
        decoders carry them over)."""
        pixel = self.known.pixel_format.pixel
        if mask & 1:
            self.b.take(w * h * pixel)
            return
        self.b.take(pixel * ((mask >> 1 & 1) + (mask >> 2 & 1)))
        if mask & 8:
            colour = pixel if mask & 16 else 0
            count = self.b.u8()
            data = self.b.take(count * (colour + 2))
            for i in range(count):
                place, size = data[i * (colour + 2) + colour :][:2]
                inside = (place >> 4) + (size >> 4) < w and (place & 15) + (size & 15) < h
                r.need(inside, "hextile-subrectangle", at)

    def zlibhex(self, r: Rectangle) -> None:
        """P: the Raw bit cancels the others, and so does the ZlibRaw bit; both is refused."""
        largest = 1 + 2 * 4 + 1 + 255 * (4 + 2)
        for w, h in self.tiles(r, 16):
            at = self.b.at
            mask = self.b.u8()
            r.need(mask <= 0x7F and not (mask & 0x60 and mask & 1), "hextile-mask", at)
            if mask & 0x60:
                length = self.b.u16()
                r.need(length <= 2 * largest + 1024, "zlibhex-length", at)
                self.b.take(length)
            else:
                self.hextile_tile(r, at, mask, w, h)

    def trle(self, r: Rectangle) -> None:
        """R 7.7.5. 127 and 129 use the palette of the last tile that had one."""
        cpixel = self.known.pixel_format.cpixel
        palette = 0
        for w, h in self.tiles(r, 16):
            at = self.b.at
            kind = self.b.u8()
            r.need(not 17 <= kind <= 126, "trle-subencoding", at)
            if kind in (127, 129):
                r.need(2 <= palette <= (16 if kind == 127 else 127), "trle-palette", at)
            else:
                colours = kind & 0x7F
                self.b.take(colours * cpixel)
                palette = colours if colours > 1 else palette
            if kind == 0:
                self.b.take(w * h * cpixel)
            elif 2 <= kind <= 127:
                bits = 1 if palette == 2 else 2 if palette <= 4 else 4
                self.b.take((w * bits + 7) // 8 * h)
            elif kind == 128:
                self.runs(r, w * h, None)
            elif kind > 128:
                self.runs(r, w * h, palette)

    def runs(self, r: Rectangle, pixels: int, palette: int | None) -> None:
        while pixels > 0:
            at = self.b.at
            length = 1
            if palette is None:
                self.b.take(self.known.pixel_format.cpixel)
                index = 0x80
            else:
                index = self.b.u8()
                r.need(index & 0x7F < palette, "trle-index", at)
            if index & 0x80:
                more = 255
                while more == 255:
                    r.need(length <= pixels, "trle-run", at)
                    more = self.b.u8()
                    length += more
            pixels -= length
            r.need(pixels >= 0, "trle-run", at)

    def jpeg(self, r: Rectangle) -> None:
        """P, JPEG: from its SOI to its EOI marker (J B.1). Policy: no fill bytes, no larger an
        image than the rectangle, no more bytes than make sense."""
        start = self.b.at
        most = start + 8 * r.w * r.h + 65_536
        r.need(self.marker(r) == 0xD8, "jpeg-marker", start)
        marker = 0xD8
        while marker != 0xD9:
            at = self.b.at
            marker = self.marker(r)
            r.need(marker != 0xD8, "jpeg-marker", at)
            end = at + 2
            if marker != 0xD9 and marker != 1 and not 0xD0 <= marker <= 0xD7:
                length = self.b.u16()
                frame = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
                r.need(length >= (8 if frame else 2), "jpeg-segment", at)
                if frame:
                    self.b.take(1)
                    height, width = self.b.u16(), self.b.u16()
                    r.need(width <= r.w and 0 < height <= r.h, "jpeg-size", at)
                end += length
            r.need(end <= most, "jpeg-length", at)
            self.b.at = at
            self.b.take(end - at)
            if marker == 0xDA:
                self.scan(r, most)

    def marker(self, r: Rectangle) -> int:
        at = self.b.at
        first, second = self.b.take(2)
        r.need(first == 0xFF and second not in (0, 0xFF), "jpeg-marker", at)
        return second

    def scan(self, r: Rectangle, most: int) -> None:
        """J B.1.1.5: in a scan, FF is followed by 00 or by the number of a restart."""
        while True:
            byte = self.b.peek(1)[0]
            if byte == 0xFF and self.b.peek(2)[1] not in (0, *range(0xD0, 0xD8)):
                return
            r.need(self.b.at < most, "jpeg-length", most)
            self.b.take(1)

    # Pseudo-encodings; each returns how many bytes follow its head.

    def nothing(self, r: Rectangle) -> int:
        return 0

    def cursor(self, r: Rectangle) -> int:
        r.need(r.w <= CURSOR_SIDE_PX and r.h <= CURSOR_SIDE_PX, "cursor-size")
        return self.raw_bytes(r) + (r.w + 7) // 8 * r.h

    def x_cursor(self, r: Rectangle) -> int:
        r.need(r.w <= CURSOR_SIDE_PX and r.h <= CURSOR_SIDE_PX, "cursor-size")
        return 6 + 2 * ((r.w + 7) // 8 * r.h) if r.w * r.h else 0

    def vmware_cursor(self, r: Rectangle) -> int:
        r.need(r.w <= CURSOR_SIDE_PX and r.h <= CURSOR_SIDE_PX, "cursor-size")
        kind = self.b.take(2)[0]
        r.need(kind in (0, 1), "cursor-type")
        return r.w * r.h * 4 if kind else 2 * self.raw_bytes(r)

    def alpha_cursor(self, r: Rectangle) -> int:
        r.need(r.w <= CURSOR_SIDE_PX and r.h <= CURSOR_SIDE_PX, "cursor-size")
        encoding = signed(self.b.take(4))
        r.need(encoding in (0, 5, 7, 16), "cursor-encoding")
        r.need(encoding == 0 or encoding in self.known.offered, "encoding-not-offered")
        pixel_format = self.known.pixel_format
        self.known.pixel_format = ALPHA
        try:
            if encoding == 5:
                return self.chain_in_cursor(r)
            return PIXELS[encoding](self, r)
        finally:
            self.known.pixel_format = pixel_format

    def resize(self, r: Rectangle) -> int:
        r.need(size_is_legal(r.w, r.h), "framebuffer-size")
        self.known.width, self.known.height = r.w, r.h
        return 0

    def extended_desktop_size(self, r: Rectangle) -> int:
        count = self.b.take(4)[0]
        r.need(count <= SCREENS, "screens")
        # After a refused request of the viewer's the size is undefined (P).
        if not (r.x == 1 and r.y != 0):
            self.resize(r)
        self.known.confirmed.add("extended_desktop_size")
        return 16 * count

    def display_mode(self, r: Rectangle) -> int:
        pixel_format = Format.read(self.b.take(16))
        r.need(pixel_format.legal(), "pixel-format")
        self.resize(r)
        self.known.pixel_format = pixel_format
        return 0

    def name(self, r: Rectangle) -> int:
        """P: x, y, w and h are zero. Others are left out (policy: viewers ignore them)."""
        length = self.b.u32()
        r.need(length <= NAME_BYTES, "name-length")
        if r.x or r.y or r.w or r.h:
            self.reading.dropped += 4 + length
        return length

    def confirm(self, r: Rectangle) -> int:
        names = {-258: "extended_keys", -259: "audio", -316: "extended_buttons"}
        self.known.confirmed.add(names[r.encoding])
        return 0

    def fixed(self, r: Rectangle) -> int:
        return FIXED[r.encoding]

    def counted(self, r: Rectangle) -> int:
        """L: the width counts bytes."""
        r.need(r.encoding != SUPPORTED_MESSAGES or r.w == 64, "supported-messages-length")
        return r.w

    def ultra_zip(self, r: Rectangle) -> int:
        """L: x counts rectangles, each with a header of twelve bytes inside."""
        known = self.known
        raw = known.width * known.height * known.pixel_format.pixel
        return self.deflated(r, 2 * (raw + 65_535 * 12) + 4096, "ultra-length")


FIXED = {-261: 1, VMWARE + 1: 2, VMWARE + 3: 10, VMWARE + 4: 4, VMWARE + 6: 2}

CHAINS: dict[int, Callable[[Rectangles, Rectangle], None]] = {
    2: Rectangles.rre,
    4: Rectangles.corre,
    5: Rectangles.hextile,
    8: Rectangles.zlibhex,
    15: Rectangles.trle,
    21: Rectangles.jpeg,
}
PIXELS: dict[int, Callable[[Rectangles, Rectangle], int]] = {
    0: Rectangles.raw,
    1: Rectangles.copy,
    6: Rectangles.zlib,
    7: Rectangles.tight,
    9: Rectangles.ultra,
    10: Rectangles.ultra2,
    16: Rectangles.zrle,
    17: Rectangles.zrle,
    50: Rectangles.h264,
    -260: Rectangles.tight_png,
}
PSEUDO: dict[int, Callable[[Rectangles, Rectangle], int]] = {
    ULTRA_ZIP: Rectangles.ultra_zip,
    -223: Rectangles.resize,
    LAST_RECT: Rectangles.nothing,
    -232: Rectangles.nothing,
    -239: Rectangles.cursor,
    -240: Rectangles.x_cursor,
    -257: Rectangles.nothing,
    -258: Rectangles.confirm,
    -259: Rectangles.confirm,
    -307: Rectangles.name,
    -308: Rectangles.extended_desktop_size,
    -314: Rectangles.alpha_cursor,
    -316: Rectangles.confirm,
    VMWARE: Rectangles.vmware_cursor,
    VMWARE + 2: Rectangles.nothing,
    VMWARE + 5: Rectangles.display_mode,
    LED_STATE: Rectangles.nothing,
    SUPPORTED_MESSAGES: Rectangles.counted,
    SUPPORTED_ENCODINGS: Rectangles.counted,
    IDENTITY: Rectangles.counted,
    **dict.fromkeys(FIXED, Rectangles.fixed),
}
