"""The head of a cut text message, the same in both directions (RFC 6143, Sections 7.5.6 and
7.6.4; community specification, Extended Clipboard Pseudo-encoding)."""

from __future__ import annotations

import struct

from relay.rfb.errors import Violation

HEAD_BYTES = 8
"""Type, padding, length."""

_length = struct.Struct(">i").unpack_from
_flags = struct.Struct(">I").unpack_from

_FORMATS = 0x0000FFFF
_CAPS = 1 << 24
_REQUEST, _PEEK, _NOTIFY, _PROVIDE = 1 << 25, 1 << 26, 1 << 27, 1 << 28
_ACTIONS = (_REQUEST, _PEEK, _NOTIFY, _PROVIDE)
_RESERVED = ~(_FORMATS | _CAPS | _REQUEST | _PEEK | _NOTIFY | _PROVIDE)


def announced(buf: bytearray, pos: int, extended: bool) -> int:
    """Bytes that follow the head, which must have arrived. A negative length means the
    extended form, which only a peer that agreed to it may send. Raises Violation."""
    (length,) = _length(buf, pos + 4)
    if length >= 0:
        return int(length)
    # -2^31 has no absolute value in 32 bits; TigerVNC's readers stumble over it.
    if not extended or length > -4 or length == -(2**31):
        raise Violation("cut-text-length", f"a cut text of length {length}")
    return -int(length)


def is_extended(buf: bytearray, pos: int) -> bool:
    return buf[pos + 4] > 127


def is_capabilities(buf: bytearray, pos: int) -> bool:
    return is_extended(buf, pos) and bool(_flags(buf, pos + HEAD_BYTES)[0] & _CAPS)


def concerns(buf: bytearray, pos: int) -> tuple[bool, bool]:
    """Whether an extended message is about the clipboard of its sender, and of its receiver."""
    (flags,) = _flags(buf, pos + HEAD_BYTES)
    if flags & _CAPS:
        return True, True
    return bool(flags & (_NOTIFY | _PROVIDE)), bool(flags & (_REQUEST | _PEEK))


def check_flags(buf: bytearray, pos: int, length: int) -> None:
    """The flags word of an extended message of `length` bytes behind its head. Raises Violation."""
    (flags,) = _flags(buf, pos + HEAD_BYTES)
    if flags & _RESERVED:
        raise Violation("clipboard-flags", f"extended clipboard flags 0x{flags:08x}")
    if flags & _CAPS:
        # A capabilities message names the actions it supports, and a size for each format.
        # TigerVNC accepts longer ones, so only shorter ones break the rule here.
        if length < 4 + 4 * (flags & _FORMATS).bit_count():
            raise Violation("clipboard-caps", f"clipboard capabilities of {length} bytes")
    elif sum(1 for action in _ACTIONS if flags & action) != 1:
        raise Violation(
            "clipboard-action", f"extended clipboard flags 0x{flags:08x} name not one action"
        )
    elif not flags & _PROVIDE and length != 4:
        raise Violation(
            "clipboard-length", f"an extended clipboard message of {length} bytes where 4 are due"
        )
