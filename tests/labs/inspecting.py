"""Records for inspection tests, and what comes of them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from typing import Any

from relay.limits import Limits
from relay.recordings.file import Record
from relay.recordings.inspection import Element, Inspection
from relay.rfb.errors import Direction
from tests.labs.peers import PIXEL_FORMAT

UP, DOWN = Direction.UP, Direction.DOWN

VERSION = {minor: b"RFB 003.00%d\n" % minor for minor in (3, 7, 8)}
INIT = struct.pack(">HH16sI", 640, 480, PIXEL_FORMAT, 3) + b"lab"
OK = b"\0\0\0\0"
BELL, KEY = b"\2", b"\4\1\0\0\0\0\0a"

START = {DOWN: VERSION[8] + b"\1\1" + OK + INIT, UP: VERSION[8] + b"\1\1"}
"""A handshake of RFB 3.8 with None (RFC 6143, Sections 7.1 and 7.3)."""


def ignore(_element: Element) -> None:
    pass


def records(pieces: Iterable[tuple[Direction, bytes]]) -> list[Record]:
    return [Record(way, at, data) for at, (way, data) in enumerate(pieces) if data]


def inspected(given: Iterable[Record], show: Callable[[Element], None] = ignore) -> Inspection:
    inspection = Inspection(Limits(), show)
    for record in given:
        inspection.feed(record)
    return inspection


def agree(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """As text: 1 is not "1", and keys have an order."""
    assert {key: json.dumps(found[key]) for key in wanted} == {
        key: json.dumps(value) for key, value in wanted.items()
    }
