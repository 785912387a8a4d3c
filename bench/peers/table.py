"""The relays that are measured: ours and its peers, each started afresh for each run.

`python -m bench.peers` installs websockify and npm's ws into bench/.peers. nginx, haproxy and node
are used where they are on the PATH. What cannot be had is left out, with the reason.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BENCH = HERE.parent
FOLDER = BENCH / ".peers"
WEBSOCKIFY = FOLDER / "venv" / "bin" / "websockify"
WS = FOLDER / "node" / "node_modules" / "ws"

START_S = 20
STOP_S = 5

NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/log warn;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{desktop}; proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";
      proxy_buffer_size 64k; proxy_buffers 4 64k; proxy_read_timeout 60s;
    }}
  }}
}}
"""
HAPROXY = """
global
    maxconn 4096
    nbthread 1
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
    {splice}
listen relay
    bind 127.0.0.1:{port}
    server desktop 127.0.0.1:{desktop}
"""


@dataclass(frozen=True)
class Running:
    """Where a viewer goes, and the root of the process tree that is measured (None: no relay)."""

    address: str
    token: str = ""
    pid: int | None = None


class Unavailable(Exception):
    """A peer, or a desktop, that cannot be had here; says why."""


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
def _listening(
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


@contextmanager
def _direct(desktop: dict[str, int], _cpus: set[int]) -> Iterator[Running]:
    yield Running(f"tcp://127.0.0.1:{desktop['tcp']}")


@contextmanager
def _ours(scheme: str, desktop: dict[str, int], cpus: set[int]) -> Iterator[Running]:
    address = f"{scheme}://127.0.0.1:{desktop[scheme]}"
    command = [sys.executable, "-m", "api", "demo", "--json", "--bind", "127.0.0.1:0"]
    with announced([*command, "--desktop", address], cpus) as (pid, demo):
        yield Running(demo["ws_url"], demo["token"], pid)


@contextmanager
def _nginx(desktop: dict[str, int], cpus: set[int]) -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        path = Path(folder, "nginx.conf")
        path.write_text(NGINX.format(folder=folder, port=port, desktop=desktop["ws"]))
        command = [_program("nginx"), "-e", f"{folder}/log", "-c", str(path)]
        with _listening(command, port, "ws", cpus) as running:
            yield running


@contextmanager
def _haproxy(splice: str, desktop: dict[str, int], cpus: set[int]) -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        path = Path(folder, "haproxy.cfg")
        path.write_text(HAPROXY.format(splice=splice, port=port, desktop=desktop["tcp"]))
        command = [_program("haproxy"), "-db", "-f", str(path)]
        with _listening(command, port, "tcp", cpus) as running:
            yield running


@contextmanager
def _node(desktop: dict[str, int], cpus: set[int]) -> Iterator[Running]:
    port = free_port()
    command = [_program("node"), str(HERE / "node_relay.js"), str(port), str(desktop["tcp"])]
    with _listening(command, port, "ws", cpus, NODE_PATH=str(WS.parent)) as running:
        yield running


@contextmanager
def _websockify(desktop: dict[str, int], cpus: set[int]) -> Iterator[Running]:
    port = free_port()
    command = [str(WEBSOCKIFY), f"127.0.0.1:{port}", f"127.0.0.1:{desktop['tcp']}"]
    with _listening(command, port, "ws", cpus) as running:
        yield running


def _program(name: str) -> str:
    # Debian keeps servers where only root's PATH leads.
    return shutil.which(name) or shutil.which(name, path="/usr/sbin") or ""


def _said(*command: str) -> str:
    """What a program says when it is asked for its version, its first line."""
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return (run.stdout + run.stderr).strip().partition("\n")[0]


def _ours_version() -> str:
    describe = ("git", "-C", str(BENCH), "describe", "--always", "--dirty")
    return f"this checkout, {_said(*describe)}" if shutil.which("git") else "this checkout"


def _program_version(name: str, option: str) -> str:
    if not (program := _program(name)):
        raise Unavailable(f"{name} is not installed")
    return _said(program, option)


def _node_version() -> str:
    version = _program_version("node", "--version")
    if not WS.exists():
        raise Unavailable("npm's ws is not installed (python -m bench.peers)")
    return f"{version}, ws {json.loads((WS / 'package.json').read_text())['version']}"


def _websockify_version() -> str:
    if not WEBSOCKIFY.exists():
        raise Unavailable("websockify is not installed (python -m bench.peers)")
    ask = "from importlib.metadata import version as v; print(v('websockify'), 'numpy', v('numpy'))"
    return _said(str(WEBSOCKIFY.with_name("python")), "-c", ask)


@dataclass(frozen=True)
class Peer:
    """`version` raises Unavailable where the peer cannot be had."""

    says: str
    start: Callable[[dict[str, int], set[int]], AbstractContextManager[Running]]
    version: Callable[[], str]


PEERS = {
    "direct": Peer("no relay", _direct, lambda: "-"),
    "ours": Peer("deskrelay demo", partial(_ours, "tcp"), _ours_version),
    "ours-workspace-agent": Peer(
        "the same, before a desktop that speaks WebSocket, as an agent does",
        partial(_ours, "ws"),
        _ours_version,
    ),
    "nginx": Peer(
        "WebSocket proxy, before a desktop that speaks WebSocket",
        _nginx,
        lambda: _program_version("nginx", "-v"),
    ),
    "haproxy": Peer("TCP proxy", partial(_haproxy, ""), lambda: _program_version("haproxy", "-v")),
    "haproxy-splice": Peer(
        "TCP proxy, payload moved by the kernel",
        partial(_haproxy, "option splice-auto"),
        lambda: _program_version("haproxy", "-v"),
    ),
    "node": Peer("node_relay.js on npm's ws", _node, _node_version),
    "websockify": Peer("websockify", _websockify, _websockify_version),
}


def install() -> None:
    """Gets websockify and npm's ws, where they are missing and can be had."""
    FOLDER.mkdir(exist_ok=True)
    if not WEBSOCKIFY.exists():
        venv = str(FOLDER / "venv")
        pip = [f"{venv}/bin/python", "-m", "pip", "install", "--quiet"]
        if _attempt([sys.executable, "-m", "venv", venv]):
            _attempt([*pip, "websockify==0.13.0"])
    if not WS.exists() and shutil.which("npm"):
        _attempt(["npm", "install", "--silent", "--prefix", str(FOLDER / "node"), "ws@8"])


def _attempt(command: list[str]) -> bool:
    status = subprocess.run(command, check=False, stdout=sys.stderr).returncode
    if status:
        print(f"bench: {' '.join(command)} failed with {status}", file=sys.stderr)
    return not status
