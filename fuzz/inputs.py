"""Inputs out of nothing and out of others: what the plain driver feeds a target."""

from __future__ import annotations

import random
from collections.abc import Sequence

_LENGTHS = (8, 24, 48, 96, 96, 192, 192, 400)
_ODD = (b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff", b"\0\0", b"\xff\xff\xff\xff", b"\x80\0\0\0")


def made(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One input: random bytes, or a seed that was changed in a few places."""
    if not seeds or rng.random() < 0.5:
        return rng.randbytes(rng.choice(_LENGTHS))
    changed = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = int(rng.random() * (len(changed) + 1))
        how = rng.random()
        if how < 0.5:
            changed[at : at + 1] = rng.randbytes(1)
        elif how < 0.65:
            odd = rng.choice(_ODD)
            changed[at : at + len(odd)] = odd
        elif how < 0.75:
            del changed[at : at + rng.choice((1, 1, 2, 4, 16))]
        elif how < 0.85:
            changed[at:at] = rng.randbytes(rng.choice((1, 1, 2, 4, 16)))
        elif how < 0.95:
            other = rng.choice(seeds)
            first = int(rng.random() * (len(other) + 1))
            changed[at:] = other[first : first + 400]
        else:
            changed[at:] = rng.randbytes(rng.choice(_LENGTHS))
    return bytes(changed)
