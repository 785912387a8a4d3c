"""Only ProtocolError escapes; both tails are bounded; in any pieces it comes to the same.

Both directions in one conversation: what one side may say depends on what the other has said.
"""

from __future__ import annotations

from collections.abc import Sequence

from fuzz.conversations import (
    EXTENSIONS,
    QUALITY,
    SIZES,
    Fault,
    Feeder,
    Setting,
    conversation,
    cut,
    damaged,
    known,
    setting,
)
from fuzz.data import Data
from fuzz.messages import FROM_DESKTOP, FROM_VIEWER, some
from fuzz.rectangles import PIXEL_FORMATS, framed, update
from relay.rfb.errors import ProtocolError

_PAINTING = (0, *framed("plain"), *framed("tight"), *framed("pseudo"))
_OFFERS = (0, 1, 7, QUALITY, *EXTENSIONS)

Steps = list[tuple[str, Sequence[bytes]]]
"""Who speaks, and the pieces in which the bytes arrive."""


def _outcome(opened: Setting, steps: Steps, *, unseen: bool) -> tuple[object, ...]:
    """What was forwarded either way, what ended it, and what is known then."""
    made = conversation(opened, passive=True)
    feeders = {way: Feeder(made, way, unseen=unseen) for way in ("down", "up")}
    fault: tuple[str, Fault] | None = None
    for way, pieces in steps:
        feeder = feeders[way]
        before = feeder.forwarded
        try:
            for piece in pieces:
                feeder.feed(piece)
        except ProtocolError as error:
            fault = way, (error.offset - feeder.at, error.rule, error.where)
            # How much of its last words a side gets through does depend on the pieces.
            feeder.forwarded = before
            break
    forwarded = [feeder.forwarded for feeder in feeders.values()]
    if fault:
        return fault, forwarded
    return fault, forwarded, [feeder.tail for feeder in feeders.values()], known(made)


def run(data: bytes) -> None:
    choices = Data(data)
    choice = choices.byte()
    pixel = PIXEL_FORMATS[(choice & 7) % len(PIXEL_FORMATS)]
    opened = setting(SIZES[choice >> 3 & 3], pixel, _OFFERS, choice >> 5 < 6)
    whole: Steps = []
    split: Steps = []
    held = {"down": b"", "up": b""}
    for _ in range(choices.byte() % 8 + 1):
        way = "up" if choices.byte() & 1 else "down"
        if way == "up":
            said = some(choices, FROM_VIEWER)
        elif choices.one_in(2):
            said = update(choices, _PAINTING, pixel)
        else:
            said = some(choices, FROM_DESKTOP)
        said = held[way] + damaged(choices, said)
        held[way] = b""
        if choices.one_in(4):
            # The end of it comes later, with the other side in between.
            at = choices.u16() % (len(said) + 1)
            said, held[way] = said[:at], said[at:]
        whole.append((way, [said]))
        split.append((way, cut(choices, said)))
    one, other = _outcome(opened, whole, unseen=False), _outcome(opened, split, unseen=True)
    assert one == other, ([(way, pieces[0].hex()) for way, pieces in whole], split, one, other)
