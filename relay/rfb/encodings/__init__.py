"""Encodings: one file each, which says where a rectangle ends, and the registry of them all."""

from relay.rfb.encodings.registry import (
    CONTINUOUS_UPDATES,
    EXTENDED_CLIPBOARD,
    EXTENDED_MOUSE_BUTTONS,
    FENCE,
    GII,
    LAST_RECT,
    LET_THROUGH,
    LEVELS,
    REGISTRY,
    RISKY,
    SIGNALS,
    XVP,
    is_quality,
)

__all__ = [
    "CONTINUOUS_UPDATES",
    "EXTENDED_CLIPBOARD",
    "EXTENDED_MOUSE_BUTTONS",
    "FENCE",
    "GII",
    "LAST_RECT",
    "LET_THROUGH",
    "LEVELS",
    "REGISTRY",
    "RISKY",
    "SIGNALS",
    "XVP",
    "is_quality",
]
