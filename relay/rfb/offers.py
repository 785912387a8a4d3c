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

    `allowed` maps the encodings that the desktop may use to their framing; Raw always is one.
    `measures` has those of pixels that one look measures, with what does it.
    """

    __slots__ = ("_state", "allowed", "dropping", "measures")

    def __init__(self, state: State) -> None:
        self._state = state
        # Whether pixels are still to be dropped.
        self.dropping = False
        self.offer(frozenset())

    def offer(self, offered: frozenset[int]) -> None:
        """The desktop may use these from now on, and no others."""
        state = self._state
        state.offered, self.allowed, self.measures, state.jpeg_offered = _permits(offered)

    def replace(self, listed: frozenset[int]) -> bool:
        """A new list; whether it drops something."""
        # Equal to `listed`, and shared.
        self._state.listed = listed = _permits(listed)[0]
        both = self._state.offered | listed
        self.offer(both)
        self.dropping = len(both) > len(listed)
        return self.dropping

    def quiet(self) -> None:
        """Nothing is under way."""
        listed = self._state.listed
        self.offer(frozenset(n for n in self._state.offered if n in listed or not _in_pixels(n)))
        self.dropping = False

    def read(self) -> None:
        """The desktop has read the last list."""
        self.offer(self._state.listed)
        self.dropping = False


@lru_cache(LISTS_KEPT)
def _permits(
    offered: frozenset[int],
) -> tuple[frozenset[int], Mapping[int, Encoding], Mapping[int, Measure], bool]:
    """What sessions with the same offers share: them, what they allow and its measures (see
    `Offers`), and whether JPEG is allowed."""
    allowed = {n: encodings.REGISTRY[n] for n in (0, *offered) if n in encodings.REGISTRY}
    measures = {n: e.measure for n, e in allowed.items() if e.pixels and not e.walks}
    return offered, allowed, measures, any(map(encodings.is_quality, offered))
