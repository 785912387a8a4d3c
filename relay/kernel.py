"""What the raw pumps have of the kernel beside sockets: pipes for payload that never enters Python,
and pages for what a socket did not take.
"""

from __future__ import annotations

import fcntl
import mmap
import os

PIPE_BYTES = 1_048_576
"""What a pipe is asked to hold."""

_F_SETPIPE_SZ = 1031

# What is kept for a slow peer, from here on in pages of its own: the heap would have holes
# afterwards. When 1,000 stalled sessions had ended, the process still had 110 MiB of theirs.
_OWN_PAGES_FROM_BYTES = 16_384

# Empty pipes for the next splice, of whatever session: a pipe is held only while a frame is under
# way, so there are about as many as viewers that are behind.
_pipes: list[tuple[int, int]] = []
_POOLED_PIPES = 8


def take_pipe() -> tuple[int, int] | None:
    """An empty pipe; None where the process has no descriptors left for one."""
    if _pipes:
        return _pipes.pop()
    try:
        pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.fcntl(pipe[1], _F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        # Users have a share of pipe pages; a pipe of 64 KiB serves as well, in more steps.
        pass
    return pipe


def give_pipe(pipe: tuple[int, int], *, empty: bool) -> None:
    """Keeps an empty pipe for the next session; one with bytes in it is closed."""
    if empty and len(_pipes) < _POOLED_PIPES:
        _pipes.append(pipe)
    else:
        os.close(pipe[0])
        os.close(pipe[1])


def kept(rest: memoryview) -> memoryview:
    """What a socket did not take, in memory that the system has back when it is sent."""
    if len(rest) < _OWN_PAGES_FROM_BYTES:
        return memoryview(bytes(rest))
    pages = mmap.mmap(-1, len(rest), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages[:] = rest
    return memoryview(pages)
