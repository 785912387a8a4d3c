"""One session's RFB after the handshakes: two readers over what both sides know."""

from __future__ import annotations

from relay.rfb.encodings import REGISTRY
from relay.rfb.from_desktop import FromDesktop
from relay.rfb.from_viewer import FromViewer
from relay.rfb.handshake import ServerInit
from relay.rfb.state import Bounds, State


class Conversation:
    """`down.judge` reads what the desktop sends, `up.judge` what the viewer sends; `state` is
    what they share. Feed them in the order in which the bytes arrived: what one side may say
    depends on what the other has said."""

    __slots__ = ("down", "state", "up")

    def __init__(self, init: ServerInit, bounds: Bounds) -> None:
        self.state = State(init, bounds, REGISTRY[0])
        self.down = FromDesktop(self.state)
        self.up = FromViewer(self.state)
