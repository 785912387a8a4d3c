"""`python -m bench.flood`: what one address notices of another that opens connections.

A server (`deskrelay serve`, with its defaults) is flooded from 127.0.0.2 with connections that say
nothing, or half a head; from 127.0.0.3 `/healthz` is asked meanwhile, and while all that were
accepted stay open. The table has how long the answers took. The exit status is 1 where one was not
had, or took a second.
"""

from __future__ import annotations

import os
import resource
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from bench.options import parser_of

BAR_S = 1.0
TIMEOUT_S = 30.0
ASKS = 10
HOST: Final = "127.0.0.1"

KINDS: dict[str, bytes] = {"nothing": b"", "half a head": b"GET / HTTP/1.1\r\nHost: local"}


@contextmanager
def served() -> Iterator[int]:
    """The port of a server in a process of its own."""
    with tempfile.TemporaryDirectory() as directory:
        environment = {name: value for name, value in os.environ.items() if "DESKRELAY" not in name}
        environment |= {"DESKRELAY_BIND": f"{HOST}:0"}
        command = [sys.executable, "-m", "api", "serve"]
        with subprocess.Popen(
            command, cwd=directory, env=environment, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stderr is not None
                for line in process.stderr:
                    if "serving at http" in line:
                        break
                # The rest is read too, or the server would wait for it.
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield int(line.strip().rpartition(":")[2])
            finally:
                process.terminate()


def ask(port: int) -> float:
    """How long `/healthz` takes, in s. Raises OSError where it is not answered."""
    began = time.perf_counter()
    with socket.create_connection((HOST, port), TIMEOUT_S, ("127.0.0.3", 0)) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        if not client.recv(100).startswith(b"HTTP/1.1 200 "):
            raise OSError("no answer")
    return time.perf_counter() - began


@contextmanager
def flooding(port: int, count: int, say: bytes) -> Iterator[threading.Thread]:
    """A thread that opens connections, which stay open until the end of the block."""
    opened: list[socket.socket] = []

    def flood() -> None:
        for _ in range(count):
            one = socket.socket()
            opened.append(one)
            one.bind(("127.0.0.2", 0))
            one.setblocking(False)
            one.connect_ex((HOST, port))
        # The kernel tries again for those that found the backlog full.
        for one in opened:
            poll = select.poll()  # select() takes no descriptors over 1,023
            poll.register(one, select.POLLOUT)
            if poll.poll(TIMEOUT_S * 1000):
                _say(one, say)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        yield thread
    finally:
        thread.join()
        for one in opened:
            one.close()


def _say(one: socket.socket, say: bytes) -> None:
    try:
        if say:
            one.send(say)
    except OSError:
        pass  # It is not open any more.


def measure(count: int, say: bytes) -> list[float]:
    """How long the answers took, in s."""
    with served() as port:
        ask(port)
        with flooding(port, count, say) as thread:
            took_s = [ask(port)]
            while thread.is_alive():
                took_s.append(ask(port))
            return took_s + [ask(port) for _ in range(ASKS)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("bench.flood", __doc__)
    parser.add_argument("--connections", type=int, default=4_300, help="how many")
    count = parser.parse_args(arguments).connections
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    lines = ["| connections that say | asked | median ms | longest ms | |", "|---|---|---|---|---|"]
    fine = True
    for kind, say in KINDS.items():
        try:
            took_s = sorted(measure(count, say))
        except OSError as error:
            fine = False
            lines.append(f"| {kind} | | | | NOT ANSWERED: {error} |")
            continue
        met = took_s[-1] < BAR_S
        fine = fine and met
        median_ms, longest_ms = took_s[len(took_s) // 2] * 1000, took_s[-1] * 1000
        verdict = "met" if met else "NOT MET"
        lines.append(f"| {kind} | {len(took_s)} | {median_ms:.1f} | {longest_ms:.1f} | {verdict} |")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
