"""Where the fuzzing of a target begins: its corpus, and messages of recorded sessions."""

from __future__ import annotations

import functools
import json
import lzma
import os
import struct
from itertools import pairwise
from pathlib import Path

from fuzz.rectangles import GROUPS

CORPUS = Path(__file__).parent / "corpus"
TRACES = Path(os.environ.get("RELAY_SHARED", CORPUS.parents[2] / "shared")) / "traces"

_MESSAGE_LIMIT_BYTES = 4096
_PER_KIND = 12

# Of an input for one direction: 32 bits per pixel, the largest framebuffer, everything offered,
# no cuts chosen, and then the bytes themselves.
_OPENING = bytes([2 << 3]) + bytes(10) + b"\0"


def corpus(target: str) -> dict[str, bytes]:
    """Inputs by file name."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / target).glob("*"))}


@functools.cache
def _recorded() -> dict[str, list[bytes]]:
    """By target, the first messages of each kind in each recorded session; nothing where the
    recordings are not."""
    group_of = {number: name for name, group in GROUPS.items() for number in group}
    found: dict[tuple[str, object], list[bytes]] = {}
    for path in sorted(TRACES.glob("*.rec.xz")):
        detail = path.with_name(path.name.replace(".rec.xz", ".detail.jsonl.xz"))
        told = lzma.decompress(detail.read_bytes()).splitlines()
        lines = [{"d": "s"} | json.loads(line) for line in told]
        streams = _streams(lzma.decompress(path.read_bytes()))
        for side, stream in streams.items():
            starts = [line["off"] for line in lines if line["d"] == side and "msg" in line]
            for start, end in pairwise((*starts, len(stream))):
                message = stream[start : min(end, start + _MESSAGE_LIMIT_BYTES)]
                target: str = "viewer"
                kind: object = (path.name, message[0])
                if side == "s":
                    target = "desktop_messages"
                    if message[0] == 0 and len(message) >= 16:
                        (number,) = struct.unpack_from(">i", message, 12)
                        target = f"desktop_{group_of.get(number, 'messages')}"
                        kind = (path.name, number)
                kept = found.setdefault((target, kind), [])
                if len(kept) < _PER_KIND:
                    kept.append(_OPENING + message)
    by_target: dict[str, list[bytes]] = {}
    for (target, _), inputs in found.items():
        by_target.setdefault(target, []).extend(inputs)
    return by_target


def _streams(raw: bytes) -> dict[str, bytes]:
    """The bytes from the client and from the server. A record is a direction, a time, a length."""
    streams = {"c": bytearray(), "s": bytearray()}
    at = 0
    while at < len(raw):
        way, _, length = struct.unpack_from(">BQI", raw, at)
        at += 13
        streams["s" if way else "c"] += raw[at : at + length]
        at += length
    return {side: bytes(stream) for side, stream in streams.items()}


def seeds(target: str) -> list[bytes]:
    return [*corpus(target).values(), *_recorded().get(target, [])]
