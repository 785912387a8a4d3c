"""Each peer that can be had carries updates."""

from __future__ import annotations

import pytest

from bench.peers import PEERS, Unavailable
from bench.runs import measure


@pytest.mark.parametrize("peer", ["nginx", "haproxy", "haproxy-splice", "node", "websockify"])
def test_a_peer_carries_updates(peer: str) -> None:
    try:
        PEERS[peer].version()
    except Unavailable as error:
        pytest.skip(str(error))
    (record,) = measure("typical", peer, 0.1)
    assert record["updates"] > 0
