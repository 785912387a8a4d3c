"""The relays that are measured: ours and its peers, each started afresh for each run."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.peers import installed
from bench.peers.installed import (
    node_version,
    ours_version,
    program,
    program_version,
    websockify_version,
)
from bench.peers.processes import Running, announced, free_port, listening

NODE_RELAY = Path(__file__).with_name("node_relay.js")

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
        command = [program("nginx"), "-e", f"{folder}/log", "-c", str(path)]
        with listening(command, port, "ws", cpus) as running:
            yield running


@contextmanager
def _haproxy(splice: str, desktop: dict[str, int], cpus: set[int]) -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        path = Path(folder, "haproxy.cfg")
        path.write_text(HAPROXY.format(splice=splice, port=port, desktop=desktop["tcp"]))
        command = [program("haproxy"), "-db", "-f", str(path)]
        with listening(command, port, "tcp", cpus) as running:
            yield running


@contextmanager
def _node(desktop: dict[str, int], cpus: set[int]) -> Iterator[Running]:
    port = free_port()
    command = [program("node"), str(NODE_RELAY), str(port), str(desktop["tcp"])]
    with listening(command, port, "ws", cpus, NODE_PATH=str(installed.WS.parent)) as running:
        yield running


@contextmanager
def _websockify(desktop: dict[str, int], cpus: set[int]) -> Iterator[Running]:
    port = free_port()
    command = [str(installed.WEBSOCKIFY), f"127.0.0.1:{port}", f"127.0.0.1:{desktop['tcp']}"]
    with listening(command, port, "ws", cpus) as running:
        yield running


@dataclass(frozen=True)
class Peer:
    """`version` raises Unavailable where the peer cannot be had."""

    says: str
    start: Callable[[dict[str, int], set[int]], AbstractContextManager[Running]]
    version: Callable[[], str]


PEERS = {
    "direct": Peer("no relay", _direct, lambda: "-"),
    "ours": Peer("deskrelay demo", partial(_ours, "tcp"), ours_version),
    "ours-workspace-agent": Peer(
        "the same, before a desktop that speaks WebSocket, as a workspace agent does",
        partial(_ours, "ws"),
        ours_version,
    ),
    "nginx": Peer(
        "WebSocket proxy, before a desktop that speaks WebSocket",
        _nginx,
        lambda: program_version("nginx", "-v"),
    ),
    "haproxy": Peer("TCP proxy", partial(_haproxy, ""), lambda: program_version("haproxy", "-v")),
    "haproxy-splice": Peer(
        "TCP proxy, payload moved by the kernel",
        partial(_haproxy, "option splice-auto"),
        lambda: program_version("haproxy", "-v"),
    ),
    "node": Peer("node_relay.js on npm's ws", _node, node_version),
    "websockify": Peer("websockify", _websockify, websockify_version),
}
