"""A slow link of this machine's own: three network namespaces, the desktop's, a router's and the
viewer's.

Toward the viewer the router sends 10 Mbit/s and queues what comes faster; the other way it adds a
delay, so that both together make the round trip. The queue is the router's and not the desktop's
own, because a sender is kept from filling a queue of its own machine (TCP small queues), and no
real one is there.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

DESKTOP_IP, VIEWER_IP = "10.77.1.2", "10.77.2.2"
_ROUTER_IPS = "10.77.1.1", "10.77.2.1"

RATE_MBIT = 10

# What a router holds at most; those at home hold 100 ms and far more.
QUEUE_MS = 100


class NotPermitted(Exception):
    """This process may not make network namespaces; the text is the kernel's reason."""


@dataclass(frozen=True)
class Link:
    """The names of the namespaces at both ends."""

    desktop: str
    viewer: str


def inside(namespace: str, *command: str) -> list[str]:
    """The command line that runs `command` in a namespace, under the same process id."""
    return ["ip", "netns", "exec", namespace, *command]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotPermitted(f"{' '.join(command)}: {done.stderr.strip()}")


@contextmanager
def slow_link(congestion: str) -> Iterator[Link]:
    """The namespaces exist while the block runs. `congestion` is the TCP congestion control of
    who sends to the viewer. Raises NotPermitted."""
    name = f"lag{os.getpid()}"
    link = Link(f"{name}-desktop", f"{name}-viewer")
    router = f"{name}-router"
    with ExitStack() as undo:
        for namespace in (link.desktop, router, link.viewer):
            _run("ip", "netns", "add", namespace)
            # Its interfaces, and their other ends, go with it.
            undo.callback(_run, "ip", "netns", "delete", namespace)
            _run("ip", "-n", namespace, "link", "set", "lo", "up")
        _run(*inside(router, "sysctl", "-qw", "net.ipv4.ip_forward=1"))
        ends = ((link.desktop, DESKTOP_IP), (link.viewer, VIEWER_IP))
        for (end, ip), router_ip, port in zip(ends, _ROUTER_IPS, ("left", "right"), strict=True):
            _run(
                "ip",
                "-n",
                router,
                "link",
                "add",
                port,
                "type",
                "veth",
                "peer",
                "eth0",
                "netns",
                end,
            )
            for namespace, device, address in ((end, "eth0", ip), (router, port, router_ip)):
                _run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", device)
                _run("ip", "-n", namespace, "link", "set", device, "up")
            # By route, which works for controls that a namespace may not make its default.
            route = "ip", "-n", end, "route", "add", "default", "via", router_ip
            _run(*route, "congctl", congestion)
        add = "tc", "-n", router, "qdisc", "add", "dev"
        _run(
            *(*add, "right", "root", "tbf", "rate", f"{RATE_MBIT}mbit"),
            *("burst", "16kb", "latency", f"{QUEUE_MS}ms"),
        )
        yield link
