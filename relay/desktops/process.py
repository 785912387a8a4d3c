"""Child processes that end with the relay, however the relay ends.

`supervise` owns the process and a nursery that reads its output.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import trio

logger = logging.getLogger("relay.desktops")

STOP_GRACE_S = 1.5
"""From TERM to KILL. Xvnc needs a tenth of it to remove its sockets."""

KILL_GRACE_S = 0.7
"""From KILL to giving up on a process that the kernel does not let go."""

TAIL_BYTES = 65_536
"""Kept of each output: the last lines, for messages. Also the size of a pipe, so that one read
takes all that an ended process has left in it."""

READ_PAUSE_S = 0.02
"""Between two reads of an output: of a program that writes all it can, some MB/s are taken."""

# Runs in the child. The kernel sends TERM when the thread that started it dies; if that has
# happened before prctl was reached, the parent is another one by now. A change of the user undoes
# it, so that comes first. Python ignores two signals that programs rely on, so they are set back.
# Keys go with the session keyring, whoever the user is: of that, who is kept apart has a new one.
# Another user may not be let to where Python lies (/root/.pyenv): execvp's own import comes before.
_SHIM = """
import ctypes, os, signal, sys, warnings
PR_SET_PDEATHSIG = 1
KEYCTL_JOIN_SESSION_KEYRING = 1
KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "ppc64le": 271, "s390x": 280}
parent, uid, gid, apart = map(int, sys.argv[1:5])
libc = ctypes.CDLL(None)
for name in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(name, signal.SIG_DFL)
if uid >= 0:
    os.umask(0o077)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
if apart and os.uname().machine in KEYCTL:
    libc.syscall(KEYCTL[os.uname().machine], KEYCTL_JOIN_SESSION_KEYRING, None)
if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
    sys.exit("prctl failed")
if os.getppid() != parent:
    sys.exit("the relay is gone")
os.execvp(sys.argv[5], sys.argv[5:])
"""


class _Output:
    """The last bytes that a process has written to a pipe."""

    def __init__(self, pipe: IO[bytes]) -> None:
        os.set_blocking(pipe.fileno(), False)
        self._pipe = pipe
        self._tail = bytearray()
        self._grown = trio.Event()

    def __bytes__(self) -> bytes:
        return bytes(self._tail)

    async def grown(self) -> None:
        """Waits until there is more."""
        await self._grown.wait()

    def read(self) -> bool:
        """Takes what is there; False at the end of the stream."""
        try:
            data = os.read(self._pipe.fileno(), TAIL_BYTES)
        except BlockingIOError:
            return True
        self._tail += data
        del self._tail[:-TAIL_BYTES]
        self._grown.set()
        self._grown = trio.Event()
        return bool(data)

    async def follow(self) -> None:
        while self.read():
            await trio.sleep(READ_PAUSE_S)
            await trio.lowlevel.wait_readable(self._pipe.fileno())

    def close(self) -> None:
        self._pipe.close()


# Starting a process takes until its program runs, on a busy machine a tenth of a second. Not in one
# of Trio's worker threads: the end of an idle one would count as the parent's death. This one lives
# as long as the process.
_starter = ThreadPoolExecutor(1, "desktops")


async def _started(
    command: Sequence[str],
    environment: Mapping[str, str],
    pass_fds: Sequence[int],
    user: tuple[int, int] | None,
    apart: bool,
) -> subprocess.Popen[bytes]:
    uid, gid = (-1, -1) if user is None else user
    done, token = trio.Event(), trio.lowlevel.current_trio_token()
    future = _starter.submit(
        subprocess.Popen,
        [
            *(sys.executable, "-I", "-S", "-c", _SHIM),
            *(str(os.getpid()), str(uid), str(gid), str(int(apart)), *command),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=_home(environment),
        pass_fds=pass_fds,
        # A session of its own keeps the terminal's Ctrl-C from the desktop, which the relay stops
        # in its own order.
        start_new_session=True,
    )
    future.add_done_callback(lambda _: token.run_sync_soon(done.set))
    with trio.CancelScope(shield=True):  # or nobody would stop it
        await done.wait()
    popen: subprocess.Popen[bytes] = future.result()
    return popen


class Child:
    """A process that `supervise` runs."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        try:
            self._pidfd = os.pidfd_open(self._popen.pid)
        except OSError:
            with self._popen:  # closes its pipes and reaps it
                self._popen.kill()
            raise
        self._ended = trio.Event()
        self.pid = self._popen.pid
        self.stdout = _Output(self._popen.stdout)
        self.stderr = _Output(self._popen.stderr)
        self.status: int | None = None
        """Exit status once it has ended; negative for a signal."""

    def last_words(self) -> str:
        """The end of what it wrote to stderr, fit for a message."""
        lines = bytes(self.stderr).decode("utf-8", "replace").splitlines()
        words = [line for line in map(_printable, lines) if line][-4:]
        return " / ".join(words)[-500:] or "it said nothing"

    async def wait(self) -> None:
        """Until it has ended. Any number of tasks may wait."""
        await self._ended.wait()

    async def wait_for_line(self) -> None:
        """Until it has written a line to stdout, or has ended."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_at_end, nursery.cancel_scope)
            while b"\n" not in bytes(self.stdout):
                await self.stdout.grown()
            nursery.cancel_scope.cancel()

    async def _cancel_at_end(self, scope: trio.CancelScope) -> None:
        await self.wait()
        scope.cancel()

    async def watch(self) -> None:
        """Until it has ended, for `supervise` alone: one task may wait for a descriptor.

        It stays a zombie until `reap`, so that its id stays its own.
        """
        await trio.lowlevel.wait_readable(self._pidfd)
        self.stdout.read()
        self.stderr.read()
        self._ended.set()

    async def stop(self) -> None:
        """TERM, a wait, KILL, a wait: for it and its process group."""
        for signal_number, grace_s in (
            (signal.SIGTERM, STOP_GRACE_S),
            (signal.SIGKILL, KILL_GRACE_S),
        ):
            os.killpg(self.pid, signal_number)
            with trio.move_on_after(grace_s):
                await self.watch()

    def reap(self) -> None:
        self.status = self._popen.poll()
        if self.status is None:
            logger.error("process %d does not end, not even by SIGKILL", self.pid)
        self.stdout.close()
        self.stderr.close()
        os.close(self._pidfd)


def _home(environment: Mapping[str, str]) -> str:
    """Where a person expects a terminal to be; and no file system of the relay's is held."""
    home = environment.get("HOME", "/")
    return home if Path(home).is_dir() else "/"


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else " " for c in line).strip()


async def supervise(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    pass_fds: Sequence[int] = (),
    user: tuple[int, int] | None = None,
    apart: bool = False,
    task_status: trio.TaskStatus[Child] = trio.TASK_STATUS_IGNORED,
) -> Child:
    """Runs `command` until it ends, and returns it with its `status` and output; as the `user`
    with that uid and gid, and no other groups; `apart`, without the keys of this process's session.

    On cancellation the process and its group are stopped first, which takes at most
    STOP_GRACE_S + KILL_GRACE_S. It gets TERM when this process dies.
    """
    child = Child(await _started(command, environment, pass_fds, user, apart))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.stdout.follow)
            nursery.start_soon(child.stderr.follow)
            task_status.started(child)
            await child.watch()
            # Not until the pipes end: what it has started may hold them open.
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):  # stop() has its own deadlines
            await child.stop()
        child.reap()
    return child
