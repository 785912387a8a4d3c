"""Faults of a peer on the wire: who sent the bad bytes, where, and how to say so."""

from __future__ import annotations

import enum


class Direction(enum.Enum):
    """Which way bytes flow. The value is the word used in logs and messages."""

    DOWN = "from_desktop"
    UP = "from_viewer"


class CloseCode(enum.IntEnum):
    """WebSocket close codes the relay sends (RFC 6455, Section 7.4; 4000 and up are ours)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    WEBSOCKET_FAULT = 1002
    TEXT_FRAME = 1003
    NOT_UTF8 = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    TRY_LATER = 1013
    SIGNED_OUT = 4401
    TIMEOUT = 4408
    IDLE = 4409
    ARCHIVED = 4410
    DESKTOP_FAULT = 4502
    DESKTOP_GONE = 4503


EVIDENCE_BYTES = 32


class ProtocolError(Exception):
    """A peer broke RFB (or WebSocket) rules. Ends its session.

    `rule` is the broken rule in one stable word, for logs and counters (docs/protocol.md);
    `direction` is who sent the bad bytes; `offset` is the absolute offset of the offending
    element in that direction's RFB stream, after the handshake; `where` names the element, such
    as "FramebufferUpdate > rectangle 3 > Tight"; `close_code` is the WebSocket close code that
    tells the viewer. The text never holds payload; `evidence` does: the element's first bytes,
    EVIDENCE_BYTES at the most, for the log.
    """

    def __init__(
        self,
        rule: str,
        message: str,
        *,
        direction: Direction,
        offset: int,
        where: str,
        close_code: CloseCode,
        evidence: bytes = b"",
    ) -> None:
        super().__init__(message)
        self.rule = rule
        self.evidence = evidence
        self.direction = direction
        self.offset = offset
        self.where = where
        self.close_code = close_code

    def __str__(self) -> str:
        text = super().__str__()
        return f"{self.direction.value} at byte {self.offset}, {self.where}: {text}"


class Violation(Exception):
    """A broken rule, raised where it is found; the reader of that direction adds where and
    when, and raises ProtocolError. `rule` is as there; `at` is the offending element's position
    in the buffer, where the reader does not know it better."""

    def __init__(self, rule: str, text: str, at: int | None = None) -> None:
        super().__init__(text)
        self.rule = rule
        self.at = at
