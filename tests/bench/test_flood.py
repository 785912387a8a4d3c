"""The bench that floods a server with connections. How long answers take is not judged here."""

from __future__ import annotations

import subprocess
import sys

from bench.flood import KINDS
from tests.labs.places import ROOT


def test_whoever_is_elsewhere_is_answered_beside_4300_connections() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.flood"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    rows = done.stdout.splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == list(KINDS), done.stderr
    assert "NOT ANSWERED" not in done.stdout
