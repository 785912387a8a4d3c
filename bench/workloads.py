"""The workloads: what is asked of a relay, and of which relays."""

from __future__ import annotations

from dataclasses import dataclass

EVERY = (
    "direct",
    "ours",
    "ours-workspace-agent",
    "nginx",
    "haproxy",
    "haproxy-splice",
    "node",
    "websockify",
)
REAL = ("direct", "ours", "websockify")
"""For desktops that are no bench.server: nginx needs one that speaks WebSocket."""


@dataclass(frozen=True)
class Workload:
    """`drive` is the load's (bench.load.DRIVES), `level` the desktop's update (bench.server).
    Either `outstanding` requests are always under way in each session, or all together ask for
    `rate` updates a second. Figures are per `unit`; sessions grow in one run through `sessions`.

    `apart`: the relay has a CPU of its own, where there are two. Otherwise all share one: the
    cleanest reading of what a round trip costs, for nothing overlaps and nothing wakes another CPU.
    `desktop` is the module to run as one; the sessions are split between `relays` processes.
    """

    says: str
    drive: str
    unit: str
    peers: tuple[str, ...] = EVERY
    level: int = 0
    outstanding: int = 1
    sessions: tuple[int, ...] = (1,)
    rate: int = 0
    apart: bool = True
    desktop: str = "bench.server"
    relays: tuple[int, ...] = (1,)


WORKLOADS = {
    "bulk": Workload(
        "whole screens of 1920x1080 in Raw, 4 requests under way",
        drive="closed",
        unit="GB",
        level=1,
        outstanding=4,
    ),
    "typical": Workload(
        "updates of 16 Tight rectangles, 33 KB, one request under way",
        drive="closed",
        unit="update",
        level=2,
        apart=False,
    ),
    "tiny": Workload(
        "updates of one rectangle of about 100 bytes, one request under way",
        drive="closed",
        unit="update",
        level=3,
        apart=False,
    ),
    "many": Workload(
        "200 sessions, each 20 updates of 8 KiB a second",
        drive="crowd",
        unit="update",
        level=4,
        sessions=(200,),
        rate=4_000,
    ),
    "many60": Workload(
        "200 sessions, each 60 updates of 8 KiB a second",
        drive="crowd",
        unit="update",
        level=4,
        sessions=(200,),
        rate=12_000,
    ),
    "starts": Workload(
        "new sessions, eight at a time: connect, upgrade, both handshakes, close",
        drive="starts",
        unit="session",
        sessions=(8,),
    ),
    "scale": Workload(
        "2,000 updates of 8 KiB a second, over more and more sessions",
        drive="crowd",
        unit="update",
        peers=("ours", "nginx", "node"),
        level=4,
        sessions=(1, 10, 100, 500, 1000, 2000),
        rate=2_000,
    ),
    "replay": Workload(
        "sessions of real desktops and viewers, recorded, as fast as they go",
        drive="replay",
        unit="GB",
        peers=REAL,
        desktop="bench.replay",
    ),
    "xvnc": Workload(
        "Xvnc with a terminal that scrolls, Tight, an update asked for as soon as one has come",
        drive="xvnc",
        unit="update",
        peers=REAL,
        desktop="bench.xvnc",
    ),
    "workers": Workload(
        "200 sessions that always ask, on one relay process and on two",
        drive="crowd",
        unit="update",
        peers=("ours",),
        level=4,
        sessions=(200,),
        relays=(1, 2),
    ),
}
