"""A language model's computer tool on a desktop. `Computer` needs NumPy and Pillow (the extra
`client`); which versions of the tool there are, and what may be given to it, can be told without.
"""

from typing import TYPE_CHECKING

from relay.computer.versions import TOOLSET, VERSIONS, Version

if TYPE_CHECKING:
    from relay.computer.desktop import Desktop
    from relay.computer.tool import LOOKS, Computer, Result, Settings

__all__ = ["LOOKS", "TOOLSET", "VERSIONS", "Computer", "Desktop", "Result", "Settings", "Version"]


def __getattr__(name: str) -> object:
    """What needs the extra is imported by those who use it."""
    if name in __all__:
        from relay.computer import tool

        value: object = getattr(tool, name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
