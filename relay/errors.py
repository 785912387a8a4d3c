"""The errors that cross this package's border.

Faults of a peer inside a running session are not here: a session returns them as `Ended`.
"""

from __future__ import annotations

import enum
from typing import Final

from relay.rfb.errors import Direction, ProtocolError

__all__ = [
    "UNTOLD",
    "DesktopError",
    "Direction",
    "ProtocolError",
    "RelayError",
    "WorkspaceAgentError",
    "WorkspaceAgentStep",
]


UNTOLD: Final = "the server's log says why"


class RelayError(Exception):
    """Base of all errors this package raises on purpose."""


class DesktopError(RelayError):
    """A desktop could not be started, reached or logged in to.

    The text is for the operator and the person waiting: what failed, where, what to do.
    It holds no secret, and text from the desktop only with control characters removed. `fault` is
    the broken rule, where the desktop spoke and broke one. `told` is what may be said of it to
    those who only look at the desktop: it names no address and no path, as the text may.
    """

    def __init__(
        self, text: str, fault: ProtocolError | None = None, *, told: str = UNTOLD
    ) -> None:
        super().__init__(text)
        self.fault = fault
        self.told = told


class WorkspaceAgentStep(enum.Enum):
    """How far the way to a workspace agent went."""

    DISCONNECTED = "disconnected"
    """Nothing listens there."""
    TIMEOUT = "timeout"
    """It does not answer in time."""
    DIAL = "dial"
    """It is not the workspace agent it should be, or does not take this relay for who it is."""
    DESKTOP = "desktop"
    """It answered, and the answer is no desktop."""


class WorkspaceAgentError(DesktopError):
    """A workspace agent did not bring its desktop."""

    def __init__(self, step: WorkspaceAgentStep, text: str, *, told: str = UNTOLD) -> None:
        super().__init__(text, told=told)
        self.step = step
