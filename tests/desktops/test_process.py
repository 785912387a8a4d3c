"""Child processes: they end with whoever started them, and their output is bounded."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys

import pytest
import trio

from relay.desktops import process
from relay.desktops.process import Child, supervise
from tests.labs.desktop_processes import until
from tests.labs.places import ROOT

ENVIRONMENT = {"PATH": os.environ["PATH"]}


async def test_output_and_status() -> None:
    child = await supervise(
        ["sh", "-c", "echo out; echo one >&2; echo two >&2; exit 3"], environment=ENVIRONMENT
    )
    assert child.status == 3
    assert bytes(child.stdout) == b"out\n"
    assert child.last_words() == "one / two"


async def test_only_the_end_of_long_output_is_kept() -> None:
    child = await supervise(
        ["sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x; printf end"], environment=ENVIRONMENT
    )
    assert len(bytes(child.stdout)) == process.TAIL_BYTES
    assert bytes(child.stdout).endswith(b"xend")


async def test_who_writes_all_it_can_is_read_at_the_relays_pace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses = 0
    sleep = trio.sleep

    async def counted(seconds: float) -> None:
        nonlocal pauses
        assert seconds == process.READ_PAUSE_S
        pauses += 1
        await sleep(0)

    monkeypatch.setattr(trio, "sleep", counted)
    amount = 100 * process.TAIL_BYTES
    await supervise(["head", "-c", str(amount), "/dev/zero"], environment=ENVIRONMENT)
    assert pauses >= 90  # A pipe holds some of it at the end.


async def test_child_that_leaves_its_pipes_to_another_does_not_hold_us() -> None:
    with trio.fail_after(5):
        child = await supervise(["sh", "-c", "sleep 30 & echo done"], environment=ENVIRONMENT)
    assert bytes(child.stdout) == b"done\n"


async def test_cancellation_kills_a_child_that_is_deaf_to_term() -> None:
    children: list[Child] = []
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            command = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"]

            async def run(task_status: trio.TaskStatus[Child]) -> None:
                await supervise(command, environment=ENVIRONMENT, task_status=task_status)

            child: Child = await nursery.start(run)
            children.append(child)
            await until(lambda: bytes(child.stdout) == b"ready\n")
            nursery.cancel_scope.cancel()
    assert children[0].status == -signal.SIGKILL


async def test_programs_get_the_signals_that_python_ignores() -> None:
    # With SIGPIPE ignored, "yes" would complain instead of dying quietly.
    child = await supervise(["sh", "-c", "yes | head -n 1"], environment=ENVIRONMENT)
    assert bytes(child.stdout) == b"y\n"
    assert child.last_words() == "it said nothing"


def test_programs_are_found_by_a_user_who_cannot_read_python() -> None:
    hidden = """
import os, sys
os.setgroups = os.setresgid = lambda *_: None
os.setresuid = lambda *_: sys.meta_path.clear()
"""
    ids = (str(os.getpid()), "1900000000", "1900000000", "0")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", hidden + process._SHIM, *ids, "echo", "started"],
        check=False,
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (0, b"started\n"), done.stderr


def test_parent_that_died_before_the_child_could_ask_for_its_signal() -> None:
    shim = subprocess.run(
        [sys.executable, "-I", "-S", "-c", process._SHIM, "1", "-1", "-1", "0", "echo", "started"],
        capture_output=True,
        check=False,
    )
    assert shim.returncode != 0
    assert shim.stdout == b""
    assert b"the relay is gone" in shim.stderr


def test_logger_is_the_documented_one() -> None:
    assert process.logger is logging.getLogger("relay.desktops")


KEYS = """
import ctypes, os, sys, trio
from relay.desktops.process import supervise

JOIN, SEARCH, SESSION = 1, 10, -3
add_key, keyctl = {"x86_64": (248, 250)}.get(os.uname().machine, (217, 219))
libc = ctypes.CDLL(None)
LOOK = f"import ctypes; print(ctypes.CDLL(None).syscall({keyctl}, 10, -3, b'user', b'ours', 0))"

async def found(apart):
    child = await supervise([sys.executable, "-c", LOOK], environment={}, apart=apart)
    return int(bytes(child.stdout)) > 0

assert libc.syscall(keyctl, JOIN, None) > 0
assert libc.syscall(add_key, b"user", b"ours", b"secret", 6, SESSION) > 0
print(trio.run(found, False), trio.run(found, True))
"""


@pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="numbers of calls")
def test_who_is_kept_apart_has_no_keys_of_the_session() -> None:
    done = subprocess.run(
        [sys.executable, "-c", KEYS], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "True False\n"
