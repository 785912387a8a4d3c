"""What the readers of both directions share: the contract with whoever moves the bytes."""

from __future__ import annotations

from relay.rfb import clipboard
from relay.rfb.errors import CloseCode, Direction, ProtocolError, Violation
from relay.rfb.state import State

NEED = -1
"""Returned by a message's check when the message has not arrived far enough."""

Edit = tuple[int, int, bytes]


class Reader:
    """Reads one direction of a conversation.

    `judge(buf, pos, stop)` looks at `buf[pos:stop]` and returns `end`: `buf[pos:end]` has passed
    and may be forwarded, as changed by `edits`. `buf[end:stop]` is the beginning of an element
    and must be presented again with what follows it; it is never longer than TAIL_LIMIT_BYTES.

    `opaque` bytes come after `end` (then `end == stop`) which need no look: they may be
    presented to `judge` like all others, or moved unseen and reported by `moved(count)`, unless
    `discarding` says that they are not for the other side.

    `edits` lists (start, end, replacement) in `buf`, in order, valid until the next call: what
    to forward instead. Replacements of equal length, such as padding made zero, are written
    into `buf` itself. `offset` is the absolute offset of the next byte to be judged, counted from
    the end of the handshake.
    """

    direction: Direction
    close_code: CloseCode

    __slots__ = ("discarding", "edits", "offset", "opaque", "state")

    def __init__(self, state: State) -> None:
        self.state = state
        self.offset = 0
        self.opaque = 0
        self.discarding = False
        self.edits: list[Edit] = []

    def moved(self, count: int) -> None:
        """`count` opaque bytes went to the other side without passing through `judge`."""
        self.opaque -= count
        self.offset += count

    def _pass_opaque(self, pos: int, stop: int) -> int:
        """Counts down opaque bytes at `pos`; returns where they end within the window."""
        end = min(pos + self.opaque, stop)
        self.opaque -= end - pos
        if self.discarding:
            self.edits.append((pos, end, b""))
            self.discarding = self.opaque > 0
        return end

    def _body(self, pos: int, end: int, stop: int) -> int:
        """A message from `pos` to `end`, of which only the head needed a look."""
        if end > stop:
            self.opaque = end - stop
            return stop
        return end

    def _drop(self, pos: int, end: int, stop: int) -> int:
        """As `_body`, for a message that is not for the other side."""
        kept = self._body(pos, end, stop)
        self.edits.append((pos, kept, b""))
        self.discarding = self.opaque > 0
        return kept

    def _cut_text(self, buf: bytearray, pos: int, stop: int, extended: bool) -> int:
        """Either direction's cut text; too long a one is skipped, for it would end a session
        over a paste."""
        if stop - pos < clipboard.HEAD_BYTES:
            return NEED
        length = clipboard.announced(buf, pos, extended)
        if clipboard.is_extended(buf, pos):
            if stop - pos < clipboard.HEAD_BYTES + 4:
                return NEED
            clipboard.check_flags(buf, pos, length)
        buf[pos + 1 : pos + 4] = b"\0\0\0"
        end = pos + clipboard.HEAD_BYTES + length
        if length > self.state.bounds.clipboard_bytes:
            return self._drop(pos, end, stop)
        return self._body(pos, end, stop)

    def _error(self, violation: Violation, offset: int, where: str) -> ProtocolError:
        return ProtocolError(
            str(violation),
            direction=self.direction,
            offset=offset,
            where=where,
            close_code=self.close_code,
        )
