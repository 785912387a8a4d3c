"""What the process holds is its own: nobody who runs as the same user reads its memory, and its
environment has no secret once the settings were read.

Both matter where programs of others run as the server's user: on a desktop that is not kept apart,
or by a mistake.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from typing import Final

__all__ = ["be_private", "forget"]

_PR_SET_DUMPABLE: Final = 4


def be_private() -> None:
    """Keeps debuggers, /proc/PID/mem, /proc/PID/environ and core files to root. What it starts is
    as it would be without it."""
    if ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise AssertionError("prctl(PR_SET_DUMPABLE) fails only for a value that it does not know")


def forget(names: Iterable[str]) -> None:
    """Takes variables out of the environment, and their values out of what /proc shows of it.

    Call before other threads run: C code may be reading them.
    """
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    for name in names:
        # `unsetenv` forgets where the text is, and leaves it there.
        where = getenv(os.fsencode(name))
        if where is not None:
            ctypes.memset(where, 0, len(ctypes.string_at(where)))
        os.environ.pop(name, None)
