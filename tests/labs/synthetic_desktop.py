"""The synthetic desktop of the bench, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def synthetic_desktop(scheme: str = "tcp") -> Iterator[tuple[str, int]]:
    """Its address and process id."""
    command = [sys.executable, "-m", "bench.server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ports = json.loads(process.stdout.readline())
            yield f"{scheme}://127.0.0.1:{ports[scheme]}/", process.pid
        finally:
            process.terminate()
