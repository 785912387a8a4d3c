"""The measurement of lag: its link, its desktops, its viewer, its table. Nothing is timed."""

from __future__ import annotations

import signal
import struct
import subprocess
import sys

import pytest
import trio
from trio import StapledStream
from trio.testing import MemoryReceiveStream, MemorySendStream, MockClock, memory_stream_pair

from bench.lag import __main__ as lag
from bench.lag.__main__ import Run, main, rows
from bench.lag.desktop import FRAMES_PER_S, Desktop, rectangle
from bench.lag.link import NotPermitted, inside, slow_link
from bench.lag.viewer import MODES, WARM_UP_S, Viewer


def namespaces() -> set[str]:
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in done.stdout.splitlines()}


@pytest.fixture
def before() -> set[str]:
    """The namespaces there were; skips where none can be made."""
    try:
        existing = namespaces()
        with slow_link("cubic"):
            pass
    except (OSError, NotPermitted) as refusal:
        pytest.skip(f"no network namespaces here: {refusal}")
    return existing


class TestLink:
    def test_both_ends_reach_each_other_and_nothing_stays(self, before: set[str]) -> None:
        with slow_link("cubic") as link:
            assert namespaces() - before > {link.desktop, link.viewer}
            accept = inside(link.desktop, sys.executable, "-c", _ACCEPT)
            connect = inside(link.viewer, sys.executable, "-c", _CONNECT)
            with subprocess.Popen(accept, stdout=subprocess.PIPE) as accepting:
                assert accepting.stdout is not None
                accepting.stdout.readline()
                subprocess.run(connect, check=True)
            assert accepting.returncode == 0
        assert namespaces() == before

    def test_an_error_takes_it_down(self, before: set[str]) -> None:
        with pytest.raises(ZeroDivisionError), slow_link("cubic"):
            raise ZeroDivisionError
        assert namespaces() == before

    def test_a_link_that_fails_half_way_is_taken_down(self, before: set[str]) -> None:
        with pytest.raises(NotPermitted, match="nonsense"), slow_link("nonsense"):
            pass
        assert namespaces() == before

    def test_a_signal_takes_it_down(self, before: set[str]) -> None:
        command = [sys.executable, "-m", "bench.lag", "--cases", "synthetic-requests"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            # The table's head: the link stands.
            while not process.stdout.readline().startswith("|---"):
                assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            process.communicate()
        assert process.returncode == 1
        assert namespaces() == before


_ACCEPT = """
import socket
with socket.create_server(("10.77.1.2", 7001)) as listener:
    print("listening", flush=True)
    listener.accept()[0].close()
"""
_CONNECT = "import socket; socket.create_connection(('10.77.1.2', 7001), 10).close()"


class TestViewerAndDesktop:
    @pytest.mark.parametrize("mode", MODES)
    async def test_a_key_is_answered_at_once_where_nothing_queues(
        self, mode: str, autojump_clock: MockClock
    ) -> None:
        here, there = memory_stream_pair()
        viewer = Viewer(here.receive_some, here.send_all)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Desktop(there).run)
            await viewer.handshake(mode)
            nursery.start_soon(viewer.receive)
            lags_s = await viewer.measure(10)
            nursery.cancel_scope.cancel()
        assert set(lags_s) == {0.0}
        # Every frame is an update; a key that comes between two is one of its own.
        assert viewer.updates > FRAMES_PER_S * (10 + WARM_UP_S) + len(lags_s) / 2

    async def test_only_the_answer_to_the_key_counts(self, autojump_clock: MockClock) -> None:
        here, there = memory_stream_pair()
        viewer = Viewer(here.receive_some, here.send_all)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_late_desktop, there)
            await viewer.handshake("requests")
            nursery.start_soon(viewer.receive)
            lags_s = await viewer.measure(1)
            nursery.cancel_scope.cancel()
        assert lags_s == [pytest.approx(5)]

    async def test_a_fence_is_answered(self, autojump_clock: MockClock) -> None:
        here, there = memory_stream_pair()
        viewer = Viewer(here.receive_some, here.send_all)
        await there.send_all(struct.pack(">BxxxIB", 248, 1 << 31 | 7, 2) + b"ab")
        with trio.move_on_after(1):
            await viewer.receive()
        # noVNC keeps the flags that it can do: BlockBefore and BlockAfter.
        assert await there.receive_some() == struct.pack(">BxxxIB", 248, 3, 2) + b"ab"

    @pytest.mark.parametrize(
        ("message", "reason"),
        [
            (b"\x07", "type 7"),
            (struct.pack(">BxHHHHHi", 0, 1, 0, 0, 1, 1, 5), "encoding 5"),
            (struct.pack(">BxxxIB", 248, 0, 0), "nobody sent"),
        ],
    )
    async def test_what_was_not_offered_is_an_error(self, message: bytes, reason: str) -> None:
        here, there = memory_stream_pair()
        await there.send_all(message)
        with pytest.raises(ConnectionError, match=reason):
            await Viewer(here.receive_some, here.send_all).receive()


def _corner(colour: int) -> bytes:
    return struct.pack(">BxH", 0, 1) + rectangle(0, 0, 1, 1, struct.pack("<I", colour))


async def _late_desktop(stream: StapledStream[MemorySendStream, MemoryReceiveStream]) -> None:
    """Shows 9; from the first key on after 2 s 9 again, after 2 s more a picture elsewhere, and
    after another second 10."""
    hello = struct.pack(">HHB15xI", 16, 16, 32, 0)
    await stream.send_all(b"RFB 003.008\n\x01\x01" + bytes(4) + hello)
    heard = b""
    while not heard.endswith(b"\x03\0" + struct.pack(">HHHH", 0, 0, 16, 16)):
        heard += await stream.receive_some()
    await trio.sleep(WARM_UP_S)
    await stream.send_all(_corner(9))
    while b"\x04\x01" not in heard:
        heard += await stream.receive_some()
    await trio.sleep(2)
    await stream.send_all(_corner(9))
    await trio.sleep(2)
    elsewhere = rectangle(3, 0, 1, 1, struct.pack("<I", 10))
    await stream.send_all(struct.pack(">BxH", 0, 1) + elsewhere)
    await trio.sleep(1)
    await stream.send_all(_corner(10))
    await trio.sleep_forever()


class TestTable:
    def test_percentiles(self) -> None:
        run = Run([milliseconds / 1000 for milliseconds in range(100, 0, -1)], 1.0)
        assert [run.percentile_ms(p) for p in (50, 95, 99, 100)] == pytest.approx([50, 95, 99, 100])
        assert Run([0.007], 1.0).percentile_ms(50) == pytest.approx(7)

    def test_the_medians_of_rounds_beside_those_of_direct(self) -> None:
        runs = {
            "direct": [Run([0.1], 10.0), Run([0.2], 20.0), Run([0.9], 30.0)],
            "relay": [Run([0.1, 0.3], 15.0)] * 3,
        }
        assert list(rows("case", runs)) == [
            "| case | direct | 200 | 200 | 200 | 200 | 20.0 | 3 | 1.00 |",
            "| case | relay | 100 | 300 | 300 | 300 | 15.0 | 6 | 1.50 |",
        ]

    @pytest.mark.parametrize("case", ["synthetic-continuous", "xvnc-requests"])
    def test_a_case_has_a_row_for_each_way(
        self, case: str, before: set[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        if missing := lag.missing(case.partition("-")[0]):
            pytest.skip(missing)
        websockify = lag.websockify()
        ways = ["direct", "relay"] + ["websockify"] * (websockify is not None)
        main(["--cases", case, "--rounds", "1", "--secs", "0.1"])
        out = capsys.readouterr().out
        assert ("websockify is left out" in out) == (websockify is None)
        table = [line.split(" | ") for line in out.splitlines() if line.startswith("| " + case)]
        assert [row[1] for row in table] == ways
        for _, _, p50, _, _, worst, updates_per_s, keys, _ in table:
            assert 0 < float(p50) <= float(worst)
            assert float(updates_per_s) > 0
            assert int(keys) > 0
        assert namespaces() == before

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--cases", "nonsense"], "no case 'nonsense'"),
            (["--rounds", "0"], "must be more than 0"),
            (["--secs", "nan"], "must be more than 0"),
        ],
    )
    def test_a_wrong_argument_is_named(
        self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in capsys.readouterr().err

    def test_what_is_missing_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        assert lag.missing("xvnc") == "Xvnc is not installed"
        assert lag.missing("synthetic") == ""
