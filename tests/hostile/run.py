"""Hostile desktops and viewers against a running server, while a good session goes on beside them.

`python -m tests.hostile.run` (or `make hostile`) plays every scenario of
`../shared/hostile/hostile.py` ($RELAY_SHARED elsewhere), about five minutes, and fails where one is
not answered as it should be, where the good session is disturbed, or where anything is left behind.
It exits with 69 (EX_UNAVAILABLE) where that program is not there. The arguments are patterns of
scenarios.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import trio

from tests.labs.captures import SHARED
from tests.labs.peers import Frames, client_frame

PROGRAM = SHARED / "hostile" / "hostile.py"

# Short, because every scenario waits for the deadline it is about.
LIMITS = {
    "handshake_timeout_s": 4,
    "stall_timeout_s": 4,
    "ping_interval_s": 2,
    "ping_timeout_s": 2,
}
ANSWER_S = 5.0
"""For one update of the good session; it is a few milliseconds on an idle machine."""

SPARE_DESCRIPTORS = 24
"""What the server may keep for the next sessions: pipes, threads' and the database's."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`deskrelay serve` with a workspace for each desktop, and a chat for each workspace."""

    def __init__(self, folder: Path, desktops: dict[str, str]) -> None:
        self._config = folder / "deskrelay.toml"
        limits = "".join(f"{name} = {value}\n" for name, value in LIMITS.items())
        self._config.write_text(
            f'bind = ["127.0.0.1:0"]\ndatabase_url = "sqlite:///{folder}/store.db"\n'
            f"[limits]\n{limits}"
        )
        self.token = self._deskrelay("token", "create", "--user", "tester")
        self.chats = {}
        for name, desktop in desktops.items():
            self._deskrelay("workspace", "add", "--user", "tester", "--desktop", desktop, name)
            chat = self._deskrelay("chat", "create", "--user", "tester", "--workspace", name)
            self.chats[name] = chat
        self.process = subprocess.Popen(
            [sys.executable, "-m", "api", "serve", "--config", str(self._config)],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url = self._find_url()

    def _deskrelay(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "api", *arguments, "--config", str(self._config)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def _find_url(self) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("serving at "):
                return line.split()[-1]
        raise SystemExit("the server did not start")

    def desktop_url(self, name: str) -> str:
        return f"ws{self.url.removeprefix('http')}/api/v2/chats/{self.chats[name]}/desktop"

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    async def live(self) -> int:
        headers = {"Coder-Session-Token": self.token}
        async with httpx.AsyncClient(headers=headers, trust_env=False) as client:
            lines = (await client.get(f"{self.url}/metrics")).text.splitlines()
        (line,) = (line for line in lines if line.startswith("deskrelay_sessions_live "))
        return int(float(line.split()[1]))


async def watch(server: Server, seen: list[int], scope: trio.CancelScope) -> None:
    """A good viewer: asks for the whole picture again and again, and waits for each answer."""
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    path = f"/api/v2/chats/{server.chats['good']}/desktop"
    head = (
        f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"Coder-Session-Token: {server.token}\r\n\r\n"
    )
    async with stream:
        await stream.send_all(head.encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += await stream.receive_some(1)
        assert b" 101 " in answer, answer
        frames = Frames(stream)
        await stream.send_all(client_frame(b"RFB 003.008\n") + client_frame(b"\x01\x01"))
        with scope:
            while True:
                # RFC 6143, Section 7.5.3: one pixel, whatever has changed.
                await stream.send_all(client_frame(bytes.fromhex("03000000000000010001")))
                with trio.fail_after(ANSWER_S):
                    while (message := await frames.next())[0] != 2:
                        assert message[0] == 9, message
                        await stream.send_all(client_frame(message[1], opcode=10))
                seen.append(len(message[1]))
                await trio.sleep(0.05)


async def play(server: Server, kind: str, port: int, patterns: list[str]) -> list[dict[str, Any]]:
    """Runs one side's scenarios; their results."""
    command = [sys.executable, str(PROGRAM), kind, "--listen", f"127.0.0.1:{port}"]
    command += ["--url", server.desktop_url(kind), "--limit", "12"]
    command += ["--auth-header", f"Coder-Session-Token: {server.token}"]
    command += [word for pattern in patterns for word in ("--scenario", pattern)]
    done = await trio.run_process(command, capture_stdout=True, check=False)
    return [json.loads(line) for line in done.stdout.splitlines()]


async def main(patterns: list[str]) -> int:
    ports = {"server": _free_port(), "client": _free_port()}
    desktops = {kind: f"tcp://127.0.0.1:{port}" for kind, port in ports.items()}
    results: list[dict[str, Any]] = []
    seen: list[int] = []
    bugs: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), desktops | {"good": "pattern"})
        # The thread that reads the log ends with the server: so the server ends within the nursery,
        # whatever goes wrong there.
        async with trio.open_nursery() as nursery:
            try:
                scope = trio.CancelScope()
                nursery.start_soon(trio.to_thread.run_sync, _drain, server, bugs)
                nursery.start_soon(watch, server, seen, scope)
                await trio.sleep(2)
                before = server.descriptors()

                async def side(kind: str) -> None:
                    results.extend(await play(server, kind, ports[kind], patterns))

                async with trio.open_nursery() as sides:
                    for kind in ports:
                        sides.start_soon(side, kind)
                await trio.sleep(3)
                live, after = await server.live(), server.descriptors()
                scope.cancel()
            finally:
                server.process.terminate()
        server.process.wait()
    verdicts = Counter(r["verdict"] for r in results if "verdict" in r)
    for result in results:
        if result.get("verdict") not in (None, "PASS", "INFO"):
            print(json.dumps(result))
    print(f"{dict(verdicts)}; the good session got {len(seen)} updates; tracebacks: {len(bugs)}")
    print(f"at the end: {live} sessions live (the good one), descriptors {before} -> {after}")
    good = set(verdicts) <= {"PASS", "INFO"} and sum(verdicts.values()) > 0
    return 0 if good and not bugs and live == 1 and after <= before + SPARE_DESCRIPTORS else 1


def _drain(server: Server, bugs: list[str]) -> None:
    """Reads the log away, and keeps the lines that only a bug of ours writes."""
    assert server.process.stderr is not None
    bugs.extend(line for line in server.process.stderr if "Traceback" in line)


if __name__ == "__main__":
    if not PROGRAM.exists():
        print(f"not run: {PROGRAM} is not there")
        raise SystemExit(69)
    raise SystemExit(trio.run(main, sys.argv[1:]))
