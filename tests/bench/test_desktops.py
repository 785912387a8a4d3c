"""The other desktops than the synthetic one: recorded sessions, and Xvnc."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.recorded import left_out
from bench.runs import measure
from tests.labs import captures
from tests.labs.desktop_processes import needs_xvnc


def test_recorded_sessions_pass_all_relays() -> None:
    captures.load("tiger-novnc-basic")  # or there are none, and the test is skipped
    for peer in ("direct", "ours"):
        (record,) = measure("replay", peer, 0.1)
        assert record["bytes"] > 2_000_000, peer


def test_captures_that_do_not_end_as_they_began_are_left_out() -> None:
    def expected(**changes: object) -> dict[str, object]:
        return {
            "rfb_session": True,
            "rects": {"7": 1, "-224": 1},
            "server_init": {"width": 8, "height": 8},
            "final_framebuffer": [8, 8],
            "pixel_format_changes": [{"effective_at_server_offset": 60}],
        } | changes

    assert left_out(expected(), 60) == ""
    assert left_out(expected(), 59) == "changes its pixel format"
    assert left_out(expected(final_framebuffer=[8, 9]), 60) == "changes its size"
    assert left_out(expected(rects={"12345": 1}), 60) == "encodings that are not relayed"
    assert left_out(expected(rfb_session=False), 60) == "no RFB session"


def test_without_captures_the_replay_says_so(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "bench.replay"],
        env=os.environ | {"RELAY_SHARED": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == os.EX_UNAVAILABLE
    assert run.stderr == f"no captures at {tmp_path / 'traces'}; set RELAY_SHARED\n"


@needs_xvnc
@pytest.mark.skipif(shutil.which("xterm") is None, reason="xterm is not installed")
@pytest.mark.parametrize("peer", ["direct", "ours"])
def test_a_moving_picture_passes(peer: str) -> None:
    (record,) = measure("xvnc", peer, 0.3)
    assert record["updates"] > 0
    assert record["bytes"] > 1000
