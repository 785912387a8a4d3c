"""Only ProtocolError escapes; what waits is bounded; what passed does not depend on the chunking.

Random bytes, and legal messages with random bytes changed, through both readers. Run as
`python -m fuzz.fuzz_conversation --secs 10 --seed 1`.
"""

from __future__ import annotations

import argparse
import random
import struct
import time

from relay.limits import Limits
from relay.rfb import encodings, from_desktop, from_viewer
from relay.rfb.conversation import Conversation
from relay.rfb.errors import ProtocolError
from relay.rfb.handshake import ServerInit
from relay.rfb.pixel_format import parse

INIT = ServerInit(
    64, 48, parse(struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)), b""
)
OFFERS = (*encodings.REGISTRY, *encodings.SIGNALS, -26)
NUMBERS = [number & 0xFFFFFFFF for number in OFFERS]


def update(rng: random.Random) -> bytes:
    """A FramebufferUpdate of a few rectangles with random content."""
    count = rng.randint(0, 3)
    rectangles = []
    for _ in range(count):
        area = (rng.randint(0, 8), 0, rng.randint(0, 40), rng.randint(0, 40))
        body = rng.randbytes(rng.choice((0, 1, 4, 8, 64, 2000)))
        rectangles.append(struct.pack(">HHHHI", *area, rng.choice(NUMBERS)) + body)
    return struct.pack(">BBH", 0, 0, count) + b"".join(rectangles)


def message(rng: random.Random) -> bytes:
    """One message of either side, likely to begin well."""
    kind = rng.choice((0, 0, 0, 1, 2, 3, 4, 5, 6, 150, 248, 251, 255))
    return update(rng) if kind == 0 else bytes([kind]) + rng.randbytes(rng.randint(0, 40))


def outcome(way: str, wire: bytes, cuts: list[int]) -> tuple[bytes, int | None]:
    """What was forwarded, and the offset of the error that ended it."""
    conversation = Conversation(INIT, Limits())
    offers = bytearray(struct.pack(f">BxH{len(OFFERS)}I", 2, len(OFFERS), *NUMBERS))
    conversation.up.judge(offers, 0, len(offers))
    down = way == "down"
    reader: from_desktop.FromDesktop | from_viewer.FromViewer = (
        conversation.down if down else conversation.up
    )
    limit = from_desktop.TAIL_LIMIT_BYTES if down else from_viewer.TAIL_LIMIT_BYTES
    tail, forwarded = b"", b""
    for first, behind in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        buf = bytearray(tail + wire[first:behind])
        try:
            end = reader.judge(buf, 0, len(buf))
        except ProtocolError as error:
            return b"", error.offset
        at = 0
        for start, stop, replacement in reader.edits:
            forwarded += bytes(buf[at:start]) + replacement
            at = stop
        forwarded += bytes(buf[at:end])
        tail = bytes(buf[end:])
        assert len(tail) <= limit, f"{len(tail)} bytes wait"
    return forwarded, None


def one(rng: random.Random) -> None:
    """One execution."""
    wire = b"".join(message(rng) for _ in range(rng.randint(1, 5)))
    way = rng.choice(("down", "up"))
    cuts = sorted(rng.sample(range(len(wire) + 1), min(len(wire), 5)))
    whole, split = outcome(way, wire, []), outcome(way, wire, cuts)
    assert whole == split, (way, wire.hex(), cuts, whole, split)


def main(arguments: list[str] | None = None) -> int:
    """Runs for a time and prints, and returns, the number of executions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--secs", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    end = time.monotonic() + options.secs
    count = 0
    while not count or time.monotonic() < end:
        one(rng)
        count += 1
    print(f"{count} executions")
    return count


if __name__ == "__main__":
    main()
