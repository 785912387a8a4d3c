"""The bench script runs each workload, prints its table, notices corruption. Nothing is timed."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from bench import framing
from bench.__main__ import WORKLOADS, main
from bench.server import SERVER_INIT, UPDATES, stamp
from bench.viewer import Viewer
from relay.rfb import encodings
from tests import captures


def test_every_workload_gives_two_rows(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--secs", "0.1", "--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[:2] for row in rows] == [[n, who] for n in WORKLOADS for who in ("direct", "relay")]
    for _, who, _, updates_per_s, cpu_per_gb, cpu_per_update, latency in rows:
        assert float(updates_per_s) > 0
        assert float(latency) > 0
        if who == "direct":
            assert (cpu_per_gb, cpu_per_update) == ("-", "-")
        else:
            # The clock tick may be longer than what so short a run costs.
            assert float(cpu_per_gb) >= 0
            assert float(cpu_per_update) >= 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workloads", "nonsense"], "no workload 'nonsense'"),
        (["--rounds", "0"], "must be more than 0"),
        (["--secs", "nan"], "must be more than 0"),
        (["--secs", "soon"], "invalid float value: 'soon'"),
    ],
)
def test_a_wrong_argument_is_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


LEVEL = 2


def numbered(number: int) -> bytes:
    update = bytearray(UPDATES[LEVEL])
    stamp(update, number)
    return bytes(update)


def run_against(stream: bytes) -> int:
    """What a viewer with three requests under way counts when the desktop sends `stream`."""
    handshake = b"RFB 003.008\n" + b"\x01\x01" + bytes(4) + SERVER_INIT
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with closing(Viewer(f"tcp://127.0.0.1:{port}")) as viewer, listener.accept()[0] as desktop:
            # Small enough for the socket buffers, so one thread can be both ends.
            desktop.sendall(handshake + stream)
            desktop.shutdown(socket.SHUT_WR)
            viewer.handshake(LEVEL)
            return viewer.run(LEVEL, outstanding=3, seconds=3600).updates


def swap(update: bytes) -> bytes:
    """Two chunks of one update in each other's place."""
    return update[:4096] + update[8192:12288] + update[4096:8192] + update[12288:]


def flip(update: bytes) -> bytes:
    return update[:20000] + bytes([update[20000] ^ 1]) + update[20001:]


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(numbered(0) + numbered(0) + numbered(1), id="repeated"),
        pytest.param(numbered(0) + numbered(2) + numbered(3), id="lost"),
        pytest.param(numbered(0) + numbered(2) + numbered(1), id="reordered"),
        pytest.param(numbered(0) + swap(numbered(1)) + numbered(2), id="chunks swapped"),
        pytest.param(numbered(0) + flip(numbered(1)) + numbered(2), id="one bit"),
        pytest.param(numbered(0) + numbered(1)[256:] + numbered(2), id="a hole"),
    ],
)
def test_a_viewer_notices_corruption(stream: bytes) -> None:
    with pytest.raises(ConnectionError, match="not those due"):
        run_against(stream)


def test_a_stream_that_ends_early_is_an_error() -> None:
    with pytest.raises(ConnectionError, match="the connection ended"):
        run_against(numbered(0) + numbered(1))


def test_framing_has_a_row_for_each_encoding(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    captures.load("tiger-novnc-basic")  # or there are none, and the test is skipped
    monkeypatch.setattr(framing, "ROUNDS", 1)
    monkeypatch.setattr(framing, "RECTANGLES", 1)
    framing.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert {int(row[0]) for row in rows} == set(encodings.REGISTRY)
    with_bars = {int(row[0]) for row in rows if "met" in row or "MET" in row}
    assert with_bars == set(framing.BARS_US)
