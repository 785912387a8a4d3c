"""Recorded sessions (beside the checkout, or at $RELAY_SHARED) as steps: who sends what when.

A session is gone through again and again, so that only those are taken which end as they began.
"""

from __future__ import annotations

import json
import lzma
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench.framing import SHARED
from relay.rfb import encodings

FROM_VIEWER, FROM_DESKTOP = 0, 1
FRAMEBUFFER_UPDATE, BELL = 0, 2
SET_ENCODINGS, UPDATE_REQUEST, ENABLE_CONTINUOUS_UPDATES = 2, 3, 150
EXTENDED_POINTER = -316
PADDING = {0: (1,), 1: (1,), 3: (1, 2, 3), 248: (1, 2, 3)}
"""By a desktop's message type: bytes that mean nothing, and that a relay may clear."""


class _Message(NamedTuple):
    """A whole message, by its offsets in the recorded stream, as an independent parser says."""

    way: int
    number: int
    begins: int
    ends: int


@dataclass
class Step:
    """What one side sends in one go, once the other has sent `behind` bytes. In the recorded
    streams it begins at `offset`, when the other had sent `heard_bytes`, handshake and all. For
    the desktop also how many SetEncodings and EnableContinuousUpdates the viewer had sent before
    it, how many updates end in it, and whether the viewer has asked since the last step."""

    data: bytes
    behind: int
    heard_bytes: int
    offset: int
    lists: int = 0
    enables: int = 0
    updates: int = 0
    asked: bool = False


@dataclass
class Capture:
    """One recorded session behind its handshake. `pixel_format` is the desktop's own."""

    pixel_format: bytes
    viewer: list[Step]
    desktop: list[Step]

    @property
    def stream(self) -> bytes:
        """All that the desktop sends."""
        return b"".join(step.data for step in self.desktop)


def left_out(expected: dict[str, Any], first_update: int) -> str:
    """Why a capture cannot be gone through again and again; empty when it can."""
    if not expected["rfb_session"]:
        return "no RFB session"
    rectangles = {int(number) for number in expected["rects"]}
    init = expected["server_init"]
    formats = [change["effective_at_server_offset"] for change in expected["pixel_format_changes"]]
    reasons = {
        "encodings that are not relayed": rectangles - set(encodings.REGISTRY) - {-224},
        "changes its pixel format": [at for at in formats if at > first_update],
        "changes its size": [init["width"], init["height"]] != expected["final_framebuffer"],
        "pointer messages of two sizes": EXTENDED_POINTER in rectangles,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def captures() -> tuple[list[Path], dict[str, str]]:
    """Those that can be replayed, and the others' names with the reason."""
    usable, reasons = [], {}
    for path in sorted((SHARED / "traces").glob("*.rec.xz")):
        expected = _expected(path)
        updates = (m for m in _messages(path) if (m.way, m.number) == (FROM_DESKTOP, 0))
        first = next(updates, None)
        reason = left_out(expected, first.begins if first else 0)
        if reason:
            reasons[path.name] = reason
        else:
            usable.append(path)
    return usable, reasons


def _expected(path: Path) -> dict[str, Any]:
    text = path.with_suffix("").with_suffix(".expected.json").read_text()
    expected: dict[str, Any] = {"pixel_format_changes": []} | json.loads(text)
    return expected


def _messages(path: Path) -> list[_Message]:
    raw = lzma.decompress(path.with_suffix("").with_suffix(".detail.jsonl.xz").read_bytes())
    messages = []
    begun = {}
    for line in map(json.loads, raw.splitlines()):
        way = FROM_VIEWER if line.get("d") == "c" else FROM_DESKTOP
        if "msg" in line:
            begun[way] = line["off"]
        elif "done" in line:
            messages.append(_Message(way, line["done"], begun[way], line["end"]))
    return messages


def read(path: Path) -> Capture:
    """The steps of a capture: each is what one side sent before the other sent more."""
    expected = _expected(path)
    messages = _messages(path)
    zero = {
        message.begins + at
        for message in messages
        if message.way == FROM_DESKTOP
        for at in PADDING.get(message.number, ())
    }
    # Faster than anybody can hear: a relay may drop them.
    bells = {m.begins for m in messages if (m.way, m.number) == (FROM_DESKTOP, BELL)}
    begins = [expected["client_messages_start"], expected["server_init"]["end"]]
    steps: list[list[Step]] = [[], []]
    offsets, sent = [0, 0], [0, 0]
    last = None
    for way, data in _records(path):
        start = offsets[way]
        offsets[way] += len(data)
        own = bytearray(data[max(0, begins[way] - start) :])
        if way == FROM_DESKTOP:
            first = offsets[way] - len(own)
            own = bytearray(
                0 if first + at in zero else byte
                for at, byte in enumerate(own)
                if first + at not in bells
            )
        if not own:
            continue
        if way != last:
            steps[way].append(Step(b"", sent[not way], offsets[not way], start))
            last = way
        steps[way][-1].data += own
        sent[way] += len(own)
    _count(steps[FROM_DESKTOP], messages)
    pixel_format = bytes.fromhex(expected["server_init"]["pixel_format"])
    return Capture(pixel_format, steps[FROM_VIEWER], steps[FROM_DESKTOP])


def _records(path: Path) -> Iterator[tuple[int, bytes]]:
    raw = lzma.decompress(path.read_bytes())
    at = 0
    while at < len(raw):
        way, _, length = struct.unpack_from(">BQI", raw, at)
        at += 13 + length
        yield way, raw[at - length : at]


def _count(steps: list[Step], messages: list[_Message]) -> None:
    """What the desktop's steps have to wait for."""
    asked_before = 0
    ends = [step.offset for step in steps[1:]] + [sys.maxsize]
    for step, end in zip(steps, ends, strict=True):
        step.updates = sum(
            (m.way, m.number) == (FROM_DESKTOP, FRAMEBUFFER_UPDATE) and step.offset < m.ends <= end
            for m in messages
        )
        heard = Counter(
            m.number for m in messages if m.way == FROM_VIEWER and m.ends <= step.heard_bytes
        )
        step.lists = heard[SET_ENCODINGS]
        step.enables = heard[ENABLE_CONTINUOUS_UPDATES]
        # In continuous updates a request is no more than a courtesy, and goes no further.
        step.asked = heard[UPDATE_REQUEST] > asked_before and not step.enables
        asked_before = heard[UPDATE_REQUEST]
