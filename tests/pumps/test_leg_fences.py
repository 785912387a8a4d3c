"""A fence ends its WebSocket frame: a browser hands a frame on when it is complete."""

from __future__ import annotations

import struct

from relay.pumps.leg import DownLeg
from relay.rfb.from_desktop import CUTS_LIMIT
from tests.labs.conversations import conversation
from tests.labs.rfb_messages import fence, raw


def payloads(wire: bytes) -> list[bytes]:
    """Of the server's frames in `wire`."""
    found = []
    while wire:
        size, at = wire[1], 2
        if size == 126:
            (size,), at = struct.unpack_from(">H", wire, 2), 4
        found.append(wire[at : at + size])
        wire = wire[at + size :]
    return found


def frames(data: bytes) -> list[bytes]:
    """The payloads of what the desktop's `data` becomes, when it comes at once."""
    leg = DownLeg(conversation(0, -312).down, b"")
    buf = bytearray(data)
    return payloads(b"".join(leg.take(buf, memoryview(buf), 0, len(buf))))


PING = fence(1 << 31, b"ping")


def test_a_fence_ends_its_frame() -> None:
    assert frames(raw() + PING + raw() + raw()) == [raw() + PING, raw() + raw()]
    assert frames(PING + raw() + PING) == [PING, raw() + PING]
    assert frames(raw()) == [raw()]


def test_a_flood_of_fences_becomes_few_frames() -> None:
    assert frames(PING * 1000) == [PING] * CUTS_LIMIT + [PING * (1000 - CUTS_LIMIT)]


def test_cuts_are_of_one_window() -> None:
    leg = DownLeg(conversation(0, -312).down, b"")
    for data, expected in ((PING + raw(), [PING, raw()]), (raw(), [raw()])):
        buf = bytearray(data)
        pieces = leg.take(buf, memoryview(buf), 0, len(buf))
        assert payloads(b"".join(pieces)) == expected
