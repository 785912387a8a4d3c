"""`python -m bench.framing`: what reading a rectangle costs, encoding by encoding.

Microseconds for each rectangle, or each tile where an encoding has tiles, without any I/O: the
desktop's reader gets updates of one encoding in windows of 64 KiB. The rectangles are those of
recorded sessions (beside the checkout, or at $RELAY_SHARED), and made up where no session holds
the encoding. CPU time, the best of several rounds, for the machine may be busy. A bar that is not
met is marked, and makes the exit status 1.
"""

from __future__ import annotations

import itertools
import json
import lzma
import os
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from relay.limits import Limits
from relay.rfb import encodings, pixel_format
from relay.rfb.conversation import Conversation
from relay.rfb.handshake import ServerInit
from relay.rfb.pixel_format import PixelFormat

SHARED = Path(os.environ.get("RELAY_SHARED", Path(__file__).resolve().parents[2] / "shared"))

BARS_US = {5: 1.5, 7: 2.0}
"""By encoding: for a tile of Hextile, for a rectangle in Tight."""

TILES_PX = {5: 16, 8: 16, 15: 16}
ROUNDS = 7
RECTANGLES = 20_000
"""Read in a round, at least; a session's are repeated."""

WINDOW_BYTES = 65_536
SIDE_PX = 4096
RGB32 = pixel_format.parse(bytes.fromhex("2018000100ff00ff00ff100800000000"))


@dataclass
class Sample:
    """Rectangles of one encoding, header and payload, in one pixel format."""

    pixels: PixelFormat
    rectangles: list[bytes] = field(default_factory=list)


def _recorded(path: Path) -> Iterator[tuple[int, PixelFormat, bytes]]:
    """(encoding, pixel format, rectangle) of a session that changes its format once at most."""
    expected = json.loads(path.with_suffix("").with_suffix(".expected.json").read_text())
    changes = expected.get("pixel_format_changes", [])
    if not expected["rfb_session"] or len(changes) > 1:
        return
    raw = lzma.decompress(path.read_bytes())
    stream = b""
    at = 0
    while at < len(raw):
        way, _, length = struct.unpack_from(">BQI", raw, at)
        if way:
            stream += raw[at + 13 : at + 13 + length]
        at += 13 + length
    begins = expected["server_init"]["end"]
    said = expected["server_init"]["pixel_format"]
    for change in changes:
        begins, said = change["effective_at_server_offset"], change["pixel_format"]
    detail = lzma.decompress(path.with_suffix("").with_suffix(".detail.jsonl.xz").read_bytes())
    lines = [json.loads(line) for line in detail.splitlines()]
    lines = [line for line in lines if line.get("d", "s") == "s"]
    # A rectangle ends where the next one begins, or the next message.
    starts = sorted(line["off"] for line in lines if "rect" in line or "msg" in line)
    behind = dict(itertools.pairwise([*starts, len(stream)]))
    pixels = pixel_format.parse(bytes.fromhex(said))
    for line in lines:
        if "rect" in line and line["rect"] in encodings.REGISTRY and line["off"] >= begins:
            yield line["rect"], pixels, stream[line["off"] : behind[line["off"]]]


def _made_up() -> dict[int, bytes]:
    """A payload of 64x64 pixels at 32 bits for what no session holds."""
    jpeg = b"\xff\xd8\xff\xda\0\x08" + b"s" * 6 + b"data\xff\0" * 300 + b"\xff\xd9"
    return {
        8: (b"\x20\x01\x00" + b"z" * 256) * 16,
        10: struct.pack(">I", 500) + b"j" * 500,
        15: (b"\x82" + b"c" * 6 + b"\x80\x3f\x81\x7f" + b"\x00\x01" * 32) * 16,
        21: jpeg,
        50: struct.pack(">II", 500, 0) + b"h" * 500,
        -260: b"\xa0\xf4\x03" + b"\x89PNG" + b"p" * 496,
        -65527: struct.pack(">I", 500) + b"u" * 500,
        -223: b"",
        0x574D5664: b"\x01\0" + b"a" * (64 * 64 * 4),
        0x574D5665: b"\0\0",
        0x574D5666: b"",
        0x574D5667: b"r" * 10,
        0x574D5668: b"\0\0\0\0",
        0x574D566A: b"\0\0",
        -131072: b"",
    }


def samples() -> dict[int, tuple[str, Sample]]:
    """For each encoding where its rectangles come from, and the larger set in one format."""
    found: dict[tuple[int, PixelFormat], Sample] = {}
    for path in sorted((SHARED / "traces").glob("*.rec.xz")):
        for number, pixels, rectangle in _recorded(path):
            found.setdefault((number, pixels), Sample(pixels)).rectangles.append(rectangle)
    best = {
        number: ("made up", Sample(RGB32, [struct.pack(">HHHHi", 0, 0, 64, 64, number) + payload]))
        for number, payload in _made_up().items()
    }
    for (number, _), sample in found.items():
        source, other = best.get(number, ("made up", sample))
        if source == "made up" or len(sample.rectangles) > len(other.rectangles):
            best[number] = ("recorded", sample)
    return best


def _units(number: int, rectangles: list[bytes]) -> int:
    """Tiles, where there are some, or rectangles."""
    side = TILES_PX.get(number)
    if side is None:
        return len(rectangles)
    areas = (struct.unpack_from(">HH", rectangle, 4) for rectangle in rectangles)
    return sum(-(-w // side) * -(-h // side) for w, h in areas)


def cost_us(number: int, sample: Sample) -> float:
    """Microseconds for each tile or rectangle."""
    rectangles = sample.rectangles * -(-RECTANGLES // len(sample.rectangles))
    if sum(map(len, rectangles)) > 64 << 20:
        rectangles = rectangles[: (64 << 20) * len(rectangles) // sum(map(len, rectangles))]
    # Updates of 50, below what one may have in bytes.
    wire = b"".join(
        struct.pack(">BxH", 0, len(part)) + b"".join(part)
        for part in (rectangles[at : at + 50] for at in range(0, len(rectangles), 50))
    )
    best = float("inf")
    for _ in range(ROUNDS):
        init = ServerInit(SIDE_PX, SIDE_PX, sample.pixels, b"")
        down = Conversation(init, Limits(), passive=True).down
        buf = bytearray(WINDOW_BYTES * 2)
        view = memoryview(wire)
        tail = at = 0
        spent = 0.0
        while at < len(wire):
            # Payload is not copied in: the kernel would move it.
            at, opaque = at + down.opaque, min(down.opaque, len(wire) - at)
            down.moved(opaque)
            size = min(WINDOW_BYTES, len(wire) - at)
            buf[tail : tail + size] = view[at : at + size]
            at += size
            stop = tail + size
            began = time.thread_time()
            end = down.judge(buf, 0, stop)
            spent += time.thread_time() - began
            tail = stop - end
            buf[:tail] = buf[end:stop]
        best = min(best, spent)
    return best * 1e6 / _units(number, rectangles)


def main() -> int:
    over = False
    print(f"{'encoding':<42}{'us':>8}  {'for each':<10} {'from':<9} bar")
    for number, (source, sample) in sorted(samples().items(), reverse=True):
        us = cost_us(number, sample)
        bar = BARS_US.get(number)
        over |= bar is not None and us > bar
        what = "tile" if number in TILES_PX else "rectangle"
        said = "" if bar is None else f"{bar} {'met' if us <= bar else 'NOT MET'}"
        name = f"{number} {encodings.REGISTRY[number].name}"
        print(f"{name:<42}{us:8.2f}  {what:<10} {source:<9} {said}".rstrip())
    return over


if __name__ == "__main__":
    sys.exit(main())
