"""The computer tool's versions, as the Messages API has them: actions, limits, headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from relay.computer.geometry import PictureLimits

TOOLSET: Final = "computer_toolset_20260801"

NOT_EXECUTED: Final = "Not executed: an earlier computer action in this turn failed."
"""The exact text that models know for the rest of a batch."""


@dataclass(frozen=True, slots=True)
class Version:
    """A form of the tool, as the Messages API names it."""

    name: str
    beta_header: str | None
    actions: tuple[str, ...]
    pictures: PictureLimits


_FIRST: Final = (
    "key",
    "type",
    "mouse_move",
    "left_click",
    "left_click_drag",
    "right_click",
    "middle_click",
    "double_click",
    "screenshot",
    "cursor_position",
)
_SECOND: Final = (
    *_FIRST,
    "left_mouse_down",
    "left_mouse_up",
    "scroll",
    "hold_key",
    "wait",
    "triple_click",
)
_THIRD: Final = (*_SECOND, "zoom")

# Larger images are refused by the API. A model that takes the larger ones takes these too.
_SMALL: Final = PictureLimits(side_px=1568, tile_px=1, tiles=1_150_000)
_LARGE: Final = PictureLimits(side_px=2576, tile_px=28, tiles=4784)

VERSIONS: Final[Mapping[str, Version]] = {
    version.name: version
    for version in (
        Version("computer_20241022", "computer-use-2024-10-22", _FIRST, _SMALL),
        Version("computer_20250124", "computer-use-2025-01-24", _SECOND, _SMALL),
        Version("computer_20251124", "computer-use-2025-11-24", _THIRD, _SMALL),
        Version(TOOLSET, None, _THIRD, _LARGE),
    )
}
