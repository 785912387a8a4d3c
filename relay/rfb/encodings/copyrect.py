"""CopyRect (RFC 6143, Section 7.7.2): where on the framebuffer to copy from."""

from __future__ import annotations

import struct

from relay.rfb.encodings.base import NEED, Prefixed
from relay.rfb.errors import Violation
from relay.rfb.state import State

_source = struct.Struct(">HH").unpack_from


class CopyRect(Prefixed):
    number = 1
    name = "CopyRect"
    element_limit_bytes = 4

    def measure(self, buf: bytearray, pos: int, stop: int, w: int, h: int, state: State) -> int:
        if stop - pos < 4:
            return NEED
        x, y = _source(buf, pos)
        # Viewers have copied from outside their framebuffer for it (CVE-2019-15692).
        if x + w > state.width or y + h > state.height:
            raise Violation(
                "copyrect-source", f"copies from {x},{y} {w}x{h}, outside the framebuffer"
            )
        return 4
