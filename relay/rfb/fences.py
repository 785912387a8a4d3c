"""Fences, the same in both directions (community specification, ClientFence and ServerFence), and
the relay's own among them."""

from __future__ import annotations

import struct

FENCE_LIMIT_BYTES = 64
"""A fence's payload."""

BLOCK_BEFORE, SYNC_NEXT, FENCE_REQUEST = 1, 4, 1 << 31
"""Flags of a fence."""

OUR_FENCE = b"\0deskrelay"
"""How the payload of the relay's own fences begins; a viewer's must not."""

FOR_FORMAT, FOR_LIST = b"F", b"L"
"""What a fence of the relay's own is for; its payload goes on with that, and a number."""

_head = struct.Struct(">BxxxIB").pack


def fence(flags: int, payload: bytes) -> bytes:
    """A ClientFence or ServerFence."""
    return _head(248, flags, len(payload)) + payload


def our_fence(flags: int, purpose: bytes, number: int) -> bytes:
    """The message of one of the relay's own, a request."""
    return fence(FENCE_REQUEST | flags, OUR_FENCE + purpose + number.to_bytes(4, "big"))


def read_ours(payload: bytes) -> tuple[bytes, int]:
    """Purpose and number of one of the relay's own; a desktop can answer with any."""
    return payload[len(OUR_FENCE) : -4], int.from_bytes(payload[-4:], "big")
