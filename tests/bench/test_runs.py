"""In which order peers are measured."""

from __future__ import annotations

import itertools

from bench.runs import order


def test_the_order_of_peers_changes_from_round_to_round() -> None:
    names = ["direct", "ours", "nginx"]
    turns = [order("bulk", names, turn) for turn in range(6)]
    assert all(sorted(turn) == sorted((name, 1) for name in names) for turn in turns)
    assert {turn[0][0] for turn in turns} == set(names)
    behind = {(a, b) for turn in turns for (a, _), (b, _) in itertools.pairwise(turn)}
    assert len(behind) == 6  # everyone has been right behind everyone else
