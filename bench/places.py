"""Where the bench lies."""

from __future__ import annotations

from pathlib import Path

BENCH = Path(__file__).resolve().parent
