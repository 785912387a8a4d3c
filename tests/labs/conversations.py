"""Conversations in which something has been said: an offer, confirmations, a pixel format."""

from __future__ import annotations

import struct

from relay.limits import Limits
from relay.rfb import encodings
from relay.rfb.conversation import Conversation
from relay.rfb.from_desktop import FromDesktop
from relay.rfb.from_viewer import FromViewer
from relay.rfb.handshake import ServerInit
from relay.rfb.pixel_format import parse
from tests.labs.peers import INIT, PIXEL_FORMAT
from tests.labs.rfb_messages import END, EVERYTHING, cut_text, fence, offers, rect, update


def say(reader: FromDesktop | FromViewer, wire: bytes) -> None:
    """`wire` is said to one side of a conversation, and passes whole."""
    buf = bytearray(wire)
    assert reader.judge(buf, 0, len(buf)) == len(buf)


def conversation(
    *numbers: int, limits: Limits | None = None, init: ServerInit = INIT
) -> Conversation:
    """After a SetEncodings with these, of which none is cut; by default over 640x480 at 32 bits
    per pixel."""
    everything = encodings.REGISTRY.keys() | encodings.SIGNALS
    made = Conversation(init, limits or Limits(), let_through=everything)
    if numbers:
        say(made.up, offers(*numbers))
    return made


def everything() -> Conversation:
    """All that there is has been offered."""
    return conversation(*EVERYTHING)


def sized(width: int, height: int, *numbers: int) -> Conversation:
    """Of another size than 640x480; everything has been offered, or these."""
    init = ServerInit(width, height, parse(PIXEL_FORMAT), b"")
    return conversation(*(numbers or EVERYTHING), init=init)


def in_format(wanted: bytes) -> Conversation:
    """In another pixel format, of which these are the 16 bytes."""
    made = everything()
    say(made.up, b"\0\0\0\0" + wanted)
    return made


def confirmed() -> Conversation:
    """After the desktop has confirmed every extension that the viewer may then use."""
    made = everything()
    screen = struct.pack(">IHHHHI", 1, 0, 0, 640, 480, 0)
    say(
        made.down,
        update(
            rect(0, 0, 0, 0, -258),
            rect(0, 0, 0, 0, -316),
            rect(0, 0, 0, 0, -259),
            rect(0, 0, 640, 480, -308, b"\x01\0\0\0" + screen),
        )
        + END
        + fence(1 << 31)
        + b"\xfa\0\x01\x01"  # xvp
        + b"\xfd\x81\0\x04\0\x01\0\x01"  # gii
        + cut_text(3, -8, struct.pack(">II", 1 << 24 | 1, 100)),
    )
    return made
