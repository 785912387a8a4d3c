"""What sessions cost in memory: at rest, with both sides stalled, and when they have gone.

The real server carries a crowd of viewers; what it takes is read off the process.
tests/pumps/test_held.py counts to the byte what one session holds.
"""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relay import Limits
from tests.labs.server_process import PATIENCE_S, Pair, Server, serving, stall
from tests.labs.waiting import until

VIEWERS = 1_000

AT_REST_KIB = 12
"""Of one session that has nothing to do; the bar of docs/design.md."""

STALLED_KIB = Limits().read_bytes // 1024
"""Held in one direction for a side that takes nothing."""

RETURNS_WITHIN = 0.20
"""Of the resident memory before the crowd: so near it comes when all have gone."""

BUFFER_BYTES = 16_384
"""For the sockets of desktops and viewers, so that few bytes fill what the kernel holds."""


@contextmanager
def _descriptors(count: int) -> Iterator[None]:
    """So many for this process and its children; where the system has fewer, skips and says so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"needs {count} descriptors, and the system grants {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _crowd(server: Server) -> list[Pair]:
    """All at rest, each waiting for an update that does not come."""
    pairs = [server.view(BUFFER_BYTES) for _ in range(VIEWERS)]
    for pair in pairs:
        for peer in pair:
            peer.setblocking(False)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    server.settle()
    return pairs


def _leave(server: Server, pairs: list[Pair], descriptors: int) -> None:
    for pair in pairs:
        for peer in pair:
            peer.close()
    until(
        lambda: server.descriptors() <= descriptors,
        "the sessions keep their descriptors",
        within_s=PATIENCE_S,
    )
    server.settle()


def test_a_crowd_at_rest_and_stalled(tmp_path: Path) -> None:
    with _descriptors(4 * VIEWERS + 1_000), serving(tmp_path) as server:
        first = server.view()
        descriptors = server.descriptors() - 2  # the session's sockets
        _leave(server, [first], descriptors)
        before = server.rss_bytes()

        def per_session_kib(since: int) -> float:
            return (server.rss_bytes() - since) / 1024 / VIEWERS

        pairs = _crowd(server)
        at_rest_kib = per_session_kib(before)
        stall(server, pairs)
        stalled_kib = per_session_kib(before)
        held = server.descriptors() - descriptors
        _leave(server, pairs, descriptors)
        left = server.rss_bytes()

        pairs = _crowd(server)
        stall(server, pairs)
        again_kib = per_session_kib(before)
        _leave(server, pairs, descriptors)
        left_again = server.rss_bytes()

    print(
        f"KiB a session: {at_rest_kib:.1f} at rest, {stalled_kib:.1f} stalled, {again_kib:.1f} in "
        f"a second crowd; MiB: {before / 2**20:.1f} before, {left / 2**20:.1f} after, "
        f"{left_again / 2**20:.1f} after the second"
    )
    assert held == 2 * VIEWERS, "a stalled session holds more than its two sockets"
    assert at_rest_kib <= AT_REST_KIB
    assert stalled_kib <= AT_REST_KIB + 2 * STALLED_KIB
    # Counted from before the first crowd: what that left behind is in it.
    assert again_kib <= AT_REST_KIB + 2 * STALLED_KIB
    assert left <= before * (1 + RETURNS_WITHIN)
    assert left_again <= before * (1 + RETURNS_WITHIN)
