"""A short run of each fuzz target, with a fixed seed."""

from __future__ import annotations

import random

from fuzz.fuzz_conversation import one


def test_conversation() -> None:
    rng = random.Random(20)
    for _ in range(1500):
        one(rng)
