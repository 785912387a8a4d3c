"""Each limit of what the desktop says besides rectangles: what is at it passes, what is one beyond
is refused. Shapes of messages are those of RFC 6143, Section 7.6, and of the community
specification; the limits are docs/protocol.md's.
"""

from __future__ import annotations

import struct

import pytest

from relay.limits import Limits
from relay.rfb import encodings
from relay.rfb.conversation import Conversation
from relay.rfb.errors import ProtocolError
from tests.labs.conversations import conversation, everything, in_format
from tests.labs.peers import BELL
from tests.labs.rfb_messages import (
    COLOUR_MAP_8,
    COLOUR_MAP_32,
    EVERYTHING,
    colour_map,
    cut_text,
    fence,
    rect,
    update,
)
from tests.labs.splits import TAILS, Feeder, check, passes, passes_head, refused

# Clipboard.


def test_a_cut_text_at_the_limit() -> None:
    def make() -> Conversation:
        return conversation(*EVERYTHING, limits=Limits(clipboard_bytes=16))

    caps = struct.pack(">IIII", 1 << 24 | 7, 1, 1, 1)
    for body, length in ((b"t" * 16, 16), (caps, -16)):
        passes(make, "down", cut_text(3, length, body))
    check(make, "down", cut_text(3, 17, b"t" * 17) + BELL, BELL)
    # The flags of the extended form do not count.
    passes(make, "down", cut_text(3, -20, caps + b"more"))
    check(make, "down", cut_text(3, -21, caps + b"more!") + BELL, BELL)
    passes(everything, "down", cut_text(3, 0, b""))
    passes_head(everything, "down", cut_text(3, 262_144, b""), 262_144)
    within = Feeder(everything().down, TAILS["down"])
    within.feed(cut_text(3, 262_144, b""))
    assert not within.reader.discarding
    for length in (262_145, 0x7F000000):
        over = Feeder(everything().down, TAILS["down"])
        over.feed(cut_text(3, length, b""))
        assert over.reader.discarding
        assert over.reader.opaque == length
        assert not over.forwarded


@pytest.mark.parametrize(
    ("flags", "length", "rule"),
    [
        # Three formats have a size each; more than that is let pass.
        (1 << 24 | 7, 15, "clipboard-caps"),
        (1 << 24 | 7, 16, ""),
        (1 << 24 | 7, 17, ""),
        (1 << 24 | 1 << 27 | 0xFFFF, 68, ""),
        # Request, peek and notify are flags alone; provide has data behind them.
        (1 << 25 | 1, 4, ""),
        (1 << 26, 4, ""),
        (1 << 27 | 1, 4, ""),
        (1 << 25 | 1, 5, "clipboard-length"),
        (1 << 26, 8, "clipboard-length"),
        (1 << 27 | 1, 5, "clipboard-length"),
        (1 << 28 | 1, 4, ""),
        (1 << 28 | 1, 5, ""),
        (1, 4, "clipboard-action"),
        (1 << 25 | 1 << 28, 4, "clipboard-action"),
        *((1 << 25 | 1 << bit, 4, "clipboard-flags") for bit in (16, 23, 29, 30, 31)),
    ],
)
def test_flags_of_the_extended_clipboard(flags: int, length: int, rule: str) -> None:
    wire = cut_text(3, -length, struct.pack(">I", flags) + b"d" * (length - 4))
    if rule:
        assert refused(everything, "down", wire, 0, "ServerCutText") == rule
    else:
        passes(everything, "down", wire)


def test_only_capabilities_agree_to_the_extended_form() -> None:
    for flags, agreed in ((1 << 27 | 1, False), (1 << 24, True), (1 << 24 | 1 << 27, True)):
        made = everything()
        said = bytearray(cut_text(3, -4, struct.pack(">I", flags)))
        assert made.down.judge(said, 0, len(said)) == len(said)
        assert made.state.extended_clipboard is agreed


def test_a_plain_text_confirms_nothing() -> None:
    made = check(everything, "down", cut_text(3, 5, b"hello"))
    assert not made.state.extended_clipboard


# Fences, colour maps, empty messages.


def test_a_fence_may_be_empty() -> None:
    check(everything, "down", fence(1 << 31, b""))
    check(everything, "down", update())
    padded = b"\xf8\xaa\xbb\xcc" + fence(1 << 31)[4:]
    check(everything, "down", padded, fence(1 << 31))


def test_an_answer_is_due_once() -> None:
    def asked() -> Conversation:
        made = everything()
        for wire in (fence(1 << 31), fence(0)):
            said = bytearray(wire)
            assert made.down.judge(said, 0, len(said)) == len(said)
        request = bytearray(fence(1 << 31))
        assert made.up.judge(request, 0, len(request)) == len(request)
        return made

    check(asked, "down", fence(0) + fence(0, b"y") + BELL, fence(0) + BELL)


def test_colour_maps() -> None:
    def eight() -> Conversation:
        return in_format(COLOUR_MAP_8)

    passes(eight, "down", colour_map(0, 256), colour_map(255, 1), colour_map(256, 0))
    padded = b"\x01\xaa" + colour_map(0, 2)[2:]
    passes(eight, "down", padded, expected=colour_map(0, 2))
    where = "SetColourMapEntries"
    assert refused(eight, "down", colour_map(255, 2), 0, where) == "colour-map"
    # In true colour they are swallowed, if they make sense.
    check(everything, "down", colour_map(65_535, 1) + BELL, BELL)
    assert refused(everything, "down", colour_map(65_535, 2), 0, where) == "colour-map"
    passes(lambda: in_format(COLOUR_MAP_32), "down", colour_map(65_535, 1))


@pytest.mark.parametrize("number", sorted(encodings.SIGNALS - {encodings.LAST_RECT}))
def test_a_signal_is_no_rectangle(number: int) -> None:
    wire = update(rect(0, 0, 0, 0, number), count=2)
    rule = refused(everything, "down", wire, 4, "FramebufferUpdate > rectangle 0")
    assert rule == "encoding-not-offered"


def test_evidence_is_the_first_32_bytes() -> None:
    for wire, start in ((b"\x63" * 40, 0), (b"\x02" + b"\x63" * 5, 1)):
        buf = bytearray(wire + b"behind")
        with pytest.raises(ProtocolError) as caught:
            everything().down.judge(buf, 0, len(wire))
        assert caught.value.evidence == wire[start : start + 32]
