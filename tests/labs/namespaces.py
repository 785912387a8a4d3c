"""The network namespaces of this machine, for tests that make some."""

from __future__ import annotations

import subprocess

import pytest

from bench.lag.link import NotPermitted, slow_link


def namespaces() -> set[str]:
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in done.stdout.splitlines()}


@pytest.fixture
def before() -> set[str]:
    """The namespaces there were; skips where none can be made."""
    try:
        existing = namespaces()
        with slow_link("cubic"):
            pass
    except (OSError, NotPermitted) as refusal:
        pytest.skip(f"no network namespaces here: {refusal}")
    return existing
