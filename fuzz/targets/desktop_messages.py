"""Only ProtocolError escapes; the tail is bounded; whole equals split; approved passes again.

What a desktop says beside updates: cut text, fences, colour maps, ends of continuous updates.
"""

from __future__ import annotations

from fuzz.conversations import EXTENSIONS, check_messages
from fuzz.data import Data
from fuzz.messages import FROM_DESKTOP, some
from relay.rfb.pixel_format import PixelFormat


def _messages(data: Data, _: PixelFormat) -> bytes:
    return some(data, FROM_DESKTOP)


def run(data: bytes) -> None:
    check_messages(data, "down", (0, 1, *EXTENSIONS), _messages)
