"""JPEG images and what they consist of, written out from ITU-T T.81."""

from __future__ import annotations

import struct


def segment(marker: int, body: bytes) -> bytes:
    """A marker with its length (T.81, Section B.1.1.4)."""
    return struct.pack(">BBH", 0xFF, marker, 2 + len(body)) + body


def frame_header(w: int, h: int, marker: int = 0xC0) -> bytes:
    """One component (T.81, Section B.2.2)."""
    return segment(marker, struct.pack(">BHHB", 8, h, w, 1) + b"\x01\x11\x00")


SOI, EOI = b"\xff\xd8", b"\xff\xd9"
TABLES = segment(0xDB, b"\x00" + b"q" * 64) + segment(0xC4, b"\x00" + b"\0" * 16)
SCAN = segment(0xDA, b"\x01\x01\x00\x00\x3f\x00")
DATA = b"ab\xff\x00cd\xff\xd0ef\xff\x00\xff\xd7\x00\xd9"

IMAGE = SOI + segment(0xE0, b"JFIF\0") + TABLES + frame_header(16, 8) + SCAN + DATA + EOI
"""Of 16x8."""


def image_of(size_bytes: int) -> bytes:
    """An image of so many bytes, most of them in a segment and in a scan."""
    rest = size_bytes - len(SOI + SCAN + EOI) - 4
    return SOI + segment(0xE0, b"\0" * (rest // 2)) + SCAN + b"d" * (rest - rest // 2) + EOI
