"""`python -m bench.peers` installs websockify and npm's ws into bench/.peers."""

from __future__ import annotations

from bench.peers.install import install

install()
