"""A slow reader of RFB, written from the specification alone.

It shares no line with `relay.rfb`: whole byte strings, slices and exceptions, nothing kept
between calls and no regard for speed. Where the two disagree, one of them is wrong.

Sources: RFC 6143 (R) and the community's specification, rfbproto.rst (P). What neither decides is
policy, and said to be; rule words are those of docs/protocol.md. Rectangles are in
`tests.labs.rfb_model.rectangles`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

SIDE_PX = 16_384
AREA_PX = 67_108_864
CLIPBOARD_BYTES = 262_144
ENCODINGS = 1_024
SCREENS = 16
FENCE_BYTES = 64
EXTENDED_BUTTONS = -316

OUR_FENCE = b"\0deskrelay"
JPEG_QUALITIES = (*range(-32, -22), *range(-512, -411))
LEVELS = (*JPEG_QUALITIES, *range(-256, -246), *range(-768, -762))


class Incomplete(Exception):
    """The bytes end within an element."""


class Refused(Exception):
    """A rule is broken; `offset` is where the element that breaks it begins."""

    def __init__(self, offset: int, rule: str) -> None:
        super().__init__(offset, rule)
        self.offset = offset
        self.rule = rule


@dataclass(frozen=True)
class Format:
    """PIXEL_FORMAT (R 7.4)."""

    bits: int = 32
    depth: int = 24
    true_colour: bool = True
    maxima: tuple[int, int, int] = (255, 255, 255)
    shifts: tuple[int, int, int] = (16, 8, 0)

    @classmethod
    def read(cls, data: bytes) -> Format:
        return cls(
            data[0],
            data[1],
            data[3] != 0,
            (number(data[4:6]), number(data[6:8]), number(data[8:10])),
            (data[10], data[11], data[12]),
        )

    def legal(self) -> bool:
        """Depth equal to bits per pixel is, and less than 8 for channels of 8 bits in all
        (policy: servers and libvncclient send them)."""
        if self.bits not in (8, 16, 32) or not 1 <= self.depth <= self.bits:
            return False
        if not self.true_colour:
            return True
        used: set[int] = set()
        total = 0
        for maximum, shift in zip(self.maxima, self.shifts, strict=True):
            width = maximum.bit_length()
            if maximum == 0 or maximum != 2**width - 1 or shift + width > self.bits:
                return False
            used |= set(range(shift, shift + width))
            total += width
        return len(used) == total <= max(self.depth, 8)

    @property
    def pixel(self) -> int:
        return self.bits // 8

    @property
    def cpixel(self) -> int:
        """R 7.7.5: three bytes where all colours fit into the low or the high three."""
        if self.bits != 32 or self.depth > 24 or not self.true_colour:
            return self.pixel
        spans = [(s, s + m.bit_length()) for m, s in zip(self.maxima, self.shifts, strict=True)]
        low = all(top <= 24 for _, top in spans)
        high = all(bottom >= 8 for bottom, _ in spans)
        return 3 if low or high else 4

    @property
    def tpixel(self) -> int:
        """P, Tight: three bytes at 32 bits, depth 24, eight bits a colour."""
        compact = self.bits == 32 and self.depth == 24 and self.true_colour
        return 3 if compact and self.maxima == (255, 255, 255) else self.pixel


@dataclass
class Known:
    """What both sides know of each other before the first byte, and what they learn."""

    width: int = 640
    height: int = 480
    pixel_format: Format = field(default_factory=Format)
    offered: frozenset[int] = frozenset()
    """By the viewer; of SetEncodings, what may pass on to the desktop."""
    confirmed: set[str] = field(default_factory=set)
    """Extensions that the desktop has confirmed."""
    audio_enabled: bool = False
    requests: int = 0
    """Update requests that the desktop has not answered."""
    continuous: bool = False
    """Whether continuous updates are on."""
    enables: int = 0
    """EnableContinuousUpdates that the viewer has sent."""
    answers: int = 0
    """Fences of the other side that this one has not answered."""
    unrequested: int = 64
    """Updates with pixels that may come unasked (policy)."""
    slack: int = 1 << 20
    """Bytes that an update may have beyond four times the framebuffer (policy)."""


@dataclass
class Reading:
    """What came of it. `verdict` is "ok", "incomplete" or "refused"."""

    events: list[tuple[str, int, int]] = field(default_factory=list)
    verdict: str = "ok"
    offset: int = 0
    rule: str = ""
    dropped: int = 0
    """Bytes that are not passed on, of the elements that are whole."""


def number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def signed(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


class Bytes:
    """A byte string and how far it has been read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise Incomplete
        self.at += count
        return self.data[self.at - count : self.at]

    def peek(self, count: int) -> bytes:
        taken = self.take(count)
        self.at -= count
        return taken

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return number(self.take(2))

    def u32(self) -> int:
        return number(self.take(4))


def size_is_legal(width: int, height: int) -> bool:
    """Policy."""
    return 1 <= width <= SIDE_PX and 1 <= height <= SIDE_PX and width * height <= AREA_PX


class Model:
    """One direction. A message's method checks it as soon as its head is there."""

    messages: ClassVar[dict[int, tuple[int, str]]]
    """By type: the bytes of the head, and the method."""

    def __init__(self, data: bytes, known: Known) -> None:
        self.b = Bytes(data)
        self.known = known
        self.reading = Reading()
        self.start = 0
        self.long_fence = False

    def read(self) -> Reading:
        reading = self.reading
        try:
            while self.b.at < len(self.b.data):
                self.start = self.b.at
                head, method = self.messages.get(self.b.peek(1)[0], (1, "unknown"))
                self.b.peek(head)
                getattr(self, method)()
        except Incomplete:
            reading.verdict = "incomplete"
        except Refused as refused:
            reading.verdict = "refused"
            reading.offset, reading.rule = refused.offset, refused.rule
        return reading

    def need(self, held: bool, rule: str) -> None:
        if not held:
            raise Refused(self.start, rule)

    def unknown(self) -> None:
        self.need(False, "message-type")

    def tell(self) -> None:
        """The head of the message has passed."""
        self.reading.events.append(("message", self.b.data[self.start], self.start))

    def drop(self) -> None:
        self.reading.dropped += self.b.at - self.start

    def cut_text(self, *, extended: bool) -> None:
        """R 7.5.6, R 7.6.4; P, Extended Clipboard. Too long a text is left out (policy)."""
        length = signed(self.b.take(8)[4:])
        extended_form = length < 0
        if extended_form:
            self.need(extended and -(1 << 31) < length <= -4, "cut-text-length")
            length = -length
            flags = number(self.b.peek(4))
            formats = (flags & 0xFFFF).bit_count()
            actions = flags >> 24
            self.need(flags & 0xE0FF0000 == 0, "clipboard-flags")
            if actions & 1:
                # Longer ones pass (policy).
                self.need(length >= 4 + 4 * formats, "clipboard-caps")
            else:
                self.need(actions in (2, 4, 8, 16), "clipboard-action")
                self.need(actions == 16 or length == 4, "clipboard-length")
        self.tell()
        self.b.take(length)
        if length > CLIPBOARD_BYTES + (4 if extended_form else 0):
            self.drop()

    def fence(self) -> tuple[bool, bytes] | None:
        """P, ClientFence and ServerFence: whether it is a request, and its payload. Answers that
        are not due are left out (policy), and so is the first one that is too long: it is None.
        """
        head = self.b.take(9)
        if head[8] > FENCE_BYTES:
            self.need(not self.long_fence, "fence-length")
            self.long_fence = True
            self.tell()
            self.b.take(head[8])
            self.drop()
            return None
        return head[4] >= 0x80, self.b.take(head[8])

    def answer(self) -> None:
        if self.known.answers:
            self.known.answers -= 1
        else:
            self.drop()

    def gii_length(self) -> int:
        """P, gii: the length's byte order is in the second byte."""
        head = self.b.take(4)
        return number(head[2:] if head[1] & 0x80 else head[:1:-1])


class FromViewer(Model):
    """What the viewer sends (R 7.5; P, Client to Server Messages)."""

    def __init__(self, data: bytes, known: Known) -> None:
        super().__init__(data, known)
        # Of its last list, what passes on.
        self.listed: set[int] = set(known.offered)

    messages: ClassVar = {
        0: (20, "set_pixel_format"),
        2: (4, "set_encodings"),
        3: (10, "update_request"),
        4: (8, "key"),
        5: (6, "pointer"),
        6: (8, "text"),
        150: (10, "enable_continuous_updates"),
        248: (9, "client_fence"),
        250: (4, "xvp"),
        251: (8, "set_desktop_size"),
        253: (4, "gii"),
        255: (2, "qemu"),
    }

    def confirmed(self, extension: str, rule: str) -> None:
        self.need(extension in self.known.confirmed, rule)

    def set_pixel_format(self) -> None:
        self.need(Format.read(self.b.take(20)[4:]).legal(), "pixel-format")
        self.tell()

    def set_encodings(self) -> None:
        count = number(self.b.take(4)[2:])
        self.need(count <= ENCODINGS, "encodings-count")
        numbers = [signed(self.b.take(4)) for _ in range(count)]
        self.tell()
        self.listed = {n for n in numbers if n in self.known.offered or n in LEVELS}
        self.reading.dropped += 4 * sum(n not in self.listed for n in numbers)

    def update_request(self) -> None:
        self.b.take(10)
        self.tell()

    def key(self) -> None:
        self.b.take(8)
        self.tell()

    def pointer(self) -> None:
        """P, PointerEvent: bit 7 is a button until the extension gives it a meaning."""
        buttons = self.b.take(6)[1]
        extended = "extended_buttons" in self.known.confirmed and EXTENDED_BUTTONS in self.listed
        if extended and buttons & 0x80:
            self.b.take(1)
        self.tell()

    def text(self) -> None:
        self.cut_text(extended="extended_clipboard" in self.known.confirmed)

    def enable_continuous_updates(self) -> None:
        self.confirmed("continuous_updates", "continuous-updates-not-confirmed")
        self.b.take(10)
        self.tell()

    def client_fence(self) -> None:
        self.confirmed("fences", "fence-not-confirmed")
        fence = self.fence()
        if fence is None:
            return
        request, payload = fence
        self.need(not (request and payload.startswith(OUR_FENCE)), "fence-payload")
        self.tell()
        if not request:
            self.answer()

    def xvp(self) -> None:
        """Power is not among the rights that everybody has (policy)."""
        self.confirmed("xvp", "xvp-not-confirmed")
        message = self.b.take(4)
        self.need(message[2] == 1 and message[3] in (2, 3, 4), "xvp-code")
        self.tell()
        self.drop()

    def set_desktop_size(self) -> None:
        self.confirmed("extended_desktop_size", "resize-not-confirmed")
        head = self.b.take(8)
        width, height = number(head[2:4]), number(head[4:6])
        self.need(size_is_legal(width, height), "framebuffer-size")
        self.need(1 <= head[6] <= SCREENS, "screens")
        screens = [self.b.take(16) for _ in range(head[6])]
        for screen in screens:
            x, y, w, h = (number(screen[i : i + 2]) for i in (4, 6, 8, 10))
            self.need(x + w <= width and y + h <= height, "screens")
        self.need(len({screen[:4] for screen in screens}) == len(screens), "screens")
        self.tell()

    def gii(self) -> None:
        self.confirmed("gii", "gii-not-confirmed")
        length = self.gii_length()
        self.tell()
        self.b.take(length)

    def qemu(self) -> None:
        """P, QEMU Client Message."""
        kind = self.b.take(2)[1]
        self.need(kind in (0, 1), "qemu-submessage")
        if kind == 0:
            self.confirmed("extended_keys", "extended-keys-not-confirmed")
            self.b.take(10)
        else:
            self.confirmed("audio", "audio-not-confirmed")
            operation = self.b.u16()
            self.need(operation <= 2, "audio-operation")
            if operation == 2:
                sample = self.b.take(6)
                self.need(sample[0] <= 5 and sample[1] in (1, 2), "audio-format")
        self.tell()
