"""The load, in this process, on the synthetic desktop."""

from __future__ import annotations

import dataclasses
import socket
from contextlib import closing
from typing import cast

import pytest

from bench.load import Job, _Crowd, crowd
from bench.viewer import Buffer, Viewer
from bench.workloads import WORKLOADS
from tests.labs.synthetic_desktop import synthetic_desktop


def test_sessions_grow_in_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WORKLOADS, "scale", dataclasses.replace(WORKLOADS["scale"], rate=300))
    with synthetic_desktop() as (address, pid):
        job = Job("scale", address, "", [], [pid], 0.2, [1, 3])
        records = list(crowd(job))
    assert [record["sessions"] for record in records] == [1, 3]
    assert all(record["updates"] > 0 for record in records)


def test_a_viewer_asks_again_only_when_it_has_its_update() -> None:
    """For one update may answer two requests (RFC 6143, Section 7.5.3)."""
    crowded = _Crowd(1.0)
    asked = updates = 0

    class Slow:
        def __init__(self) -> None:
            self.socket, self.far = socket.socketpair()

        def ask(self) -> None:
            nonlocal asked
            asked += 1

        def receive(self, _buffer: Buffer, _flags: int) -> int:
            self.socket.recv(1)
            return 1

        def close(self) -> None:
            self.socket.close()
            self.far.close()

    viewer = Slow()
    with closing(crowded):
        crowded.join(cast(Viewer, viewer))
        for _ in range(3):
            crowded._ask(cast(Viewer, viewer))
        assert asked == 1
        for updates in range(1, 4):
            viewer.far.send(b"u")
            assert crowded._receive(0)
            assert len(crowded.latencies_s) == updates
            assert asked == min(3, updates + 1)
