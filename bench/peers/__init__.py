"""The relays that are measured: ours and its peers."""

from bench.peers.table import PEERS, Peer, Running, Unavailable, announced, child, install

__all__ = ["PEERS", "Peer", "Running", "Unavailable", "announced", "child", "install"]
