"""Processes of this machine."""

from __future__ import annotations

from pathlib import Path


def descendants(ancestor: int) -> dict[int, str]:
    """Process id and name of every living process below `ancestor`."""
    parents: dict[int, tuple[int, str]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = path.read_text().rpartition(")")
        except OSError:
            continue  # ended meanwhile
        pid, _, name = head.partition(" (")
        state, parent = tail.split()[:2]
        if state not in "ZX":
            parents[int(pid)] = (int(parent), name)
    found: dict[int, str] = {}
    frontier = {ancestor}
    while frontier:
        level = {pid: name for pid, (parent, name) in parents.items() if parent in frontier}
        found |= level
        frontier = set(level)
    return found
