"""The relays that are measured: ours and its peers.

nginx, haproxy and node are used where they are on the PATH; websockify and npm's ws lie in
bench/.peers. What cannot be had is left out, with the reason.
"""

from bench.peers.installed import Unavailable, install
from bench.peers.processes import Running, announced, child
from bench.peers.table import PEERS, Peer

__all__ = ["PEERS", "Peer", "Running", "Unavailable", "announced", "child", "install"]
