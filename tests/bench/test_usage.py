"""What processes cost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bench import usage


def test_cpu_and_memory_are_those_of_the_whole_tree() -> None:
    busy = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(10**7))'])"
    script = f"{busy}; print(flush=True); input()"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        spent_s = usage.cpu_s([process.pid])
        own_ticks = sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().split()[13:15]))
        # The child that did the work has ended.
        assert spent_s > own_ticks / usage.TICKS_PER_S + 0.02
        resident = usage.memory([process.pid])
        assert 0 < resident.pss_kib <= resident.rss_kib
        assert usage.tree([os.getpid()])[0] == os.getpid()
        assert process.pid in usage.tree([os.getpid()])
        process.communicate(b"\n")
    assert usage.cpu_s([process.pid]) == 0
