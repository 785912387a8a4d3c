"""The handshake with a viewer, from RFC 6143, Section 7.1: every version, and what is refused."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
import trio

from relay import Reason
from tests.labs.peers import PIXEL_FORMAT, UPDATE_REQUEST, client_frame, memory_lab
from tests.labs.splits import chunkings

INIT = struct.pack(">HH", 640, 480) + PIXEL_FORMAT + b"\0\0\0\x03lab"

GREETS: dict[str, tuple[bytes, bytes]] = {
    "3.3": (b"RFB 003.003\n" + b"\x01", b"\0\0\0\x01" + INIT),
    "3.7": (b"RFB 003.007\n" + b"\x01\x01", b"\x01\x01" + INIT),
    "3.8": (b"RFB 003.008\n" + b"\x01\x01", b"\x01\x01" + b"\0\0\0\0" + INIT),
    "3.8, alone": (b"RFB 003.008\n" + b"\x01\x00", b"\x01\x01" + b"\0\0\0\0" + INIT),
}


async def greeted(pieces: list[bytes], down: bytes) -> None:
    """A session whose viewer says `pieces` at once: hears `down`, and is then relayed."""
    lab = memory_lab()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.run)
        for piece in pieces:
            await lab.viewer.send_all(client_frame(piece))
        assert await lab.frames.binary(len(down)) == down
        # Nothing of the handshake reaches the desktop.
        assert await lab.hear(10) == UPDATE_REQUEST
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", GREETS)
async def test_viewers_of_every_version(name: str) -> None:
    up, down = GREETS[name]
    wire = up + UPDATE_REQUEST
    for cuts in chunkings(len(wire)):
        bounds = [0, *cuts, len(wire)]
        pieces = [wire[a:b] for a, b in pairwise(bounds)]
        await greeted(pieces, b"RFB 003.008\n" + down)


@pytest.mark.parametrize(
    ("up", "rule", "offset", "evidence"),
    [
        (b"RFB 003.005\n", "viewer-version", 0, b"RFB 003.005\n"),
        (b"RFB 003.889\n", "viewer-version", 0, b"RFB 003.889\n"),
        (b"RFB 004.000\n", "viewer-version", 0, b"RFB 004.000\n"),
        (b"RFB 003.008\r", "viewer-version", 0, b"RFB 003.008\r"),
        (b"RFB 003.007\n\x02", "viewer-security", 12, b"\x02"),
        (b"RFB 003.008\n\x00", "viewer-security", 12, b"\x00"),
        (b"RFB 003.008\n\x13", "viewer-security", 12, b"\x13"),
    ],
)
async def test_viewers_that_are_refused(up: bytes, rule: str, offset: int, evidence: bytes) -> None:
    lab = memory_lab()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.run)
        await lab.viewer.send_all(client_frame(up) + client_frame(UPDATE_REQUEST))
        assert (await lab.frames.close())[0] == 1008
        await lab.viewer.aclose()
    assert lab.ended.reason is Reason.VIEWER_FAULT
    assert (lab.ended.rule, lab.ended.offset) == (rule, offset)
    assert lab.ended.evidence == evidence
