"""A language model's computer tool on a desktop. `Computer` needs NumPy and Pillow (the extra
`client`); which versions of the tool there are, and what may be given to it, can be told without.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from relay.computer.settings import Settings
from relay.computer.versions import TOOLSET, VERSIONS, Version

if TYPE_CHECKING:
    from relay.computer.actions import LOOKS
    from relay.computer.desktop import Desktop
    from relay.computer.tool import Computer, Result

__all__ = ["LOOKS", "TOOLSET", "VERSIONS", "Computer", "Desktop", "Result", "Settings", "Version"]


_HOMES = {
    "LOOKS": "relay.computer.actions",
    "Computer": "relay.computer.tool",
    "Desktop": "relay.computer.desktop",
    "Result": "relay.computer.tool",
}


def __getattr__(name: str) -> object:
    """What needs the extra is imported by those who use it."""
    if name in _HOMES:
        value: object = getattr(import_module(_HOMES[name]), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
