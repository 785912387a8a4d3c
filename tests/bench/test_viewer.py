"""The bench runs each workload, writes its report, notices corruption. Nothing is timed."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import cast

import pytest

from bench import framing, guard, usage
from bench.__main__ import main
from bench.load import Job, _Crowd, crowd
from bench.peers import PEERS, table
from bench.recorded import left_out
from bench.report import tables
from bench.runs import Run, measure, order
from bench.server import SERVER_INIT, UPDATES, stamp
from bench.viewer import Buffer, Viewer
from bench.wire import BINARY, PING, PONG, Unmasking, frame
from bench.workloads import WORKLOADS
from relay.rfb import encodings
from tests.labs import captures
from tests.labs.desktop_processes import needs_xvnc
from tests.labs.peers import client_frame

ON_THE_SYNTHETIC_DESKTOP = ("bulk", "tiny", "many", "starts", "workers")


def rows(text: str, workload: str) -> dict[str, list[str]]:
    """The cells of a workload's table by what its line is of."""
    section = text.partition(f"\n## {workload}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in cells}


def test_every_workload_gives_a_row_for_each_peer(tmp_path: Path) -> None:
    arguments = ["--secs", "0.1", "--rounds", "1", "--no-install", "--out", str(tmp_path)]
    names = ",".join(ON_THE_SYNTHETIC_DESKTOP)
    assert main([*arguments, "--workloads", names, "--peers", "direct,ours"]) == 0
    text = (tmp_path / "report.md").read_text()
    for name in ON_THE_SYNTHETIC_DESKTOP:
        found = rows(text, name)
        assert set(found) == (
            {"ours", "ours, 2 processes"} if name == "workers" else {"direct", "ours"}
        )
        for who, cells in found.items():
            assert float(cells[0]) > 0, (name, who)
            # Without a relay there is nothing that could have spent CPU.
            for column, cell in zip(tables.COLUMNS[name], cells, strict=True):
                assert (cell == "-") == (who == "direct" and column.relay)
    kept = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert {run["workload"] for run in kept} == set(ON_THE_SYNTHETIC_DESKTOP)
    for picture in ("throughput.png", "cpu.png", "latency.png", "memory.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
        assert f"({picture})" in text
    for said in ("- CPU: ", "- kernel: ", "- Python: ", "deskrelay demo; this checkout"):
        assert said in text


@pytest.mark.parametrize("peer", ["nginx", "haproxy", "haproxy-splice", "node", "websockify"])
def test_a_peer_carries_updates(peer: str) -> None:
    try:
        PEERS[peer].version()
    except table.Unavailable as error:
        pytest.skip(str(error))
    (record,) = measure("typical", peer, 0.1)
    assert record["updates"] > 0


def test_a_missing_peer_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(table, "WEBSOCKIFY", tmp_path / "websockify")
    arguments = ["--secs", "0.1", "--rounds", "1", "--no-install", "--out", str(tmp_path)]
    assert main([*arguments, "--workloads", "tiny", "--peers", "direct,websockify"]) == 0
    text = (tmp_path / "report.md").read_text()
    assert set(rows(text, "tiny")) == {"direct"}
    assert "- websockify is left out: websockify is not installed" in text
    assert "websockify is left out" in capsys.readouterr().err


def test_a_run_that_fails_is_in_the_report_and_in_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A viewer of Xvnc's that meets the synthetic desktop asks for what that does not know.
    wrong = dataclasses.replace(WORKLOADS["xvnc"], desktop="bench.server")
    monkeypatch.setitem(WORKLOADS, "xvnc", wrong)
    arguments = ["--secs", "0.1", "--rounds", "1", "--no-install", "--out", str(tmp_path)]
    assert main([*arguments, "--workloads", "xvnc", "--peers", "direct"]) == 1
    (cells,) = rows((tmp_path / "report.md").read_text(), "xvnc").values()
    assert "ConnectionError" in cells[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workloads", "nonsense"], "no workload 'nonsense'"),
        (["--peers", "direct,nobody"], "no peer 'nobody'"),
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


def test_the_order_of_peers_changes_from_round_to_round() -> None:
    names = ["direct", "ours", "nginx"]
    turns = [order("bulk", names, turn) for turn in range(6)]
    assert all(sorted(turn) == sorted((name, 1) for name in names) for turn in turns)
    assert {turn[0][0] for turn in turns} == set(names)
    behind = {(a, b) for turn in turns for (a, _), (b, _) in itertools.pairwise(turn)}
    assert len(behind) == 6  # everyone has been right behind everyone else


# The load, in this process, on the synthetic desktop.


@contextmanager
def synthetic_desktop(scheme: str = "tcp") -> Iterator[tuple[str, int]]:
    """Its address and process id."""
    command = [sys.executable, "-m", "bench.server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ports = json.loads(process.stdout.readline())
            yield f"{scheme}://127.0.0.1:{ports[scheme]}/", process.pid
        finally:
            process.terminate()


def test_sessions_grow_in_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WORKLOADS, "scale", dataclasses.replace(WORKLOADS["scale"], rate=300))
    with synthetic_desktop() as (address, pid):
        job = Job("scale", address, "", [], [pid], 0.2, [1, 3])
        records = list(crowd(job))
    assert [record["sessions"] for record in records] == [1, 3]
    assert all(record["updates"] > 0 for record in records)


def test_a_viewer_asks_again_only_when_it_has_its_update() -> None:
    """For one update may answer two requests (RFC 6143, Section 7.5.3)."""
    crowded = _Crowd(1.0)
    asked = updates = 0

    class Slow:
        def __init__(self) -> None:
            self.socket, self.far = socket.socketpair()

        def ask(self) -> None:
            nonlocal asked
            asked += 1

        def receive(self, _buffer: Buffer, _flags: int) -> int:
            self.socket.recv(1)
            return 1

        def close(self) -> None:
            self.socket.close()
            self.far.close()

    viewer = Slow()
    with closing(crowded):
        crowded.join(cast(Viewer, viewer))
        for _ in range(3):
            crowded._ask(cast(Viewer, viewer))
        assert asked == 1
        for updates in range(1, 4):
            viewer.far.send(b"u")
            assert crowded._receive(0)
            assert len(crowded.latencies_s) == updates
            assert asked == min(3, updates + 1)


def test_the_desktop_speaks_websocket_too() -> None:
    with synthetic_desktop("ws") as (address, _), closing(Viewer(address)) as viewer:
        viewer.handshake()
        viewer.choose(2)
        for _ in range(3):
            viewer.ask()
        assert receive_all(viewer, Buffer(), 3) == 3
        viewer.leave()


def test_cpu_and_memory_are_those_of_the_whole_tree() -> None:
    busy = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(10**7))'])"
    script = f"{busy}; print(flush=True); input()"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        spent_s = usage.cpu_s([process.pid])
        own_ticks = sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().split()[13:15]))
        # The child that did the work has ended.
        assert spent_s > own_ticks / usage.TICKS_PER_S + 0.02
        resident = usage.memory([process.pid])
        assert 0 < resident.pss_kib <= resident.rss_kib
        assert usage.tree([os.getpid()])[0] == os.getpid()
        assert process.pid in usage.tree([os.getpid()])
        process.communicate(b"\n")
    assert usage.cpu_s([process.pid]) == 0


# What a viewer notices.

LEVEL = 2


def numbered(number: int) -> bytes:
    update = bytearray(UPDATES[LEVEL])
    stamp(update, number)
    return bytes(update)


def receive_all(viewer: Viewer, buffer: Buffer, updates: int = sys.maxsize) -> int:
    came = 0
    while came < updates:
        came += viewer.receive(buffer)
    return came


def run_against(stream: bytes) -> int:
    """How many updates a viewer takes from a desktop that sends `stream` and ends."""
    handshake = b"RFB 003.008\n" + b"\x01\x01" + bytes(4) + SERVER_INIT
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with closing(Viewer(f"tcp://127.0.0.1:{port}")) as viewer, listener.accept()[0] as desktop:
            # Small enough for the socket buffers, so one thread can be both ends.
            desktop.sendall(handshake + stream)
            desktop.shutdown(socket.SHUT_WR)
            viewer.handshake()
            viewer.choose(LEVEL)
            return receive_all(viewer, Buffer(4096), 3)


def swap(update: bytes) -> bytes:
    """Two chunks of one update in each other's place."""
    return update[:4096] + update[8192:12288] + update[4096:8192] + update[12288:]


def flip(update: bytes, at: int) -> bytes:
    return update[:at] + bytes([update[at] ^ 1]) + update[at + 1 :]


def test_a_viewer_takes_what_is_due() -> None:
    assert run_against(numbered(0) + numbered(1) + numbered(2)) == 3


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(numbered(0) + numbered(0) + numbered(1), id="repeated"),
        pytest.param(numbered(0) + numbered(2) + numbered(3), id="lost"),
        pytest.param(numbered(0) + numbered(2) + numbered(1), id="reordered"),
        pytest.param(numbered(0) + swap(numbered(1)) + numbered(2), id="chunks swapped"),
        pytest.param(numbered(0) + flip(numbered(1), 20000) + numbered(2), id="one bit"),
        pytest.param(numbered(0) + flip(numbered(1), -3 % len(numbered(1))), id="of the number"),
        pytest.param(numbered(0) + numbered(1)[256:] + numbered(2), id="a hole"),
    ],
)
def test_a_viewer_notices_corruption(stream: bytes) -> None:
    with pytest.raises(ConnectionError, match="not those due"):
        run_against(stream)


def test_a_stream_that_ends_early_is_an_error() -> None:
    with pytest.raises(ConnectionError, match="the connection ended"):
        run_against(numbered(0) + numbered(1))


@contextmanager
def websocket_viewer() -> Iterator[tuple[Viewer, socket.socket]]:
    """A viewer behind its upgrade, waiting for updates, and the other end of its connection."""
    with synthetic_desktop("ws") as (address, _), closing(Viewer(address)) as viewer:
        viewer.choose(LEVEL)
        near, far = socket.socketpair()
        with near, far:
            viewer.socket.close()
            viewer.socket = near
            yield viewer, far


@pytest.mark.parametrize("piece", [1, 3, 1000, 100_000])
def test_frames_may_end_anywhere(piece: int) -> None:
    stream = numbered(0) + numbered(1)
    ping = frame(b"still there?", PING)
    framed = frame(stream[:125]) + ping + frame(stream[125:300]) + frame(b"") + frame(stream[300:])
    with websocket_viewer() as (viewer, far):
        buffer = Buffer()
        came = 0
        for at in range(0, len(framed), piece):
            far.sendall(framed[at : at + piece])
            came += viewer.receive(buffer)
        while came < 2:
            came += viewer.receive(buffer)
        pong = far.recv(4096)
    assert (pong[0] & 15, pong[1]) == (PONG, 0x80 | len(b"still there?"))


@pytest.mark.parametrize(
    ("framed", "message"),
    [
        (frame(flip(numbered(0), 5000)), "not those due"),
        (frame(numbered(0)[:5000]) + frame(numbered(0)[5001:]), "not those due"),
        (frame(numbered(0), 1), "a frame of opcode 1"),
        (frame(b"\x03\xe8", 8), "a frame of opcode 8"),
    ],
)
def test_corruption_in_frames_is_noticed(framed: bytes, message: str) -> None:
    with websocket_viewer() as (viewer, far):
        far.sendall(framed)
        with pytest.raises(ConnectionError, match=message):
            receive_all(viewer, Buffer(4096))


def test_the_desktop_refuses_frames_without_a_mask() -> None:
    unmasking = Unmasking()
    data = client_frame(b"abc") + client_frame(b"x" * 300)
    assert unmasking.feed(data[:10]) + unmasking.feed(data[10:]) == b"abc" + b"x" * 300
    with pytest.raises(ValueError, match="without a mask"):
        unmasking.feed(frame(b"abcdef", BINARY))


# The other desktops.


def test_recorded_sessions_pass_all_relays() -> None:
    captures.load("tiger-novnc-basic")  # or there are none, and the test is skipped
    for peer in ("direct", "ours"):
        (record,) = measure("replay", peer, 0.1)
        assert record["bytes"] > 2_000_000, peer


def test_captures_that_do_not_end_as_they_began_are_left_out() -> None:
    def expected(**changes: object) -> dict[str, object]:
        return {
            "rfb_session": True,
            "rects": {"7": 1, "-224": 1},
            "server_init": {"width": 8, "height": 8},
            "final_framebuffer": [8, 8],
            "pixel_format_changes": [{"effective_at_server_offset": 60}],
        } | changes

    assert left_out(expected(), 60) == ""
    assert left_out(expected(), 59) == "changes its pixel format"
    assert left_out(expected(final_framebuffer=[8, 9]), 60) == "changes its size"
    assert left_out(expected(rects={"12345": 1}), 60) == "encodings that are not relayed"
    assert left_out(expected(rfb_session=False), 60) == "no RFB session"


def test_without_captures_the_replay_says_so(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "bench.replay"],
        env=os.environ | {"RELAY_SHARED": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == os.EX_UNAVAILABLE
    assert run.stderr == f"no captures at {tmp_path / 'traces'}; set RELAY_SHARED\n"


@needs_xvnc
@pytest.mark.skipif(shutil.which("xterm") is None, reason="xterm is not installed")
@pytest.mark.parametrize("peer", ["direct", "ours"])
def test_a_moving_picture_passes(peer: str) -> None:
    (record,) = measure("xvnc", peer, 0.3)
    assert record["updates"] > 0
    assert record["bytes"] > 1000


# The guard.


def ran(workload: str, peer: str, turn: int, **record: float) -> Run:
    return Run(workload, peer, turn, {"seconds": 1.0} | record)


def test_a_bar_is_held_against_the_median_of_paired_rounds() -> None:
    bar = guard.Bar("CPU", "tiny", guard.cpu_per_unit, "node", most=1.5)
    runs = []
    # The second round ran on a machine half as fast, which is nobody's fault.
    for turn, (ours, node) in enumerate([(1.4, 1.0), (2.8, 2.0), (9.0, 1.0)]):
        runs.append(ran("tiny", "ours", turn, units=1, relay_cpu_s=ours))
        runs.append(ran("tiny", "node", turn, units=1, relay_cpu_s=node))
    text, met = guard.judge(bar, runs, 3)
    assert met
    assert "1.4" in text
    text, met = guard.judge(dataclasses.replace(bar, most=1.3), runs, 3)
    assert met is False
    assert "NOT MET" in text


def test_a_bar_without_its_peer_is_not_met() -> None:
    bar = guard.Bar("CPU", "tiny", guard.cpu_per_unit, "node", most=1.5)
    text, met = guard.judge(bar, [ran("tiny", "ours", 0, units=1, relay_cpu_s=1)], 1)
    assert met is None
    assert "NOT MEASURED" in text
    failed = Run("tiny", "node", 0, error="did not start")
    assert guard.judge(bar, [ran("tiny", "ours", 0, units=1, relay_cpu_s=1), failed], 1)[1] is None


def test_a_bar_of_its_own_needs_no_peer() -> None:
    bar = guard.Bar("sessions", "starts", guard.throughput, least=350)
    assert guard.judge(bar, [ran("starts", "ours", 0, units=350)], 1)[1] is True
    assert guard.judge(bar, [ran("starts", "ours", 0, units=349)], 1)[1] is False


@pytest.mark.parametrize(("least", "status"), [(1, 0), (1e9, 1)])
def test_the_guards_exit_status_says_whether_bars_are_met(
    least: float, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        guard, "BARS", (guard.Bar("updates", "tiny", guard.throughput, least=least),)
    )
    assert guard.main(["--secs", "0.1", "--rounds", "1", "--no-install"]) == status
    assert ("NOT MET" in capsys.readouterr().out) == bool(status)


def test_the_guards_plan_has_only_what_its_bars_name() -> None:
    plan = guard.plan({"ours", "node"})
    assert set(plan) == {bar.workload for bar in guard.BARS}
    assert plan["bulk"] == ["ours"]  # nginx is missing
    assert plan["tiny"] == ["ours", "node"]


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
