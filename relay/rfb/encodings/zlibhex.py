"""zlibhex (community specification, zlibhex Encoding): Hextile with tiles that are deflated."""

from __future__ import annotations

from relay.rfb.encodings.hextile import Hextile

_ZLIB_RAW, _UNUSED = 32, 128


class ZlibHex(Hextile):
    number = 8
    name = "zlibhex"
    # By the specification ZlibRaw cancels the other bits; UltraVNC's viewer looks at Raw first.
    # Which way such a tile is read decides where it ends, so Raw (odd) with either is refused.
    deflated = frozenset(range(_ZLIB_RAW, _UNUSED, 2))
