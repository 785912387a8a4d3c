"""Conversations under test, and what must hold of them whatever is said.

An input for one direction begins with how the conversation was opened and where it is cut; then
come the messages, as they are or as choices.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import cache
from operator import attrgetter

from fuzz.data import Data
from fuzz.rectangles import PIXEL_FORMATS
from relay.limits import Limits
from relay.rfb import from_desktop, from_viewer
from relay.rfb.conversation import Conversation
from relay.rfb.encodings import REGISTRY, SIGNALS
from relay.rfb.errors import ProtocolError
from relay.rfb.from_desktop import FromDesktop
from relay.rfb.from_viewer import FromViewer
from relay.rfb.handshake import ServerInit
from relay.rfb.pixel_format import PixelFormat
from relay.rfb.reader import Observer
from relay.rfb.rights import Rights
from relay.rfb.state import State

# Small, so that small inputs reach them.
LIMITS = Limits(clipboard_bytes=48, name_bytes=40, cursor_side_px=32, encodings_count=64)

SIZES = ((64, 48), (640, 480), (4096, 2160), (16, 16))

QUALITY = -26
_SIGNALS = tuple(sorted(SIGNALS))

_TAIL_LIMITS = {"down": from_desktop.TAIL_LIMIT_BYTES, "up": from_viewer.TAIL_LIMIT_BYTES}


def _confirmations(width: int, height: int) -> bytes:
    """The desktop confirms every extension that the viewer may then use."""
    return (
        b"\0\0\0\4"
        + b"".join([struct.pack(">HHHHi", 1, 0, 0, 0, number) for number in (-258, -259, -316)])
        + struct.pack(">HHHHi", 0, 0, width, height, -308)
        + struct.pack(">B3xIHHHHI", 1, 1, 0, 0, width, height, 0)
        + b"\x96"
        + struct.pack(">B3xIB", 248, 1 << 31, 0) * 2
        + struct.pack(">B3xiII", 3, -8, 1 << 24 | 1, 100)
        + b"\xfa\0\1\1"  # xvp
        + struct.pack(">BBHHH", 253, 0x81, 4, 1, 1)  # gii
    )


# The viewer switches audio on, and asks for two fences.
_USED = struct.pack(">BBH", 255, 1, 0) + struct.pack(">B3xIB", 248, 1 << 31, 0) * 2

EXTENSIONS = (*_SIGNALS, -258, -259, -316, -308)

Setting = tuple[ServerInit, tuple[tuple[str, bytes], ...]]
"""How a conversation is opened: the handshake, and what is said by whom before the input."""

ALL_RIGHTS = Rights(power=True)

observer: Observer | None = None
"""Told of everything that passes, where a test wants to know."""


@cache
def setting(
    size: tuple[int, int], pixel: PixelFormat, offers: tuple[int, ...], confirmed: bool
) -> Setting:
    said = [("up", struct.pack(f">BxH{len(offers)}i", 2, len(offers), *offers))]
    if confirmed:
        said += [("down", _confirmations(*size)), ("up", _USED)]
    return ServerInit(*size, pixel, b""), tuple(said)


def conversation(opened: Setting, *, passive: bool, rights: Rights = ALL_RIGHTS) -> Conversation:
    """A conversation in this setting. A passive one holds nothing back, so that what it forwards
    of the viewer's depends on nothing but that."""
    init, said = opened
    made = Conversation(
        init, LIMITS, rights=rights, let_through=REGISTRY.keys() | SIGNALS, passive=passive
    )
    for way, message in said:
        reader = made.up if way == "up" else made.down
        reader.judge(bytearray(message), 0, len(message))
    made.down.observer = made.up.observer = observer
    return made


_state = attrgetter(*State.__slots__)


def known(made: Conversation) -> object:
    """All that later bytes depend on, as far as it can be compared."""
    ways = (made.down, made.up)
    offers = made.flow.offers
    return (
        _state(made.state),
        (offers.allowed, offers.measures),
        [(way.offset, way.opaque, way.discarding) for way in ways],
    )


class Feeder:
    """One direction, fed in pieces; keeps the tail as a leg does, and presents it again."""

    __slots__ = ("_limit_bytes", "at", "forwarded", "reader", "tail", "unseen")

    def __init__(self, made: Conversation, way: str, *, unseen: bool = False) -> None:
        self.reader: FromDesktop | FromViewer = made.down if way == "down" else made.up
        self._limit_bytes = _TAIL_LIMITS[way]
        # The offset of its first byte.
        self.at = self.reader.offset
        # Whether opaque bytes go past it without a look.
        self.unseen = unseen
        self.tail = b""
        self.forwarded = b""

    def feed(self, data: bytes) -> None:
        """Raises ProtocolError."""
        reader = self.reader
        if self.unseen and reader.opaque and not reader.discarding:
            assert not self.tail, "bytes wait before opaque ones"
            count = min(reader.opaque, len(data))
            reader.moved(count)
            self.forwarded += data[:count]
            data = data[count:]
            if not data:
                return
        # Not at the start of the buffer, and with bytes behind: positions must be honoured.
        buf = bytearray(b"<<%b%b>>" % (self.tail, data))
        stop = len(buf) - 2
        end = reader.judge(buf, 2, stop)
        assert buf[:2] == b"<<", "wrote before the window"
        assert buf[stop:] == b">>", "wrote behind the window"
        at = 2
        for first, behind, replacement in reader.edits:
            assert at <= first <= behind <= end, "edits out of order"
            self.forwarded += buf[at:first] + replacement
            at = behind
        self.forwarded += buf[at:end]
        assert not reader.opaque or end == stop, "a tail before opaque bytes"
        assert not reader.discarding or reader.opaque, "discards nothing"
        self.tail = bytes(buf[end:stop])
        assert len(self.tail) <= self._limit_bytes, f"{len(self.tail)} bytes wait"


Fault = tuple[int, str, str]
"""Offset, rule and element of what ended a conversation."""


def feed_all(feeder: Feeder, pieces: Sequence[bytes]) -> Fault | None:
    """Feeds the pieces; returns what ended it."""
    try:
        for piece in pieces:
            feeder.feed(piece)
    except ProtocolError as error:
        return error.offset - feeder.at, error.rule, error.where
    return None


def cut(data: Data, wire: bytes) -> list[bytes]:
    """`wire` in pieces, up to four of any length, or in bytes."""
    count = data.byte() % 5
    if not count and len(wire) < 200:
        return [wire[at : at + 1] for at in range(len(wire))]
    cuts = sorted(data.u16() % (len(wire) + 1) for _ in range(count))
    return [wire[a:b] for a, b in zip((0, *cuts), (*cuts, len(wire)), strict=True)]


def damaged(data: Data, wire: bytes) -> bytes:
    """Mostly `wire` itself; else with a few bytes changed."""
    if not wire or data.byte() < 192:
        return wire
    changed = bytearray(wire)
    for _ in range(data.byte() % 3 + 1):
        changed[data.u16() % len(changed)] = data.byte()
    return bytes(changed)


def check(way: str, opened: Setting, wire: bytes, cuts: Data) -> None:
    """One direction. Only ProtocolError escapes; the tail stays under its bound; in pieces it
    comes to the same; what is approved is approved again, unchanged."""
    # A desktop is never held up; with a viewer's list in force, and not all that is framed.
    passive = way == "up"
    made = conversation(opened, passive=passive)
    whole = Feeder(made, way)
    fault = feed_all(whole, [wire])
    story = (way, wire.hex(), fault)

    made_in_pieces = conversation(opened, passive=passive)
    split = Feeder(made_in_pieces, way, unseen=bool(cuts.byte() & 1))
    pieces = cut(cuts, wire)
    other = feed_all(split, pieces)
    assert other == fault, ("split", story, [len(piece) for piece in pieces], other)
    if fault is None:
        assert split.forwarded == whole.forwarded, ("forwarded", story, pieces)
        assert split.tail == whole.tail, ("tail", story, pieces)
        assert known(made_in_pieces) == known(made), ("state", story, pieces)
    else:
        offset = fault[0]
        assert 0 <= offset <= len(wire), ("offset", story)
        whole = Feeder(conversation(opened, passive=passive), way)
        before = feed_all(whole, [wire[:offset]])
        assert before is None, ("before the fault", story, before)
        assert whole.forwarded.startswith(split.forwarded), ("beyond the fault", story, pieces)

    approved = whole.forwarded
    again = Feeder(conversation(opened, passive=passive), way)
    refused = feed_all(again, [approved])
    assert refused is None, ("approved, then refused", story, approved.hex(), refused)
    assert again.forwarded == approved, ("approved, then changed", story, again.forwarded.hex())


def check_messages(
    data: bytes, way: str, offers: tuple[int, ...], messages: Callable[[Data, PixelFormat], bytes]
) -> None:
    """`check` of an input: opening, cuts, and `messages` or the bytes themselves."""
    choices = Data(data)
    choice = choices.byte()
    pixel = PIXEL_FORMATS[(choice & 7) % len(PIXEL_FORMATS)]
    size = SIZES[choice >> 3 & 3]
    # Mostly with everything offered; now and then without JPEG, signals, or anything.
    confirmed = choice >> 5 < 6 and set(EXTENSIONS) <= set(offers)
    if choice >> 5 == 7:
        offers = offers[: choices.byte() % (len(offers) + 1)]
    opened = setting(size, pixel, offers, confirmed)
    cuts = Data(choices.take(10))
    if choices.byte() < 32:
        wire = choices.rest()
    else:
        wire = messages(choices, pixel)
        wire = damaged(choices, wire)
    check(way, opened, wire, cuts)


OFFERS_LAST = (*_SIGNALS, QUALITY)
