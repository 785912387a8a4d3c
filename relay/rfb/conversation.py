"""One session's RFB after the handshakes: two readers over what both sides know."""

from __future__ import annotations

from collections.abc import Callable, Collection

from relay.rfb.encodings import LET_THROUGH, REGISTRY, SIGNALS
from relay.rfb.flow import Flow
from relay.rfb.from_desktop import FromDesktop
from relay.rfb.from_viewer import FromViewer
from relay.rfb.handshake import ServerInit
from relay.rfb.rights import FULL, Rights
from relay.rfb.state import Bounds, State


class Conversation:
    """`down.judge` reads what the desktop sends, `up.judge` what the viewer sends; `state` is
    what they share. Feed them in the order in which the bytes arrived: what one side may say
    depends on what the other has said.

    `let_through` are the encodings that a viewer may offer. A `passive` conversation looks at
    what others recorded: everything that is framed counts as offered, and nothing is held back.
    `clock` tells seconds, for what may happen only so often; without one anything may.
    """

    __slots__ = ("down", "flow", "state", "up")

    def __init__(
        self,
        init: ServerInit,
        bounds: Bounds,
        *,
        rights: Rights = FULL,
        let_through: Collection[int] = LET_THROUGH,
        passive: bool = False,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if passive:
            let_through = REGISTRY.keys() | SIGNALS
        self.state = state = State(init, bounds, rights, let_through)
        self.flow = Flow(state, passive=passive)
        self.down = FromDesktop(state, self.flow, clock)
        self.up = FromViewer(state, self.flow, clock)
        if passive:
            self.flow.offers.offer(frozenset(let_through))
            state.jpeg_offered = True

    def set_rights(self, rights: Rights) -> None:
        """From now on. What is held down with a right that is lost will be released."""
        self.state.rights = rights
        self.flow.releases += self.up.ledger.release(
            relative=self.state.pointer_relative,
            keys=not rights.keyboard,
            buttons=not rights.pointer,
        )
        self.flow.wake = True
