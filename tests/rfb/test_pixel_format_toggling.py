"""A viewer that changes its pixel format as fast as it can keeps step, on real desktops; and so
does the relay where the viewer does what it may not (tests/labs/toggling.py; 10,000 changes each,
of rude-both a hundred: `python -m tests.labs.toggling`)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.labs.desktop_processes import desktops_home
from tests.labs.rfb_viewer import CURSOR
from tests.labs.toggling import COMBINATIONS, desktop, toggle

__all__ = ["desktops_home"]

NEEDED = {"xvnc": ("Xvnc", "xterm"), "x11vnc": ("Xvnc", "xterm", "x11vnc")}


def _need(server: str) -> None:
    missing = [program for program in NEEDED[server] if shutil.which(program) is None]
    if not missing:
        return
    reason = f"not installed: {', '.join(missing)} (see .ci/run for the packages)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.mark.parametrize(
    ("server", "mode"), [(server, mode) for server in COMBINATIONS for mode in COMBINATIONS[server]]
)
async def test_nobody_loses_step(desktops_home: Path, server: str, mode: str) -> None:
    _need(server)
    # Every other change of this one waits in vain for a second answer, three times its patience.
    changes, patience_s = (16, 0.5) if mode == "rude-both" else (200, None)
    async with desktop(server) as address:
        report = await toggle(server, address, mode, changes, patience_s)
    print(report)
    assert report.changes == changes
    # What depends on the size of a pixel has been seen: pixels and cursors.
    assert len([number for number in report.encodings if number >= 0]) >= 2
    assert report.encodings[CURSOR] > 0
    if server == "xvnc":
        assert bool(report.fences) == (mode not in ("plain", "rude", "rude-both"))
