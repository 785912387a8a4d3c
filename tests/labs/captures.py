"""Reads the captures of real VNC sessions that lie beside the checkout (or at $RELAY_SHARED)."""

from __future__ import annotations

import json
import lzma
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.labs.missing import missing
from tests.labs.places import ROOT

SHARED = Path(os.environ.get("RELAY_SHARED", ROOT.parent / "shared"))
TRACES = SHARED / "traces"

FROM_VIEWER, FROM_DESKTOP = 0, 1


@dataclass(frozen=True)
class Capture:
    """One recorded session: (direction, bytes) as received, and what others found in it."""

    name: str
    records: list[tuple[int, bytes]]
    expected: dict[str, Any]

    def stream(self, direction: int) -> bytes:
        return b"".join(data for way, data in self.records if way == direction)


def names() -> list[str]:
    """Names of all captures; empty where they are missing."""
    return sorted(p.name.removesuffix(".rec.xz") for p in TRACES.glob("*.rec.xz"))


def load(name: str) -> Capture:
    path = TRACES / f"{name}.rec.xz"
    if not path.exists():
        missing(f"no capture at {path}; set RELAY_SHARED")
    raw = lzma.decompress(path.read_bytes())
    records = []
    at = 0
    while at < len(raw):
        way, _, length = struct.unpack_from(">BQI", raw, at)
        at += 13
        records.append((way, raw[at : at + length]))
        at += length
    return Capture(name, records, json.loads((TRACES / f"{name}.expected.json").read_text()))
