"""What the viewer's SetEncodings offers, and how long what a new one drops may still come."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from relay.rfb import encodings
from relay.rfb.encodings.base import Encoding, Measure
from relay.rfb.state import State

LISTS_KEPT = 64
"""A list of 30 encodings takes 3.5 KiB. All viewers of one version and quality send the same."""


def _in_pixels(number: int) -> bool:
    """Whether an offer is about pixels, which come in answer to a request."""
    encoding = encodings.REGISTRY.get(number)
    return encoding.pixels if encoding is not None else number not in encodings.SIGNALS


class Offers:
    """Sets the offers in the state. Pixels that a list drops may come until nothing is under way
    (`quiet`); all else, which no request brings, until the desktop has answered a fence behind
    the list (`read`), and where it answers none for good.

    `allowed` maps the encodings that the desktop may use to their framing; Raw always is. Of those
    of pixels that one look measures, `measures` has what does it.
    """

    __slots__ = ("_state", "allowed", "dropping", "measures")

    def __init__(self, state: State) -> None:
        self._state = state
        raw = encodings.REGISTRY[0]
        self.allowed: Mapping[int, Encoding] = {0: raw}
        self.measures: Mapping[int, Measure] = {0: raw.measure}
        # Whether pixels are still to be dropped.
        self.dropping = False

    def replace(self, listed: frozenset[int]) -> bool:
        """A new list; whether it drops something."""
        # Equal to `listed`, and shared.
        self._state.listed = listed = _permits(listed)[0]
        both = self._state.offered | listed
        self._offer(both)
        self.dropping = len(both) > len(listed)
        return self.dropping

    def quiet(self) -> None:
        """Nothing is under way."""
        listed = self._state.listed
        self._offer(frozenset(n for n in self._state.offered if n in listed or not _in_pixels(n)))
        self.dropping = False

    def read(self) -> None:
        """The desktop has read the last list."""
        self._offer(self._state.listed)
        self.dropping = False

    def _offer(self, offered: frozenset[int]) -> None:
        state = self._state
        state.offered, self.allowed, self.measures, state.jpeg_offered = _permits(offered)


@lru_cache(LISTS_KEPT)
def _permits(
    offered: frozenset[int],
) -> tuple[frozenset[int], Mapping[int, Encoding], Mapping[int, Measure], bool]:
    """What sessions with the same offers share: them, what they allow, and whether JPEG is
    allowed."""
    allowed = {n: encodings.REGISTRY[n] for n in (0, *offered) if n in encodings.REGISTRY}
    return offered, allowed, encodings.measures(allowed), any(map(encodings.is_quality, offered))
