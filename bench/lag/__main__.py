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
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from bench.lag.link import QUEUE_MS, RATE_MBIT, Link, NotPermitted, slow_link
from bench.lag.measuring import Run, measure, rows
from bench.lag.ways import CASES, DESKTOPS, WAYS, Way, missing, through_websockify, websockify
from bench.options import check_pace, chosen, parser_of


def _end(*_: object) -> None:
    """A signal ends the program as an error would: the link has to be taken down."""
    raise SystemExit("ended by a signal")


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of("bench.lag", __doc__)
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
    cases = chosen(parser, "case", options.cases, CASES)
    check_pace(parser, options)
    ways = dict(WAYS)
    if options.websockify:
        ways["websockify"] = partial(through_websockify, options.websockify)
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
            for case in cases:
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
