"""Only ProtocolError escapes; what waits is bounded; what goes up is whole, legal messages; and
what the viewer held down is released at the end.

A session's two legs, with frames, rights, and requests and formats that are held back.
"""

from __future__ import annotations

from fuzz.conversations import (
    ALL_RIGHTS,
    EXTENSIONS,
    QUALITY,
    SIZES,
    Feeder,
    conversation,
    cut,
    damaged,
    setting,
)
from fuzz.data import Data
from fuzz.messages import FROM_DESKTOP, FROM_VIEWER, some
from fuzz.rectangles import PIXEL_FORMATS, framed, update
from relay.net.websocket import BINARY, FrameReader, frame
from relay.pumps.leg import DownLeg, Pieces, UpLeg
from relay.rfb import from_desktop, from_viewer
from relay.rfb.errors import ProtocolError
from relay.rfb.fences import OUR_FENCE
from relay.rfb.rights import FULL, VIEW_ONLY, Rights

_RIGHTS = (ALL_RIGHTS, FULL, VIEW_ONLY, Rights(keyboard=False), Rights(clipboard_out=False))
_PAINTING = (0, *framed("plain"), *framed("tight"), *framed("pseudo"))
_OFFERS = (0, 1, 7, QUALITY, *EXTENSIONS)
_FRAME_LIMIT_BYTES = 1 << 20


class _Desktop:
    """What reaches the desktop, read as a desktop would: message by message."""

    def __init__(self, feeder: Feeder) -> None:
        self._feeder = feeder

    def take(self, sent: bytes) -> None:
        # A viewer may not send what only the relay may.
        self._feeder.feed(sent.replace(OUR_FENCE, bytes(len(OUR_FENCE))))
        assert not self._feeder.tail, "a message in pieces"

    def check_released(self) -> None:
        reader = self._feeder.reader
        assert isinstance(reader, from_viewer.FromViewer)
        assert not reader.opaque, "a message without its end"
        assert not reader.ledger.keys, "keys stay down"
        assert not reader.ledger.buttons, "buttons stay down"


def _feed(leg: UpLeg | DownLeg, arrived: bytes) -> bytes:
    buf = bytearray(leg.tail + arrived)
    with memoryview(buf) as view:
        pieces: Pieces = leg.take(buf, view, 0, len(buf))
        sent = b"".join(pieces)
        for piece in pieces:
            if isinstance(piece, memoryview):
                piece.release()
    return sent


def run(data: bytes) -> None:
    choices = Data(data)
    choice = choices.byte()
    pixel = PIXEL_FORMATS[(choice & 7) % len(PIXEL_FORMATS)]
    opened = setting(SIZES[choice >> 3 & 3], pixel, _OFFERS, True)
    made = conversation(opened, passive=False, rights=choices.pick(_RIGHTS))
    up = UpLeg(made.up, FrameReader(mask_expected=True, limit_bytes=_FRAME_LIMIT_BYTES), b"")
    down = DownLeg(made.down, b"")
    desktop = _Desktop(Feeder(conversation(opened, passive=True), "up"))
    viewer = FrameReader(mask_expected=False, limit_bytes=_FRAME_LIMIT_BYTES)
    for _ in range(choices.byte() % 10 + 1):
        made.flow.viewer_behind = choices.one_in(3)
        made.flow.desktop_behind = choices.one_in(3)
        if choices.one_in(8):
            made.flow.expire()
        if choices.one_in(16):
            made.set_rights(choices.pick(_RIGHTS))
        if choices.byte() & 1:
            said = damaged(choices, some(choices, FROM_VIEWER))
            for piece in cut(choices, frame(BINARY, said, b"mask")):
                desktop.take(_feed(up, piece))
                assert len(up.tail) <= from_viewer.TAIL_LIMIT_BYTES, "a tail without end"
                if up.fault:
                    break
        else:
            if choices.one_in(2):
                said = update(choices, _PAINTING, pixel)
            else:
                said = some(choices, FROM_DESKTOP)
            try:
                sent = [_feed(down, piece) for piece in cut(choices, damaged(choices, said))]
            except ProtocolError:
                break
            assert len(down.tail) <= from_desktop.TAIL_LIMIT_BYTES, "a tail without end"
            frames = bytearray(b"".join(sent))
            viewer.unframe(frames, 0, len(frames))
        if up.fault:
            break
        if made.flow.wake:
            desktop.take(b"".join(up.due()))
    desktop.take(up.farewell())
    desktop.check_released()
