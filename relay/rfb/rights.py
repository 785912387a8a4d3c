"""What one session may do on its desktop. A message without its right is dropped, and the stream
stays in step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rights:
    """Each is on or off for one session; looking is always on.

    `clipboard_in` is the viewer's clipboard going to the desktop, `clipboard_out` the desktop's
    coming to the viewer. `power` is shutting down and rebooting the machine (xvp), so it is off
    where nobody says otherwise.
    """

    pointer: bool = True
    keyboard: bool = True
    clipboard_in: bool = True
    clipboard_out: bool = True
    resize: bool = True
    power: bool = False


FULL = Rights()
VIEW_ONLY = Rights(
    pointer=False, keyboard=False, clipboard_in=False, clipboard_out=False, resize=False
)
