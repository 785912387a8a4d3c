"""`python -m bench.lag`: how late a picture is behind a slow link, with the relay and without.

A desktop changes 30 times a second, by more than a link of 10 Mbit/s carries. A viewer at the
other end presses a key now and then, and measures until the pixels that answer it are there.
Whatever queues on the way, in sockets or in a relay, is in front of them.

There are two desktops, a synthetic one and Xvnc, and two ways of the viewer to have updates: it
asks for each, or the desktop sends them by itself (continuous updates). The way without a relay
is `direct`; the relay and websockify run beside the desktop. Runs alternate, and each figure is
the median of the rounds; the last column is the 95th percentile over that of `direct`.

Needs root, `ip` and `tc` for the link (bench.lag.link), and for Xvnc itself and python-xlib; what
cannot run is left out with the reason.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

from bench.lag.desktop import SIDE_PX
from bench.lag.link import DESKTOP_IP, QUEUE_MS, RATE_MBIT, Link, NotPermitted, inside, slow_link
from bench.lag.viewer import MODES, WARM_UP_S
from bench.peers.table import WEBSOCKIFY

_WEBSOCKIFY_PORT = 6080

# From the end of a run to the last answer, at most: what can be queued comes to this.
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Run:
    """What a viewer measured: seconds from a key to its answer, and updates a second."""

    lags_s: list[float]
    updates_per_s: float

    def percentile_ms(self, percent: int) -> float:
        """The least that so many in a hundred do not exceed, in milliseconds."""
        ordered = sorted(self.lags_s)
        return ordered[-(-len(ordered) * percent // 100) - 1] * 1000


@contextmanager
def _process(command: list[str], **environment: str) -> Iterator[str]:
    """A process that runs while the block does, and its first line of output; what it logs is
    shown if it has none."""
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | environment,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            if not line:
                process.wait()
                log.seek(0)
                raise SystemExit(f"{' '.join(command)} did not start:\n{log.read()}")
            yield line
        finally:
            process.terminate()


def _python(namespace: str, module: str, *arguments: str) -> list[str]:
    return inside(namespace, sys.executable, "-m", module, *arguments)


# The desktops. Each yields its port.


@contextmanager
def _synthetic(link: Link) -> Iterator[int]:
    with _process(_python(link.desktop, "bench.lag.desktop")) as port:
        yield int(port)


@contextmanager
def _xvnc(link: Link) -> Iterator[int]:
    port = 5900
    command = [
        # In a namespace X does not see which displays there are, and would take over one's socket
        # in /tmp. Process numbers are no one else's.
        *("Xvnc", f":{os.getpid()}", "-displayfd", "1", "-nolisten", "tcp", "-noreset"),
        *("-rfbport", str(port)),
        *("-SecurityTypes", "None", "-AlwaysShared", "-UseBlacklist=0"),
        *("-geometry", f"{SIDE_PX}x{SIDE_PX}", "-depth", "24"),
    ]
    with (
        _process(inside(link.desktop, *command)) as display,
        _process(_python(link.desktop, "bench.lag.screen"), DISPLAY=f":{display}"),
    ):
        yield port


DESKTOPS: dict[str, Callable[[Link], AbstractContextManager[int]]] = {
    "synthetic": _synthetic,
    "xvnc": _xvnc,
}

CASES = {f"{desktop}-{mode}": (desktop, mode) for desktop in DESKTOPS for mode in MODES}


# The ways to a desktop at `port`. Each yields an address and a token for it.


@contextmanager
def _direct(_link: Link, port: int) -> Iterator[tuple[str, str]]:
    yield f"tcp://{DESKTOP_IP}:{port}", ""


@contextmanager
def _relay(link: Link, port: int) -> Iterator[tuple[str, str]]:
    demo = _python(
        *(link.desktop, "api", "demo", "--json", "--bind", f"{DESKTOP_IP}:0"),
        *("--desktop", f"tcp://127.0.0.1:{port}"),
    )
    with _process(demo) as line:
        told = json.loads(line)
        yield told["ws_url"], told["token"]


@contextmanager
def _websockify(program: str, link: Link, port: int) -> Iterator[tuple[str, str]]:
    address = f"{DESKTOP_IP}:{_WEBSOCKIFY_PORT}"
    command = inside(link.desktop, program, "-v", address, f"127.0.0.1:{port}")
    with _process(["sh", "-c", 'exec "$@" 2>&1', "sh", *command]):
        # What it prints comes before it listens.
        time.sleep(1)
        yield f"ws://{address}/", ""


Way = Callable[[Link, int], AbstractContextManager[tuple[str, str]]]


def measure(link: Link, mode: str, address: str, token: str, seconds: float) -> Run:
    """One run. Raises SystemExit when the viewer fails."""
    viewer = _python(link.viewer, "bench.lag.viewer", mode, address, token, str(seconds))
    limit_s = seconds + WARM_UP_S + _PATIENCE_S
    try:
        done = subprocess.run(viewer, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"{address}: no answer to a key within {_PATIENCE_S:g} s") from None
    if done.returncode:
        raise SystemExit(f"the viewer of {address} failed:\n{done.stderr}")
    told = json.loads(done.stdout)
    return Run(told["lags_s"], told["updates"] / told["seconds"])


def rows(case: str, runs: dict[str, list[Run]]) -> Iterator[str]:
    """The table's lines of one case, `runs` being by way."""

    def median(percent: int, taken: list[Run]) -> float:
        return statistics.median(run.percentile_ms(percent) for run in taken)

    reference = median(95, runs["direct"])
    for way, taken in runs.items():
        figures = " | ".join(f"{median(percent, taken):.0f}" for percent in (50, 95, 99, 100))
        per_s = statistics.median(run.updates_per_s for run in taken)
        count = sum(len(run.lags_s) for run in taken)
        ratio = median(95, taken) / reference
        yield f"| {case} | {way} | {figures} | {per_s:.1f} | {count} | {ratio:.2f} |"


def missing(desktop: str) -> str:
    """What a desktop lacks on this machine; empty if nothing."""
    if desktop == "xvnc" and shutil.which("Xvnc") is None:
        return "Xvnc is not installed"
    if desktop == "xvnc" and importlib.util.find_spec("Xlib") is None:
        return "python-xlib is not installed"
    return ""


def _end(*_: object) -> None:
    """A signal ends the program as an error would: the link has to be taken down."""
    raise SystemExit("ended by a signal")


def websockify() -> str | None:
    """The program: that of bench.peers, or one on the PATH."""
    return str(WEBSOCKIFY) if WEBSOCKIFY.exists() else shutil.which("websockify")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="bench.lag", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--secs", type=float, default=8.0, help="length of one run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, for the median")
    parser.add_argument("--cases", default=",".join(CASES), help="which, with commas")
    parser.add_argument(
        "--congestion", default="cubic", help="TCP congestion control toward viewer"
    )
    parser.add_argument(
        "--websockify",
        default=websockify(),
        help="the program to measure beside; that of bench.peers, or one on the PATH",
    )
    options = parser.parse_args(arguments)
    chosen = options.cases.split(",")
    unknown = [name for name in chosen if name not in CASES]
    if unknown:
        parser.error(f"no case {unknown[0]!r}; there are {', '.join(CASES)}")
    if not (options.secs > 0 and options.rounds > 0):  # so that NaN is refused as well
        parser.error("--secs and --rounds must be more than 0")
    ways: dict[str, Way] = {"direct": _direct, "relay": _relay}
    if options.websockify:
        ways["websockify"] = lambda link, port: _websockify(options.websockify, link, port)
    else:
        print("websockify is left out: it is not installed (python -m bench.peers)")
    before = signal.signal(signal.SIGTERM, _end)
    try:
        with slow_link(options.congestion) as link:
            print(
                f"{RATE_MBIT} Mbit/s, a queue of {QUEUE_MS} ms, "
                f"{options.congestion}; milliseconds from a key to its answer\n"
            )
            print("| case | way | p50 | p95 | p99 | max | updates/s | keys | p95 / direct |")
            print("|---|---|---|---|---|---|---|---|---|", flush=True)
            for case in chosen:
                desktop, mode = CASES[case]
                lack = missing(desktop)
                if lack:
                    print(f"{case} is left out: {lack}")
                    continue
                for line in _case(case, link, ways, desktop, mode, options):
                    print(line, flush=True)
    except NotPermitted as refusal:
        raise SystemExit(f"no network namespaces here: {refusal}") from refusal
    finally:
        signal.signal(signal.SIGTERM, before)


def _case(
    case: str,
    link: Link,
    ways: dict[str, Way],
    desktop: str,
    mode: str,
    options: argparse.Namespace,
) -> Iterator[str]:
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    with DESKTOPS[desktop](link) as port, ExitStack() as stack:
        ends = {name: stack.enter_context(way(link, port)) for name, way in ways.items()}
        for _ in range(options.rounds):
            for name, (address, token) in ends.items():
                runs[name].append(measure(link, mode, address, token, options.secs))
    yield from rows(case, runs)


if __name__ == "__main__":
    main()
