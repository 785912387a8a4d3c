"""What is in a recording: every message, and what they add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from relay.limits import Limits
from relay.recordings.file import Record
from relay.rfb import describe
from relay.rfb.conversation import Conversation
from relay.rfb.errors import Direction, ProtocolError
from relay.rfb.from_desktop import FromDesktop
from relay.rfb.from_viewer import FromViewer
from relay.rfb.observed_handshake import ObservedHandshake

_NAMES = {Direction.UP: "client_to_server", Direction.DOWN: "server_to_client"}

_FRAMEBUFFER_UPDATE = 0


@dataclass(frozen=True, slots=True)
class Element:
    """A part of the handshake, a message, or a rectangle of the update before it. `t_us` is when
    enough of it had arrived to tell what it is; `offset` counts from the first byte of its
    direction."""

    t_us: int
    direction: Direction
    offset: int
    name: str
    details: str
    is_rectangle: bool = False


Show = Callable[[Element], None]


class _Side:
    """One direction, from `start` on, where the handshake ended. Keeps the tail as a leg does."""

    def __init__(self, reader: FromDesktop | FromViewer, start: int, show: Show) -> None:
        reader.observer = self._note
        self.reader = reader
        self.broken = False
        self.messages: Counter[int] = Counter()
        self.rectangles: Counter[int] = Counter()
        # The last of each, which may still be under way.
        self.message = self.rectangle = -1
        self._start = start
        self._show = show
        self._t_us = 0
        self._tail = b""
        self._window = b""
        self._offset = 0

    def feed(self, t_us: int, data: bytes) -> None:
        """Raises ProtocolError, its offset counted as in Element."""
        # The reader writes into what it judges; shown is what was sent.
        self._window = self._tail + data
        self._offset = self.reader.offset
        self._t_us = t_us
        try:
            end = self.reader.judge(bytearray(self._window), 0, len(self._window))
        except ProtocolError as error:
            self.broken = True
            error.offset += self._start
            raise
        self._tail = self._window[end:]

    def _note(self, kind: str, number: int, offset: int) -> None:
        direction = self.reader.direction
        pos = offset - self._offset
        is_rectangle = kind == "rectangle"
        if is_rectangle:
            self.rectangle = number
            self.rectangles[number] += 1
            name, details = describe.rectangle(self._window, pos)
        else:
            self.message = number
            self.messages[number] += 1
            name, details = describe.message(direction, self._window, pos)
        at = self._start + offset
        self._show(Element(self._t_us, direction, at, name, details, is_rectangle))


def _whole(counted: Counter[int], last: int, under_way: bool) -> Counter[int]:
    return counted - Counter([last] if under_way else [])


class Inspection:
    """Reads records one after the other; `show` is told of every element as it is read.

    A direction that breaks a rule is read no further; the other one is. `fault` is the first
    broken rule, its offset counted as in Element.
    """

    def __init__(self, limits: Limits, show: Show) -> None:
        self._limits = limits
        self._show = show
        self._t_us = 0
        self._handshake = ObservedHandshake(limits, self._handshake_element)
        self._conversation: Conversation | None = None
        self._sides: dict[Direction, _Side] = {}
        self.bytes_sent = dict.fromkeys(_NAMES, 0)
        self.fault: ProtocolError | None = None

    def feed(self, record: Record) -> None:
        self._t_us = record.t_us
        direction = record.direction
        if not record.data:
            at = self.bytes_sent[direction]
            self._show(Element(record.t_us, direction, at, "closed", ""))
            return
        self.bytes_sent[direction] += len(record.data)
        if self._conversation is not None:
            self._read(direction, record.data)
            return
        try:
            self._handshake.feed(direction, record.data)
        except ProtocolError as error:
            self._blame(error)
        if self._handshake.init is not None:
            self._converse(Conversation(self._handshake.init, self._limits, passive=True))

    def _converse(self, conversation: Conversation) -> None:
        """The handshake has come to its end, which is the desktop's to say: what the viewer sent
        behind it was there before."""
        self._conversation = conversation
        for reader in (conversation.up, conversation.down):
            way = reader.direction
            self._sides[way] = _Side(reader, self._handshake.offsets[way], self._show)
            self._read(way, bytes(self._handshake.left[way]))

    def _read(self, direction: Direction, data: bytes) -> None:
        side = self._sides[direction]
        if side.broken:
            return
        try:
            side.feed(self._t_us, data)
        except ProtocolError as error:
            self._blame(error)

    def _blame(self, fault: ProtocolError) -> None:
        self.fault = self.fault or fault
        text = f"{fault_text(fault)} ({fault.rule})"
        self._show(Element(self._t_us, fault.direction, fault.offset, "fault", text))

    def _handshake_element(
        self, direction: Direction, offset: int, name: str, details: str
    ) -> None:
        self._show(Element(self._t_us, direction, offset, name, details))

    @property
    def version(self) -> str | None:
        """What both sides speak; None where it never came to that."""
        minor = self._handshake.minor
        return None if minor is None else f"3.{minor}"

    @property
    def security_type(self) -> int | None:
        """What was chosen, 0 where the desktop refused; None where it never came to that."""
        return self._handshake.security_type

    @property
    def framebuffer(self) -> tuple[int, int] | None:
        """Width and height at the end; None where there was no session to read."""
        if self._conversation is None:
            return None
        return self._conversation.state.width, self._conversation.state.height

    def messages(self, direction: Direction) -> Counter[int]:
        """By type, those that came whole."""
        if self._conversation is None:
            return Counter()
        side = self._sides[direction]
        return _whole(side.messages, side.message, side.reader.under_way)

    def rectangles(self) -> Counter[int]:
        """By encoding, those that came whole, also of an update that did not."""
        if self._conversation is None:
            return Counter()
        side = self._sides[Direction.DOWN]
        opaque = side.message == _FRAMEBUFFER_UPDATE and side.reader.opaque > 0
        return _whole(side.rectangles, side.rectangle, opaque or self._conversation.down.walking)


def fault_text(fault: ProtocolError) -> str:
    """Where and what, without the direction and the offset."""
    return f"{fault.where}: {fault.args[0]}"


def report(inspection: Inspection) -> dict[str, Any]:
    """For JSON: numbers that are keys are text, in the order of the numbers."""
    fault = inspection.fault
    framebuffer = inspection.framebuffer
    return {
        "version": inspection.version,
        "security_type": inspection.security_type,
        "client_messages": _in_order(inspection.messages(Direction.UP)),
        "server_messages": _in_order(inspection.messages(Direction.DOWN)),
        "rects": _in_order(inspection.rectangles()),
        "final_framebuffer": framebuffer and list(framebuffer),
        "bytes": {_NAMES[way]: count for way, count in inspection.bytes_sent.items()},
        "error": fault
        and {
            "direction": _NAMES[fault.direction],
            "offset": fault.offset,
            "rule": fault.rule,
            "text": fault_text(fault),
        },
    }


def _in_order(counted: Counter[int]) -> dict[str, int]:
    return {str(number): counted[number] for number in sorted(counted)}
