"""Processes that are measured: each on CPUs of its own, and where it serves once it does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench.peers.installed import Unavailable

START_S = 20
STOP_S = 5


@dataclass(frozen=True)
class Running:
    """Where a viewer goes, and the root of the process tree that is measured (None: no relay)."""

    address: str
    token: str = ""
    pid: int | None = None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def child(
    command: list[str], cpus: set[int], **environment: str
) -> Iterator[tuple[subprocess.Popen[str], Callable[[], str]]]:
    """A process on these CPUs, and how to get at the end of what it has logged."""
    with tempfile.TemporaryFile("w+") as log:
        own = os.sched_getaffinity(0)
        # Inherited, so that no thread or child of it can begin elsewhere.
        os.sched_setaffinity(0, cpus)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | environment,
            )
        finally:
            os.sched_setaffinity(0, own)

        def last_words() -> str:
            log.seek(0)
            return log.read()[-2000:]

        with process:
            try:
                yield process, last_words
            finally:
                process.terminate()
                try:
                    process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()


@contextmanager
def announced(command: list[str], cpus: set[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """A child that says as JSON, in its first line of output, where it serves. Raises
    Unavailable where it says why it cannot (exit status 69), and SystemExit where it does not."""
    with child(command, cpus) as (process, last_words):
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            status = process.wait()
            if status == os.EX_UNAVAILABLE:
                raise Unavailable(last_words().strip())
            raise SystemExit(f"{' '.join(command)} did not start:\n{last_words()}")
        yield process.pid, json.loads(line)


@contextmanager
def listening(
    command: list[str], port: int, scheme: str, cpus: set[int], **environment: str
) -> Iterator[Running]:
    """A child that says nothing: it is ready when its port answers."""
    with child(command, cpus, **environment) as (process, last_words):
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                if process.poll() is not None or time.monotonic() > deadline:
                    text = f"{command[0]} did not start:\n{last_words()}"
                    raise SystemExit(text) from None
                time.sleep(0.02)
        yield Running(f"{scheme}://127.0.0.1:{port}/", pid=process.pid)
