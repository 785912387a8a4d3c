"""A talk between a viewer and a desktop, in whole messages; tests/rfb/conftest.py has fixtures of
it. Messages to say are in `rfb_messages`."""

from __future__ import annotations

import pytest

from relay.net.websocket import FrameReader, frame
from relay.pumps.leg import DownLeg, UpLeg
from relay.rfb.conversation import Conversation
from relay.rfb.errors import ProtocolError


class Talk:
    """A conversation whose two sides are fed whole messages; `up` returns what the desktop gets."""

    def __init__(self, made: Conversation) -> None:
        self.conversation = made
        self.flow = made.flow
        frames = FrameReader(mask_expected=True, limit_bytes=1 << 20)
        self._down = DownLeg(made.down, b"")
        self._up = UpLeg(made.up, frames, b"")

    def up(self, data: bytes) -> bytes:
        buf = bytearray(frame(2, data, b"mask"))
        return b"".join(self._up.take(buf, memoryview(buf), 0, len(buf)))

    def down(self, data: bytes) -> bytes:
        """What goes up because of what the desktop said."""
        buf = bytearray(data)
        self._down.take(buf, memoryview(buf), 0, len(buf))
        assert not self._down.tail
        assert not self.conversation.down.opaque, "not as long as it was meant to be"
        return b"".join(self._up.due()) if self.flow.wake else b""

    def shown(self, data: bytes, piece_bytes: int = 0) -> bytes:
        """What the viewer sees of what the desktop says, in pieces of so many bytes."""
        frames = FrameReader(mask_expected=False, limit_bytes=1 << 20)
        seen = b""
        for at in range(0, len(data), piece_bytes or len(data)):
            buf = bytearray(self._down.tail + data[at : at + (piece_bytes or len(data))])
            sent = bytearray(b"".join(self._down.take(buf, memoryview(buf), 0, len(buf))))
            seen += sent[: frames.unframe(sent, 0, len(sent))]
        return seen

    def refused(self, data: bytes) -> str:
        """The rule that the desktop breaks with it."""
        with pytest.raises(ProtocolError) as caught:
            self.down(data)
        return caught.value.rule

    def due(self) -> bytes:
        return b"".join(self._up.due())

    def farewell(self) -> bytes:
        """What goes up at the session's end."""
        return self._up.farewell()

    def waiting(self) -> bool:
        return self.flow.waiting

    def rule(self) -> str:
        """The rule that the viewer broke; empty if none."""
        return self._up.fault.rule if self._up.fault else ""

    @property
    def bits(self) -> int:
        return self.conversation.state.pixel_format.bits_per_pixel
