"""CoRRE (community specification, CoRRE Encoding): RRE with sub-rectangles of one byte a side."""

from __future__ import annotations

import struct

from relay.rfb.encodings.rre import RRE


class CoRRE(RRE):
    """Rectangles wider or higher than 255 are legal: a desktop just cannot paint all of them."""

    number = 4
    name = "CoRRE"
    element_limit_bytes = 4 + 4
    area = struct.Struct(">BBBB")
