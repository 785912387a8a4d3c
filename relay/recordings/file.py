"""Recordings: what both sides of one connection sent, in the order in which it arrived.

A file is a sequence of records without a header, plain or compressed as xz. A record is, big
endian, who sent it (u8: 0 the viewer, 1 the desktop), when (u64: microseconds since the
connection was accepted), a length (u32), and as many bytes. Length 0 means that this side closed.
"""

from __future__ import annotations

import lzma
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from relay.rfb.errors import Direction

_HEAD = struct.Struct(">BQI")
_DIRECTIONS = (Direction.UP, Direction.DOWN)
_XZ_MAGIC = b"\xfd7zXZ\0"

PIECE_BYTES = 65_536
"""A longer record comes in pieces: its length is the file's word and may be 4 GiB."""


class RecordingError(Exception):
    """A file that cannot be read, or is no whole recording; the text says which and where."""


@dataclass(frozen=True, slots=True)
class Record:
    """Bytes that one side sent; none when it closed."""

    direction: Direction
    t_us: int
    data: bytes


def read(path: Path) -> Iterator[Record]:
    """The records of a file, one after the other. Raises RecordingError, also after some."""
    try:
        with path.open("rb") as raw:
            compressed = raw.peek(len(_XZ_MAGIC)).startswith(_XZ_MAGIC)
            with lzma.open(raw) if compressed else raw as file:
                yield from _records(file)
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror or error}") from None
    except lzma.LZMAError as error:
        raise RecordingError(f"{path}: this xz file is damaged: {error}") from None
    except (EOFError, ValueError) as error:
        raise RecordingError(f"{path}: {error}") from None


def _records(file: IO[bytes]) -> Iterator[Record]:
    """Raises ValueError at what is no record."""
    at = 0
    while head := file.read(_HEAD.size):
        if head[0] >= len(_DIRECTIONS):
            raise ValueError(f"this is no recording: byte {at} is {head[0]}, and not 0 or 1")
        if len(head) < _HEAD.size:
            raise ValueError(f"the file ends inside the record at byte {at}")
        way, t_us, length = _HEAD.unpack(head)
        direction = _DIRECTIONS[way]
        if not length:
            yield Record(direction, t_us, b"")
        left = length
        while left:
            data = file.read(min(left, PIECE_BYTES))
            if not data:
                raise ValueError(f"the file ends inside the record at byte {at}")
            left -= len(data)
            yield Record(direction, t_us, data)
        at += _HEAD.size + length
    if not at:
        raise ValueError("this is no recording: it is empty")
