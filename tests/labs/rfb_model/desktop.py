"""The model of what the desktop sends (R 7.6; P, Server to Client Messages). See
`tests.labs.rfb_model.reader`."""

from __future__ import annotations

from typing import ClassVar

from tests.labs.rfb_model.reader import OUR_FENCE, Known, Refused, number, signed
from tests.labs.rfb_model.rectangles import CHAINS, LAST_RECT, PIXELS, PSEUDO, Rectangle, Rectangles

AUDIO_BYTES = 1 << 20
PSEUDO_BYTES = 1 << 24

READABLE = {*CHAINS, *PIXELS, *PSEUDO}
EXTENDED_CLIPBOARD = 0xC0A1E5CE - (1 << 32)


class FromDesktop(Rectangles):
    """What the desktop sends; `read` is the way in."""

    messages: ClassVar = {
        0: (1, "framebuffer_update"),
        1: (1, "colour_map"),
        2: (1, "bell"),
        3: (1, "text"),
        150: (1, "end_of_continuous_updates"),
        248: (1, "server_fence"),
        250: (1, "xvp"),
        253: (1, "gii"),
        255: (1, "qemu"),
    }

    def __init__(self, data: bytes, known: Known) -> None:
        super().__init__(data, known)
        self.ends = 0
        self.unrequested = 0
        self.room = self.pseudo_room = 0
        self.painted = False

    def offered(self, extension: int, rule: str) -> None:
        self.need(extension in self.known.offered, rule)

    def colour_map(self) -> None:
        head = self.b.take(6)
        first, count = number(head[2:4]), number(head[4:6])
        pixel_format = self.known.pixel_format
        # In true colour it means nothing, and goes (policy: noVNC ends its session on it).
        entries = 65_536 if pixel_format.true_colour else 2 ** min(16, pixel_format.bits)
        self.need(first + count <= entries, "colour-map")
        self.tell()
        self.b.take(6 * count)
        if pixel_format.true_colour:
            self.drop()

    def bell(self) -> None:
        self.b.take(1)
        self.tell()

    def text(self) -> None:
        self.cut_text(extended=EXTENDED_CLIPBOARD in self.known.offered)
        if self.b.data[self.start + 4] >= 0x80 and self.b.data[self.start + 8] & 1:
            self.known.confirmed.add("extended_clipboard")

    def end_of_continuous_updates(self) -> None:
        """P: the first announces the extension, each further one answers a message."""
        self.offered(-313, "continuous-updates-not-offered")
        self.b.take(1)
        self.ends += 1
        self.need(self.ends <= self.known.enables + 1, "continuous-updates-end")
        self.tell()
        self.known.confirmed.add("continuous_updates")

    def server_fence(self) -> None:
        self.offered(-312, "fence-not-offered")
        fence = self.fence()
        if fence is None:
            return
        request, payload = fence
        self.tell()
        self.known.confirmed.add("fences")
        if not request:
            if payload.startswith(OUR_FENCE):
                self.drop()
            else:
                self.answer()

    def xvp(self) -> None:
        self.offered(-309, "xvp-not-offered")
        code = self.b.take(4)[3]
        self.need(code in (0, 1), "xvp-code")
        self.tell()
        if code == 1:
            self.known.confirmed.add("xvp")

    def gii(self) -> None:
        self.offered(-305, "gii-not-offered")
        length = self.gii_length()
        self.tell()
        self.known.confirmed.add("gii")
        self.b.take(length)

    def qemu(self) -> None:
        """P, QEMU Audio Server Message."""
        head = self.b.take(4)
        operation = number(head[2:])
        self.need(head[1] == 1 and operation <= 2, "qemu-submessage")
        self.need(self.known.audio_enabled, "audio-not-enabled")
        length = 0
        if operation == 2:
            length = self.b.u32()
            self.need(length <= AUDIO_BYTES, "audio-length")
        self.tell()
        self.b.take(length)

    # Updates

    def limit(self) -> int:
        known = self.known
        return 4 * known.width * known.height * known.pixel_format.pixel + known.slack

    def framebuffer_update(self) -> None:
        known = self.known
        count = number(self.b.take(4)[2:])
        self.tell()
        self.room = self.limit()
        self.pseudo_room = PSEUDO_BYTES
        self.painted = False
        while count:
            at = self.b.at
            head = self.b.take(12)
            x, y, w, h = (number(head[i : i + 2]) for i in (0, 2, 4, 6))
            r = Rectangle(at, x, y, w, h, signed(head[8:]))
            offered = r.encoding == 0 or r.encoding in known.offered
            r.need(offered and r.encoding in READABLE, "encoding-not-offered")
            size = self.rectangle(r)
            count = 0 if r.encoding == LAST_RECT else count - 1
            if not count:
                self.update_ends(at + 12 + size)
            self.b.at = at + 12
            self.b.take(size)

    def update_ends(self, at: int) -> None:
        """R 7.5.3: an update answers requests; policy: a few may come unasked."""
        known = self.known
        if not self.painted or known.continuous:
            return
        if known.requests:
            known.requests -= 1
        else:
            self.unrequested += 1
            if self.unrequested > known.unrequested:
                raise Refused(at, "unrequested-updates")

    def rectangle(self, r: Rectangle) -> int:
        """Reads a rectangle's head, or all of it where it has none; returns how many bytes are
        behind the header."""
        known = self.known
        if r.encoding in CHAINS or r.encoding in PIXELS:
            inside = r.x + r.w <= known.width and r.y + r.h <= known.height
            r.need(inside, "rectangle-outside")
            self.painted = True
        event = ("rectangle", r.encoding, r.at)
        start = self.b.at
        if r.encoding in CHAINS:
            self.reading.events.append(event)
            CHAINS[r.encoding](self, r)
            size = self.b.at - start
            self.spend(r, size, self.b.at)
            return size
        if r.encoding in PIXELS:
            size = PIXELS[r.encoding](self, r) + self.b.at - start
            self.spend(r, size, r.at)
        else:
            before = known.width, known.height
            size = PSEUDO[r.encoding](self, r) + self.b.at - start
            self.pseudo_room -= size
            r.need(self.pseudo_room >= 0, "update-length")
            if (known.width, known.height) != before:
                self.room = max(self.room, self.limit())
        if event not in self.reading.events[-1:]:
            self.reading.events.append(event)
        return size

    def chain_in_cursor(self, r: Rectangle) -> int:
        """Hextile inside CursorWithAlpha: told when its head has passed, and counted as pixels
        are (policy)."""
        start = self.b.at
        self.reading.events.append(("rectangle", r.encoding, r.at))
        CHAINS[5](self, r)
        size = self.b.at - start
        self.spend(r, size, self.b.at)
        self.pseudo_room += size
        return 0

    def spend(self, r: Rectangle, size: int, at: int) -> None:
        """Policy: one update has at most four times its framebuffer in bytes, and some."""
        self.room -= size
        r.need(self.room >= 0, "update-length", at)
