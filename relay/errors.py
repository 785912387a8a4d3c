"""The errors that cross this package's border.

Faults of a peer inside a running session are not here: a session returns them as `Ended`.
"""

from __future__ import annotations

from relay.rfb.errors import Direction, ProtocolError

__all__ = ["DesktopError", "Direction", "ProtocolError", "RelayError"]


class RelayError(Exception):
    """Base of all errors this package raises on purpose."""


class DesktopError(RelayError):
    """A desktop could not be started, reached or logged in to.

    The text is for the operator and the person waiting: what failed, where, what to do.
    It holds no secret, and text from the desktop only with control characters removed. `fault` is
    the broken rule, where the desktop spoke and broke one.
    """

    def __init__(self, text: str, fault: ProtocolError | None = None) -> None:
        super().__init__(text)
        self.fault = fault
