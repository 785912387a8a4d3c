"""How a session ended, as a value."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from relay.rfb.errors import CloseCode, Direction, ProtocolError


class Reason(enum.StrEnum):
    """Why a session ended; stable words for logs and metrics."""

    VIEWER_CLOSED = "viewer_closed"
    """The viewer said goodbye."""
    VIEWER_LOST = "viewer_lost"
    """The viewer's connection ended without a goodbye."""
    VIEWER_FAULT = "viewer_fault"
    """The viewer broke the rules of WebSocket or RFB."""
    VIEWER_STALLED = "viewer_stalled"
    """The viewer took no byte for `stall_timeout_s`."""
    VIEWER_SILENT = "viewer_silent"
    """The viewer did not answer a ping."""
    VIEWER_IDLE = "viewer_idle"
    """No input for `idle_timeout_s`."""
    VIEWER_SLOW_HANDSHAKE = "viewer_slow_handshake"
    """The viewer did not finish its handshake in time."""
    DESKTOP_CLOSED = "desktop_closed"
    """The desktop ended its connection."""
    DESKTOP_FAULT = "desktop_fault"
    """The desktop broke the rules of RFB."""
    VIEWER_DRIPS = "viewer_drips"
    """The viewer began a message and did not get on with it."""
    DESKTOP_DRIPS = "desktop_drips"
    """The desktop began a message and did not get on with it."""
    DESKTOP_STALLED = "desktop_stalled"
    """The desktop took no byte for `stall_timeout_s`."""
    RELAY_FAULT = "relay_fault"
    """The relay itself failed; `Session.run` raises what happened."""
    STOPPED = "stopped"
    """`Session.stop` was called."""


@dataclass(frozen=True, slots=True)
class Counters:
    """RFB bytes forwarded in each direction, after the handshakes."""

    bytes_down: int = 0
    bytes_up: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """The result of a session.

    `close_code` and `text` went to the viewer in the close frame, where one could still be
    sent. `direction`, `offset`, `rule` and `evidence` are set for faults: who sent the bad bytes,
    where in that direction's stream, which rule they broke (docs/protocol.md), and the first of
    them. `detail` is for the log: it may say more than a viewer should read.
    """

    reason: Reason
    close_code: int
    text: str
    direction: Direction | None = None
    offset: int | None = None
    rule: str = ""
    evidence: bytes = b""
    detail: str = ""
    counters: Counters = Counters()


# What the viewer is told. Fixed texts: nothing of a peer's words goes into a close frame.
_TOLD: dict[Reason, tuple[CloseCode, str]] = {
    Reason.VIEWER_CLOSED: (CloseCode.NORMAL, ""),
    Reason.VIEWER_LOST: (CloseCode.GOING_AWAY, "connection lost"),
    Reason.VIEWER_STALLED: (CloseCode.TIMEOUT, "the viewer stopped reading"),
    Reason.VIEWER_SILENT: (CloseCode.TIMEOUT, "the viewer did not answer"),
    Reason.VIEWER_IDLE: (CloseCode.IDLE, "no input for too long"),
    Reason.VIEWER_SLOW_HANDSHAKE: (CloseCode.TIMEOUT, "the viewer's handshake took too long"),
    Reason.DESKTOP_CLOSED: (CloseCode.DESKTOP_GONE, "the desktop closed the connection"),
    Reason.VIEWER_DRIPS: (CloseCode.TIMEOUT, "the viewer did not finish its message"),
    Reason.DESKTOP_DRIPS: (CloseCode.DESKTOP_GONE, "the desktop did not finish its message"),
    Reason.DESKTOP_STALLED: (CloseCode.DESKTOP_GONE, "the desktop does not respond"),
}


def ended(reason: Reason, detail: str = "") -> Ended:
    """An ending with the code and text that go with its reason."""
    code, text = _TOLD[reason]
    return Ended(reason, code, text, detail=detail)


def ended_by_fault(error: ProtocolError) -> Ended:
    """An ending because a peer broke a rule."""
    if error.direction is Direction.DOWN:
        reason, text = Reason.DESKTOP_FAULT, "the desktop broke the protocol"
    else:
        reason, text = Reason.VIEWER_FAULT, "the viewer broke the protocol"
    return Ended(
        reason,
        error.close_code,
        f"{text}: {error.rule}",
        direction=error.direction,
        offset=error.offset,
        rule=error.rule,
        evidence=error.evidence,
        detail=str(error),
    )
