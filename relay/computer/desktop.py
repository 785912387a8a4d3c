"""What the computer tool needs of a desktop."""

from __future__ import annotations

from typing import Protocol

from relay.computer.geometry import Point
from relay.rfb.pixels.canvas import Array

__all__ = ["Desktop"]


class Desktop(Protocol):
    """A desktop that is looked at and acted on; `relay.client.Desktop` is one.

    Coordinates are desktop pixels. All methods raise `relay.DesktopError` when it is gone.
    """

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def pointer(self) -> Point | None:
        """Where the pointer was last told to go; None where that is not known."""

    async def picture(self, *, cursor: bool = False) -> Array:
        """A fresh (height, width, 4) RGBA picture."""

    async def move(self, x: int, y: int) -> None:
        """Raises ValueError outside the desktop."""

    async def button_down(self, button: int) -> None:
        """1 left, 2 middle, 3 right; the wheel: 4 up, 5 down, 6 left, 7 right."""

    async def button_up(self, button: int) -> None: ...
    async def key_down(self, keysym: int) -> None: ...
    async def key_up(self, keysym: int) -> None: ...
    async def type(self, text: str) -> bool: ...
    async def read_size(self) -> object:
        """Asks for the size: `width` and `height` are what they are now."""

    async def sync(self) -> None:
        """Waits until the desktop has taken all that was sent to it."""

    async def settled(self, *, quiet_s: float, limit_s: float) -> bool:
        """Waits until nothing has changed for `quiet_s`; False where `limit_s` came first."""

    async def release_all(self) -> None:
        """Every key and button that is down goes up."""
