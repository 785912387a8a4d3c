"""Frames whose payload the kernel moves from the desktop's socket to the viewer's, through a pipe,
so that it never enters Python (docs/decisions/0002-splice.md).
"""

from __future__ import annotations

import array
import fcntl
import os
import termios

from relay.pumps.leg import DownLeg

# Below this, two copies cost less than the system calls.
LEAST_BYTES = 131_072

# What a pipe is asked to hold, and so the most that a frame has.
_PIPE_BYTES = 1_048_576

# Of a frame so much at a time goes into the pipe, where it is held when the viewer takes no more;
# what stays in the desktop's socket holds the desktop up. After a step that did not have to wait
# the next may be longer: nginx's CPU times 1.03 with short steps alone, 0.68 with long ones, 0.64
# with 1 MiB.
STEP_BYTES = 65_536
_LONG_STEP_BYTES = 262_144

_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_F_SETPIPE_SZ = 1031

# Empty pipes for the next frame, of whatever session: a pipe is held only while a frame is under
# way, so there are about as many as viewers that are behind.
_pipes: list[tuple[int, int]] = []
_POOLED_PIPES = 8


class SplicedFrame:
    """One frame under way. Its payload was readable before it began, so it can always be finished.

    `left_bytes` did not go to the viewer yet. `step_bytes` is for the session's next frame.
    """

    __slots__ = ("_in_pipe_bytes", "_pipe", "left_bytes", "step_bytes")

    def __init__(self, pipe: tuple[int, int], count: int, step_bytes: int) -> None:
        self._pipe = pipe
        self._in_pipe_bytes = 0
        self.left_bytes = count
        self.step_bytes = step_bytes

    def move(self, desktop_fd: int, leg: DownLeg, viewer_fd: int) -> int:
        """Moves as much as the viewer's socket takes; how many bytes that were. Raises OSError
        and EOFError where one of the two is gone."""
        before = self.left_bytes
        source, sink = self._pipe
        while self.left_bytes:
            if not self._in_pipe_bytes:
                count = min(self.left_bytes, self.step_bytes)
                moved = os.splice(desktop_fd, sink, count, flags=_FLAGS)
                if not moved:
                    raise EOFError
                self._in_pipe_bytes = moved
                leg.reader.moved(moved)
                leg.bytes_moved += moved
            try:
                sent = os.splice(source, viewer_fd, self._in_pipe_bytes, flags=_FLAGS)
            except BlockingIOError:
                self.step_bytes = STEP_BYTES
                break
            self._in_pipe_bytes -= sent
            self.left_bytes -= sent
            if not self._in_pipe_bytes:
                self.step_bytes = _LONG_STEP_BYTES
        return before - self.left_bytes

    def close(self) -> None:
        """Gives the pipe back."""
        if not self._in_pipe_bytes and len(_pipes) < _POOLED_PIPES:
            _pipes.append(self._pipe)
        else:
            os.close(self._pipe[0])
            os.close(self._pipe[1])


def begin(desktop_fd: int, leg: DownLeg, step_bytes: int) -> SplicedFrame | None:
    """A frame of what is readable of the opaque bytes; None where the kernel cannot have them, or
    where that does not pay."""
    reader = leg.reader
    if reader.discarding:
        return None
    readable = array.array("i", [0])
    fcntl.ioctl(desktop_fd, termios.FIONREAD, readable)
    count = min(readable[0], reader.opaque, _PIPE_BYTES)
    if count < LEAST_BYTES:
        return None
    pipe = _pipes.pop() if _pipes else _new_pipe()
    return SplicedFrame(pipe, count, step_bytes) if pipe else None


def _new_pipe() -> tuple[int, int] | None:
    """None where the process has no descriptors left for one."""
    try:
        pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.fcntl(pipe[1], _F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        # Users have a share of pipe pages; a pipe of 64 KiB serves as well, in more steps.
        pass
    return pipe
