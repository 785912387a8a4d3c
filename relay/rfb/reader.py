"""What the readers of both directions share: the contract with whoever moves the bytes."""

from __future__ import annotations

from collections.abc import Callable

from relay.rfb import clipboard
from relay.rfb.errors import EVIDENCE_BYTES, CloseCode, Direction, ProtocolError, Violation
from relay.rfb.flow import Flow
from relay.rfb.state import State

NEED = -1
"""Returned by a message's check when the message has not arrived far enough."""

Edit = tuple[int, int, bytes]

Observer = Callable[[str, int, int], None]
"""Called with "message" or "rectangle", its number (message type, encoding), and its offset once
its head has passed; what follows the head may still be under way."""


def gii_length(buf: bytearray, pos: int) -> int:
    """Bytes behind the four of a gii message's head (community specification, gii): its second
    byte says in which order the length is."""
    return int.from_bytes(buf[pos + 2 : pos + 4], "big" if buf[pos + 1] & 0x80 else "little")


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
    the end of the handshake; `messages` counts those that have begun. `observer`, where there is
    one, is told of every element.
    """

    direction: Direction
    close_code: CloseCode

    __slots__ = (
        "_long_fence",
        "discarding",
        "edits",
        "flow",
        "messages",
        "observer",
        "offset",
        "opaque",
        "state",
    )

    def __init__(self, state: State, flow: Flow) -> None:
        self.state = state
        self.flow = flow
        self.offset = 0
        self.messages = 0
        self.opaque = 0
        self.discarding = False
        self.observer: Observer | None = None
        self.edits: list[Edit] = []
        self._long_fence = False

    def moved(self, count: int) -> None:
        """`count` opaque bytes went to the other side without passing through `judge`."""
        self.opaque -= count
        self.offset += count

    @property
    def under_way(self) -> bool:
        """Whether a message is, besides what is presented again."""
        return self.opaque > 0

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

    def _skip_long_fence(self, buf: bytearray, pos: int, stop: int) -> int:
        """Either direction's fence of more than FENCE_LIMIT_BYTES. Viewers and servers skip one
        or cut it (noVNC, TigerVNC), so one is skipped here; a peer that goes on is not in step.
        """
        length = buf[pos + 8]
        if self._long_fence:
            raise Violation("fence-length", f"another fence of {length} bytes")
        self._long_fence = True
        return self._drop(pos, pos + 9 + length, stop)

    def _cut_text(
        self, buf: bytearray, pos: int, stop: int, *, extended: bool, own: bool, other: bool
    ) -> int:
        """Either direction's cut text; too long a one is skipped, for it would end a session
        over a paste. So is one about the sender's clipboard without `own`, or about the
        receiver's without `other`."""
        if stop - pos < clipboard.HEAD_BYTES:
            return NEED
        length = clipboard.announced(buf, pos, extended)
        limit = self.state.bounds.clipboard_bytes
        allowed = own
        if clipboard.is_extended(buf, pos):
            limit += 4  # the flags
            if stop - pos < clipboard.HEAD_BYTES + 4:
                return NEED
            clipboard.check_flags(buf, pos, length)
            about_own, about_other = clipboard.concerns(buf, pos)
            allowed = (own and about_own) or (other and about_other)
        buf[pos + 1 : pos + 4] = b"\0\0\0"
        end = pos + clipboard.HEAD_BYTES + length
        if length > limit or not allowed:
            return self._drop(pos, end, stop)
        return self._body(pos, end, stop)

    def _error(
        self, violation: Violation, where: str, buf: bytearray, at: int, start: int, stop: int
    ) -> ProtocolError:
        """`at` is the offending element in the window `buf[start:stop]`."""
        return ProtocolError(
            violation.rule,
            str(violation),
            direction=self.direction,
            offset=self.offset + at - start,
            where=where,
            close_code=self.close_code,
            evidence=bytes(buf[at : min(at + EVIDENCE_BYTES, stop)]),
        )
