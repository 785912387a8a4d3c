"""`python -m bench.peers` installs websockify and npm's ws into bench/.peers."""

from __future__ import annotations

from bench.peers import install

if __name__ == "__main__":
    install()
