"""`python -m bench.isolation`: what other sessions of a relay notice of a bad one.

A good session does round trips at a steady pace: the viewer asks, the desktop answers with a small
update or one of 33 KB. Its median and 99th percentile are measured alone and beside bad sessions,
one behind the other, which gives a ratio; the table has the medians of the rounds. The row `nobody`
is measured the same way with no bad session at all, and says what the method can see.

Sessions that stall or drip take next to nothing of the relay, and a peer that floods is made to
rest, so nothing may be noticed: beside them the 99th percentile may be 10 % more. A desktop that
shows more than the relay can carry is what the relay is for: it takes all the CPU that it is
given, and whoever shares that CPU notices. So there is a third figure, `elsewhere`: the same
desktop behind a second relay on the same CPU, where the kernel shares the CPU out, and the 99th
percentile beside a busy desktop of one's own relay may be 10 % more than that. And in the median a
round trip may take a millisecond more for each such session than alone: this is what the relay
lets one take in a turn.
(The longest turns are the machine's: a process that uses all of a CPU is at times taken off it.)

The relays share one CPU, the load and the good session another; the load gives way to the
good session (nice 19). The exit status is 1 where a bar is not met, and 2 where `nobody` is
noticed too, so that the machine is too busy to tell.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import selectors
import socket
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.context import ForkProcess as Process
from pathlib import Path
from urllib.parse import urlsplit

from bench.options import chosen, parser_of
from bench.peers import announced
from bench.wire import KEY, frame, masked

RATIO_BAR = 1.10
"""The 99th percentile beside bad sessions, over that without them."""

WAIT_BAR_S = 0.001
"""By how much each session with a busy desktop may raise the median."""

TIMEOUT_S = 10.0
SPARE_PIPES = 16
PACE_PER_S = 800
WARM_UP_S = 0.5

WIDTH, HEIGHT = 640, 480
INIT = (
    struct.pack(">HHBBBBHHHBBBxxx", WIDTH, HEIGHT, 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
    + b"\0\0\0\x03bad"
)
REQUEST = struct.pack(">BBHHHH", 3, 1, 0, 0, WIDTH, HEIGHT)
# Raw, CopyRect, Hextile, Tight with JPEG, and ContinuousUpdates: a desktop may send without end.
OFFER = struct.pack(">BxH6i", 2, 6, 0, 1, 5, 7, -26, -313)
END_OF_UPDATES = b"\x96"
ENABLE = struct.pack(">BBHHHH", 150, 1, 0, 0, WIDTH, HEIGHT)


def _rectangle(number: int, width: int, height: int, body: bytes) -> bytes:
    return struct.pack(">HHHHi", 0, 0, width, height, number) + body


def _update(*rectangles: bytes) -> bytes:
    return struct.pack(">BxH", 0, len(rectangles)) + b"".join(rectangles)


_JPEG = b"\x90" + bytes([2048 & 127 | 128, 2048 >> 7]) + b"\xff\xd8" + bytes(2046)

UPDATES = {
    "tiny": _update(_rectangle(0, 5, 5, bytes(100))),
    "33 KB": _update(*[_rectangle(7, 64, 64, _JPEG)] * 16),
}


@dataclass(frozen=True)
class Side:
    """One side of a bad session: says `words` over and over, as fast as they are taken or one
    byte at a time; and reads what it is told, or nothing."""

    words: bytes = b""
    bytes_per_s: float = math.inf
    reads: bool = True


POINTER = struct.pack(">BBHH", 5, 0, 300, 200)
MOVES = b"".join(masked(struct.pack(">BBHH", 5, 0, x, 200)) for x in range(600))
TEXT = struct.pack(">BxxxI", 6, 60_000) + b"t" * 60_000
PIXELS = _update(_rectangle(0, WIDTH, HEIGHT, bytes(WIDTH * HEIGHT * 4)))
COPIES = _update(*[_rectangle(1, 4, 4, bytes(4))] * 4_000)
TILES = _update(*[_rectangle(5, WIDTH, HEIGHT, b"\x02abcd" + bytes(1_199))] * 50)

QUIET = Side()

# By name: the viewer and the desktop of a bad session, and how many there are of it.
UNNOTICED: dict[str, tuple[Side, Side, int]] = {
    "nobody": (QUIET, QUIET, 0),
    "20 stalled viewers": (Side(reads=False), Side(PIXELS), 20),
    "20 stalled desktops": (Side(masked(TEXT)), Side(reads=False), 20),
    "20 viewers that drip": (Side(masked(POINTER), 200), QUIET, 20),
    "20 desktops that drip": (QUIET, Side(struct.pack(">BxxxI", 3, 12) + bytes(12), 200), 20),
    "viewer: moves": (Side(MOVES), QUIET, 1),
    "viewer: requests": (Side(masked(REQUEST * 6_000)), QUIET, 1),
    "viewer: pings": (Side((masked(b"", 9) + masked(POINTER)) * 4_000), QUIET, 1),
    "4 viewers: moves": (Side(MOVES), QUIET, 4),
    "desktop: bells": (QUIET, Side(b"\x02" * 65_536), 1),
    "desktop: texts": (QUIET, Side((struct.pack(">BxxxI", 3, 12) + bytes(12)) * 3_000), 1),
    "4 desktops: bells": (QUIET, Side(b"\x02" * 65_536), 4),
}
BUSY: dict[str, tuple[Side, Side, int]] = {
    "desktop: copies": (QUIET, Side(COPIES), 1),
    "desktop: tiles": (QUIET, Side(TILES), 1),
    "desktop: pixels": (QUIET, Side(PIXELS), 1),
    "4 desktops: copies": (QUIET, Side(COPIES), 4),
}
CASES = UNNOTICED | BUSY

Pair = tuple[socket.socket, socket.socket]
Waits = dict[str, list[float]]


def exactly(peer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = peer.recv(count - len(data))
        if not more:
            raise ConnectionError("the connection ended")
        data += more
    return data


class Relay:
    """A relay, and the address where its desktops listen."""

    def __init__(self, stack: ExitStack, cpus: set[int]) -> None:
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._listener.settimeout(TIMEOUT_S)
        port = self._listener.getsockname()[1]
        command = ["-m", "api", "demo", "--json", "--bind", "127.0.0.1:0"]
        command += ["--desktop", f"tcp://127.0.0.1:{port}"]
        self.pid, self._demo = stack.enter_context(announced([sys.executable, *command], cpus))
        # It looks whether its desktop answers.
        self._log_in().close()

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def _log_in(self) -> socket.socket:
        """The next connection to the desktop, behind its handshake (RFC 6143, Section 7)."""
        desktop = self._listener.accept()[0]
        desktop.settimeout(TIMEOUT_S)
        desktop.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for said, answer_bytes in ((b"RFB 003.008\n", 12), (b"\x01\x01", 1), (bytes(4), 1)):
            desktop.sendall(said)
            exactly(desktop, answer_bytes)
        desktop.sendall(INIT)
        return desktop

    def open(self) -> Pair:
        """A viewer and its desktop, in continuous updates."""
        parts = urlsplit(self._demo["ws_url"])
        viewer = socket.create_connection((parts.hostname, parts.port), TIMEOUT_S)
        viewer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        viewer.sendall(
            f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
            f"Coder-Session-Token: {self._demo['token']}\r\n\r\n".encode()
        )
        desktop = self._log_in()
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += exactly(viewer, 1)
        for said, answer in (
            (b"RFB 003.008\n", b"RFB 003.008\n"),
            (b"\x01\x01", b"\x01"),
            (bytes(4), b"\x01"),
            (INIT, OFFER),
        ):
            if exactly(viewer, 2 + len(said)) != frame(said):
                raise ConnectionError("the relay's handshake is another")
            viewer.sendall(masked(answer))
        exactly(desktop, len(OFFER))
        desktop.sendall(END_OF_UPDATES)
        exactly(viewer, 3)
        return viewer, desktop

    def wait_for_end(self, descriptors: int) -> None:
        """Waits until it has no more than so many: the sessions have ended. A few pipes stay."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.descriptors() > descriptors + SPARE_PIPES:
            if time.monotonic() > deadline:
                raise SystemExit("sessions do not end")
            time.sleep(0.02)


# The load.


def _flood(sides: list[tuple[socket.socket, Side]]) -> None:
    """Plays the bad sides until it is ended. Raises ConnectionError where the relay ends one."""
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.nice(19)
    left = {peer: memoryview(b"") for peer, _ in sides}
    drips = [(peer, side) for peer, side in sides if side.words and side.bytes_per_s < math.inf]
    interval_s = 1 / sum(side.bytes_per_s for _, side in drips) if drips else TIMEOUT_S
    said = 0
    trash = bytearray(1 << 18)
    with selectors.DefaultSelector() as selector:
        for peer, side in sides:
            peer.setblocking(False)
            wanted = selectors.EVENT_READ if side.reads else 0
            if side.words and (peer, side) not in drips:
                wanted |= selectors.EVENT_WRITE
            if wanted:
                selector.register(peer, wanted, side)
        due = time.monotonic()
        while True:
            for key, mask in selector.select(max(0, due - time.monotonic())):
                assert isinstance(key.fileobj, socket.socket)
                if mask & selectors.EVENT_READ and not key.fileobj.recv_into(trash):
                    raise ConnectionError("the relay has ended a session")
                if mask & selectors.EVENT_WRITE:
                    rest = left[key.fileobj] or memoryview(key.data.words)
                    left[key.fileobj] = rest[key.fileobj.send(rest) :]
            if time.monotonic() >= due:
                # One after the other, for together they would be a burst.
                due = max(due + interval_s, time.monotonic())
                if drips:
                    turn, at = said % len(drips), said // len(drips)
                    peer, side = drips[turn]
                    peer.send(side.words[at % len(side.words) :][:1])
                    said += 1


def _keep_awake(cpu: int) -> None:
    """Runs where nothing else would: to wake a CPU that sleeps takes longer than a round trip, and
    a busy one does not sleep."""
    os.sched_setaffinity(0, {cpu})
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    while True:
        pass


@contextmanager
def _process(target: Callable[..., None], *arguments: object) -> Iterator[Process]:
    """A fork of this process, until the block ends."""
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


@contextmanager
def bad_sessions(relay: Relay, viewer: Side, desktop: Side, count: int) -> Iterator[None]:
    """So many of them while the block runs. Raises SystemExit where they did not last."""
    before = relay.descriptors()
    sides = []
    for _ in range(count):
        peers = relay.open()
        peers[0].sendall(masked(ENABLE))
        exactly(peers[1], len(ENABLE))
        sides += list(zip(peers, (viewer, desktop), strict=True))
    with _process(_flood, sides) as load:
        for peer, _ in sides:
            peer.close()
        time.sleep(WARM_UP_S)
        yield
        if not load.is_alive():
            raise SystemExit("the bad sessions did not last")
    relay.wait_for_end(before)


# The good session.


def _payload(viewer: socket.socket, count: int) -> bytes:
    """So many bytes that the relay has framed, in however many frames."""
    data = b""
    while len(data) < count:
        length = exactly(viewer, 2)[1]
        if length == 126:
            (length,) = struct.unpack(">H", exactly(viewer, 2))
        data += exactly(viewer, length)
    return data


def _trip(pair: Pair, update: bytes) -> float:
    """Seconds from the viewer's request to the end of its update."""
    viewer, desktop = pair
    ask = masked(REQUEST)
    began = time.perf_counter()
    viewer.sendall(ask)
    exactly(desktop, len(REQUEST))
    desktop.sendall(update)
    came = _payload(viewer, len(update))
    spent = time.perf_counter() - began
    if came != update:
        raise ConnectionError("bytes arrived that are not those due")
    return spent


def good_session(pair: Pair, seconds: float) -> Waits:
    """Round trips of each size in turn, at a steady pace; how long each took. One that was waited
    for in vain takes for ever, and is the last."""
    waits: Waits = {name: [] for name in UPDATES}
    due = time.monotonic()
    end = due + seconds
    try:
        while due < end:
            for name, update in UPDATES.items():
                time.sleep(max(0, due - time.monotonic()))
                waits[name].append(_trip(pair, update))
                # One that took longer than its turn is not made up for.
                due = max(due + 1 / PACE_PER_S, time.monotonic())
    except TimeoutError:
        for some in waits.values():
            some.append(math.inf)
    return waits


def p(share: float, waits: list[float]) -> float:
    """The percentile of so large a share."""
    return sorted(waits)[min(len(waits) - 1, int(share * len(waits)))]


# Rounds, and the table.


@dataclass(frozen=True)
class Round:
    """What a good session waited: alone, beside bad ones, and beside them in another relay."""

    alone: Waits
    beside: Waits
    elsewhere: Waits | None


def measure(name: str, relays: list[Relay], seconds: float, turn: int) -> Round:
    """One round of a case. What comes first rotates, so that nothing always comes behind the
    same."""
    here, other = relays
    viewer, desktop = pair = here.open()
    with closing(viewer), closing(desktop):
        where: dict[str, Relay | None] = {"alone": None, "beside": here}
        if name in BUSY:
            where["elsewhere"] = other
        came: dict[str, Waits] = {}
        for at in range(len(where)):
            which = list(where)[(at + turn) % len(where)]
            relay = where[which]
            with bad_sessions(relay, *CASES[name]) if relay else nullcontext():
                # Behind a fork each page that is written is copied first.
                good_session(pair, WARM_UP_S)
                came[which] = good_session(pair, seconds)
    return Round(came["alone"], came["beside"], came.get("elsewhere"))


def row(name: str, size: str, rounds: list[Round]) -> tuple[str, bool]:
    """A line of the table, and whether its bars are met."""

    def median(share: float, which: str) -> float:
        return statistics.median(p(share, getattr(r, which)[size]) for r in rounds)

    def ratio(which: str) -> float:
        pairs = ((r.beside[size], getattr(r, which)[size]) for r in rounds)
        return statistics.median(p(0.99, beside) / p(0.99, other) for beside, other in pairs)

    longest_s = statistics.median(max(r.beside[size]) for r in rounds)
    cells = [
        f"{median(share, which) * 1e6:.0f}"
        for share in (0.5, 0.99)
        for which in ("alone", "beside")
    ]
    if name in BUSY:
        count = CASES[name][2]
        more_s = statistics.median(p(0.5, r.beside[size]) - p(0.5, r.alone[size]) for r in rounds)
        met = ratio("elsewhere") <= RATIO_BAR and more_s <= WAIT_BAR_S * count
        cells += [f"{median(0.99, 'elsewhere') * 1e6:.0f}", f"{ratio('elsewhere'):.2f}"]
    else:
        met = ratio("alone") <= RATIO_BAR
        cells += ["-", f"{ratio('alone'):.2f}"]
    cells += [f"{longest_s * 1e3:.2f}", "met" if met else "NOT MET"]
    return f"| {name} | {size} | {' | '.join(cells)} |", met


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("bench.isolation", __doc__)
    parser.add_argument("--secs", type=float, default=1.5, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=9, help="of each case, for the median")
    parser.add_argument("--cases", default=",".join(CASES), help="which, with commas")
    options = parser.parse_args(arguments)
    cases = chosen(parser, "case", options.cases, CASES)
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        parser.error("it takes two CPUs")
    met = quiet = True
    print(
        "| beside | update | p50 us alone | beside | p99 us alone | beside | elsewhere | ratio "
        "| longest ms | bar |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    with ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, cpus)
        os.sched_setaffinity(0, {cpus[1]})
        for cpu in cpus[:2]:
            stack.enter_context(_process(_keep_awake, cpu))
        relays = [Relay(stack, {cpus[0]}) for _ in range(2)]
        for name in cases:
            rounds = [measure(name, relays, options.secs, turn) for turn in range(options.rounds)]
            for size in UPDATES:
                line, fine = row(name, size, rounds)
                print(line, flush=True)
                if name == "nobody":
                    quiet &= fine
                else:
                    met &= fine
    return int(not met) if quiet else 2


if __name__ == "__main__":
    sys.exit(main())
