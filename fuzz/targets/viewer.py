"""Only ProtocolError escapes; the tail is bounded; whole equals split; approved passes again.

What a viewer says, mostly after the desktop has confirmed every extension.
"""

from __future__ import annotations

from fuzz.conversations import EXTENSIONS, check_messages
from fuzz.data import Data
from fuzz.messages import FROM_VIEWER, some
from relay.rfb.pixel_format import PixelFormat


def _messages(data: Data, _: PixelFormat) -> bytes:
    return some(data, FROM_VIEWER)


def run(data: bytes) -> None:
    check_messages(data, "up", EXTENSIONS, _messages)
