"""`python -m bench.answers`: what others notice of somebody who reads long lists.

A real server has a user with 30,000 chats, and a chat in which 200 messages of 32,000 emoji were
said. One reader and eight at once get all of a list, page after page, over and over; or follow that
chat and take nothing. Meanwhile `/healthz` is asked at a steady pace: the table has the median, the
99th percentile and the longest of its answers, and the delay, by which the 99th percentile is more
than the median of the same round with no reader at all. `RSS` is by how much the server's resident
memory was higher at the worst than before anybody had read, for each reader. All are medians of the
rounds.

The bars are 50 ms of delay and 10 MiB a reader. The row `nobody` is measured the same way, and
says what the method can see. The exit status is 1 where a bar is not met, and 2 where `nobody` is
noticed too, so that the machine is too busy to tell.
"""

from __future__ import annotations

import http.client
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.context import ForkProcess as Process
from pathlib import Path
from typing import Any
from uuid import uuid4

import trio
from sqlalchemy import insert

from api.store import Store
from api.store.schema import chats, messages
from bench.options import check_pace, chosen, parser_of
from bench.peers.processes import START_S, child

CHATS = 30_000
MESSAGES = 200
EMOJI = 32_000

DELAY_BAR_S = 0.050
RSS_BAR_KIB = 10 * 1024

PACE_PER_S = 100
WARM_UP_S = 0.5
TIMEOUT_S = 60.0

CASES = {
    "nobody": ("", 0),
    "1 reads chats": ("/api/v2/chats", 1),
    "8 read chats": ("/api/v2/chats", 8),
    "1 reads messages": ("{chat}/messages", 1),
    "8 read messages": ("{chat}/messages", 8),
    "8 follow and do not read": ("{chat}/stream", 8),
}


@dataclass(frozen=True)
class Served:
    """A server, and what is on it."""

    pid: int
    port: int
    token: str
    chat: str

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)

    @property
    def headers(self) -> dict[str, str]:
        return {"Coder-Session-Token": self.token}


async def _fill(url: str) -> tuple[str, str]:
    """A token of the user with all that, and the path of the chat with messages."""
    store = await Store.open(url)
    user = await store.ensure_user("bench")
    chat = await store.create_chat(user.id, title="emoji")
    now = chat.created_at
    rows = [
        {
            "id": uuid4(),
            "owner_id": user.id,
            "title": f"A chat about something, number {number}",
            "archived": False,
            "created_at": now + timedelta(milliseconds=number),
            "updated_at": now,
            "mode": "chat",
            "status": "waiting",
        }
        for number in range(CHATS)
    ]
    content = [{"type": "text", "text": "\U0001f5a5" * EMOJI}]
    said = {"chat_id": chat.id, "role": "user", "content": content, "created_at": now}

    def work(connection: Any) -> None:
        connection.execute(insert(chats), rows)
        for _ in range(MESSAGES):
            connection.execute(insert(messages), said)

    await store.database.run(work, write=True)
    token = await store.create_token(user.id)
    await store.aclose()
    return token, f"/api/v2/chats/{chat.id}"


@contextmanager
def served(url: str, token: str, chat: str) -> Iterator[Served]:
    environment = {"DESKRELAY_DATABASE_URL": url, "DESKRELAY_BIND": "127.0.0.1:0"}
    command = [sys.executable, "-m", "api", "serve"]
    with child(command, os.sched_getaffinity(0), **environment) as (process, last_words):
        deadline = time.monotonic() + START_S
        while not (told := re.search(r"serving at http://127.0.0.1:(\d+)", last_words())):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start:\n{last_words()}")
            time.sleep(0.05)
        yield Served(process.pid, int(told[1]), token, chat)


# Readers, each a process.


def _read(server: Served, path: str) -> None:
    os.nice(19)
    connection = server.connect()
    if path.endswith("/stream"):
        connection.request("GET", path, headers=server.headers)
        time.sleep(3600)
    query = ""
    buffer = bytearray(1 << 16)
    while True:
        connection.request("GET", path + query, headers=server.headers)
        response = connection.getresponse()
        while response.readinto(buffer):
            pass
        if response.status != http.client.OK:
            raise SystemExit(f"{path}{query} was answered with {response.status}")
        link = re.search("<([^>]*)>", response.headers.get("Link", ""))
        query = link[1] if link else ""


@contextmanager
def reading(server: Served, path: str, count: int) -> Iterator[list[Process]]:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_read, args=(server, path)) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


# What is measured.


@dataclass(frozen=True)
class Round:
    """How long each answer took with no reader and beside them, and by how much the server's memory
    grew for each reader."""

    alone_s: list[float]
    beside_s: list[float]
    rss_kib: float


def p(share: float, waits_s: list[float]) -> float:
    """The percentile of so large a share."""
    return sorted(waits_s)[min(len(waits_s) - 1, int(share * len(waits_s)))]


def _rss_kib(server: Served) -> int:
    pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def _ask(server: Served, seconds: float) -> tuple[list[float], int]:
    """How long each answer of /healthz took, and the most memory that was seen."""
    most_kib = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal most_kib
        while not done.wait(0.005):
            most_kib = max(most_kib, _rss_kib(server))

    watcher = threading.Thread(target=watch)
    watcher.start()
    waits: list[float] = []
    connection = server.connect()
    due = time.perf_counter()
    end = due + seconds
    while due < end:
        time.sleep(max(0.0, due - time.perf_counter()))
        began = time.perf_counter()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        waits.append(time.perf_counter() - began)
        # One that took longer than its turn is not made up for.
        due = max(due + 1 / PACE_PER_S, time.perf_counter())
    connection.close()
    done.set()
    watcher.join()
    return waits, most_kib


def measure(server: Served, name: str, seconds: float) -> Round:
    """One round, on a server that has answered nothing yet: memory does not shrink again."""
    path, count = CASES[name]
    # What a first request has loaded is not a reader's.
    connection = server.connect()
    connection.request("GET", server.chat, headers=server.headers)
    connection.getresponse().read()
    connection.close()
    _ask(server, WARM_UP_S)
    alone, before_kib = _ask(server, seconds)
    with reading(server, path.format(chat=server.chat), count) as readers:
        beside, most_kib = _ask(server, seconds)
        if not all(reader.is_alive() for reader in readers):
            raise SystemExit(f"{name}: a reader has ended")
    return Round(alone, beside, max(0, most_kib - before_kib) / max(1, count))


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("bench.answers", __doc__)
    parser.add_argument("--secs", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=5, help="of each case, for the median")
    parser.add_argument("--cases", default=",".join(CASES), help="which, with commas")
    options = parser.parse_args(arguments)
    check_pace(parser, options)
    cases = chosen(parser, "case", options.cases, CASES)
    found: dict[str, list[Round]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory(prefix="deskrelay-bench-") as directory:
        url = f"sqlite:///{directory}/bench.db"
        token, chat = trio.run(_fill, url)
        for _ in range(options.rounds):
            for name in cases:
                with served(url, token, chat) as server:
                    found[name].append(measure(server, name, options.secs))
    print("| beside | p50 ms | p99 ms | longest ms | delay ms | RSS MiB a reader | bars |")
    print("|---|---|---|---|---|---|---|")
    met = quiet = True
    for name, rounds in found.items():
        delay_s = statistics.median(p(0.99, r.beside_s) - p(0.5, r.alone_s) for r in rounds)
        rss_kib = statistics.median(r.rss_kib for r in rounds)
        good = delay_s < DELAY_BAR_S and rss_kib < RSS_BAR_KIB
        if name == "nobody":
            quiet = good
        else:
            met = met and good
        shares = (0.5, 0.99, 1.0)
        times = [statistics.median(p(share, r.beside_s) for r in rounds) * 1e3 for share in shares]
        cells = [*times, delay_s * 1e3, rss_kib / 1024]
        shown = " | ".join(f"{cell:.1f}" for cell in cells)
        print(f"| {name} | {shown} | {'met' if good else 'NOT MET'} |", flush=True)
    return 0 if met else 1 if quiet else 2


if __name__ == "__main__":
    sys.exit(main())
