"""zlibhex (community specification, zlibhex Encoding): Hextile with tiles that are deflated."""

from __future__ import annotations

from relay.rfb.encodings.hextile import Hextile

_RAW, _ZLIB_RAW, _ZLIB, _UNUSED = 1, 32, 64, 128


class ZlibHex(Hextile):
    number = 8
    name = "zlibhex"
    # By the specification ZlibRaw cancels the other bits; UltraVNC's viewer looks at Raw first.
    # Which way such a tile is read decides where it ends, so Raw with either is refused.
    deflated = frozenset(
        mask for mask in range(256) if mask & (_ZLIB_RAW | _ZLIB) and not mask & (_RAW | _UNUSED)
    )
