"""`deskrelay inspect`: what is in a recording, and what it says of a broken one."""

from __future__ import annotations

import json
import lzma
import random
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.cli.commands import run
from relay.limits import Limits
from relay.recordings.file import PIECE_BYTES, Record, read
from relay.recordings.inspection import Inspection, report
from relay.rfb import describe, from_desktop, from_viewer
from tests.labs import captures
from tests.labs.inspecting import BELL, DOWN, START, UP, agree, ignore, inspected

# A format change takes effect in it where no rule says so: TigerVNC's own reader loses step.
NOBODY_KEEPS_STEP = {"x11vnc-vncviewer-pfchange-latency"}

ALL = captures.names()
# Those that are cut 200 times at random: each is read in a few milliseconds.
SHORT = [n for n in ALL if sum(captures.load(n).expected["bytes"].values()) < 20_000]
if not ALL:
    # One test that tells why the others are missing.
    ALL = SHORT = ["tiger-novnc-basic"]

Cut = Callable[[Record], Iterable[Record]]


def path_of(name: str) -> Path:
    captures.load(name)  # skips, or fails in CI, where it is missing
    return captures.TRACES / f"{name}.rec.xz"


def expectation(name: str) -> dict[str, Any]:
    """What `--json` has to say, where the oracles say it too."""
    expected = captures.load(name).expected
    keys = ["version", "security_type", "client_messages", "bytes"]
    if name not in NOBODY_KEEPS_STEP:
        keys += ["server_messages", "rects", "final_framebuffer"]
    wanted = {key: expected[key] for key in keys}
    return wanted if name in NOBODY_KEEPS_STEP else wanted | {"error": None}


@pytest.mark.parametrize("name", ALL)
def test_what_is_in_a_capture(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(path_of(name)), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out)
    assert list(found) == [
        "version",
        "security_type",
        "client_messages",
        "server_messages",
        "rects",
        "final_framebuffer",
        "bytes",
        "error",
    ]
    agree(found, expectation(name))


def byte_by_byte(record: Record) -> Iterator[Record]:
    for at in range(len(record.data)):
        yield Record(record.direction, record.t_us, record.data[at : at + 1])


def at_random(seed: int) -> Cut:
    rng = random.Random(seed)

    def cut(record: Record) -> Iterator[Record]:
        size = len(record.data)
        cuts = sorted(rng.sample(range(size + 1), min(rng.randint(0, 9), size)))
        for a, b in zip([0, *cuts], [*cuts, size], strict=True):
            yield Record(record.direction, record.t_us, record.data[a:b])

    return cut


def check_cut(name: str, cut: Cut) -> None:
    pieces = (piece for record in read(path_of(name)) for piece in cut(record) if piece.data)
    agree(report(inspected(pieces)), expectation(name))


@pytest.mark.parametrize("name", ALL)
def test_byte_by_byte(name: str) -> None:
    check_cut(name, byte_by_byte)


@pytest.mark.parametrize("name", SHORT)
def test_200_random_cuts(name: str) -> None:
    for seed in range(200):
        check_cut(name, at_random(seed))


# TigerVNC's reader, the source of these captures' detail files, tells where each element ends.
@pytest.mark.parametrize(
    "name",
    ["qemu-novnc", "tiger-remmina", "tiger-vncviewer-clipboard", "tiger-vncviewer-zrle-8bpp"],
)
def test_counted_is_what_came_whole_wherever_the_capture_ends(name: str) -> None:
    path = path_of(name)
    ends: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for line in lines_of(path):
        for kind in ("done", "rectdone"):
            if kind in line:
                ends.setdefault((line["d"], line["end"]), []).append((kind, line[kind]))
    counted: dict[tuple[str, str], Counter[int]] = {
        key: Counter() for key in (("c", "done"), ("s", "done"), ("s", "rectdone"))
    }
    inspection = Inspection(Limits(), ignore)
    for record in read(path):
        side = "c" if record.direction is UP else "s"
        for piece in byte_by_byte(record):
            inspection.feed(piece)
            for kind, number in ends.get((side, inspection.bytes_sent[record.direction]), ()):
                counted[side, kind][number] += 1
            assert inspection.fault is None
            assert inspection.messages(UP) == counted["c", "done"]
            assert inspection.messages(DOWN) == counted["s", "done"]
            assert inspection.rectangles() == counted["s", "rectdone"]


def lines_of(path: Path) -> list[dict[str, Any]]:
    detail = path.with_name(path.name.replace(".rec.xz", ".detail.jsonl.xz"))
    return [json.loads(line) for line in lzma.decompress(detail.read_bytes()).splitlines()]


def test_one_line_for_each_message(capsys: pytest.CaptureFixture[str]) -> None:
    path = path_of("tiger-novnc-clip-resize")
    assert run(["inspect", str(path)]) == 0
    shown, _, summary = capsys.readouterr().out.partition("\n\n")
    wanted = [
        ["client" if line["d"] == "c" else "server", str(line["off"])]
        for line in lines_of(path)
        if "msg" in line or "rect" in line
    ]
    # Seven parts of a handshake before, and two ends behind.
    assert [line.split()[1:3] for line in shown.splitlines()[7:-2]] == wanted
    for text in (
        "  server         18  ServerInit  400x300, 32 bits per pixel, depth 24, ",
        "SetPixelFormat  32 bits per pixel, depth 24, little endian, "
        "red 255<<0, green 255<<8, blue 255<<16\n",
        ", LastRect, QEMU extended keys, LED state, ExtendedDesktopSize, ",
        "  client        194  SetDesktopSize  500x400, 1 screen\n",
        "  server        153    ExtendedDesktopSize  500x400 at 0,0\n",
    ):
        assert text in shown
    assert "\nframebuffer  380x260 at the end\n" in summary


def test_messages_have_the_names_they_have_in_errors() -> None:
    for way, table in ((UP, from_viewer._MESSAGES), (DOWN, from_desktop._MESSAGES)):
        for number, (name, *_) in table.items():
            assert describe.message_name(way, number) == name


# Files


def packed(pieces: Iterable[tuple[int, int, bytes]]) -> bytes:
    """The capture format: u8, u64, u32, bytes."""
    return b"".join(struct.pack(">BQI", way, t, len(data)) + data for way, t, data in pieces)


PLAIN = packed([(1, 1, START[DOWN]), (0, 2, START[UP]), (0, 3, b""), (1, 2**63, b"")])


@pytest.mark.parametrize("content", [PLAIN, lzma.compress(PLAIN)], ids=["plain", "xz"])
def test_plain_or_compressed(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "capture"
    file.write_bytes(content)
    assert run(["inspect", str(file)]) == 0
    out = capsys.readouterr().out
    assert "    0.000001  server          0  ProtocolVersion  RFB 003.008\n" in out
    assert "    0.000003  client         14  closed\n" in out


def test_a_long_record_comes_in_pieces(tmp_path: Path) -> None:
    file = tmp_path / "capture"
    data = random.Random(1).randbytes(PIECE_BYTES + 1)
    file.write_bytes(packed([(1, 7, data), (0, 8, b"x")]))
    found = list(read(file))
    assert [len(r.data) for r in found] == [PIECE_BYTES, 1, 1]
    assert b"".join(r.data for r in found) == data + b"x"
    assert [(r.direction, r.t_us) for r in found] == [(DOWN, 7), (DOWN, 7), (UP, 8)]


DAMAGED = bytearray(lzma.compress(PLAIN))
DAMAGED[len(DAMAGED) // 2] ^= 255


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "No such file or directory"),
        (b"", "this is no recording: it is empty"),
        (b"hello", "this is no recording: byte 0 is 104, and not 0 or 1"),
        (PLAIN + b"\2" + bytes(12), f"this is no recording: byte {len(PLAIN)} is 2"),
        (PLAIN[:5], "the file ends inside the record at byte 0"),
        (PLAIN[:40], "the file ends inside the record at byte 0"),
        (PLAIN[:-1], f"the file ends inside the record at byte {len(PLAIN) - 13}"),
        (lzma.compress(PLAIN)[:-1], "Compressed file ended before the end-of-stream marker"),
        (lzma.compress(PLAIN)[:20], "Compressed file ended before the end-of-stream marker"),
        (bytes(DAMAGED), "this xz file is damaged: "),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_a_file_that_is_no_recording_is_one_line(
    content: bytes | None,
    text: str,
    as_json: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "capture.rec.xz"
    if content is not None:
        file.write_bytes(content)
    assert run(["inspect", str(file), *["--json"] * as_json]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"deskrelay: {file}: {text}")
    assert err.count("\n") == 1
    assert not (as_json and out)


def test_a_directory_is_no_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"deskrelay: {tmp_path}: Is a directory\n"


def test_a_pipe_that_is_closed_early_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "capture"
    file.write_bytes(packed([(1, 1, START[DOWN]), (0, 2, START[UP]), (1, 3, BELL * 50_000)]))
    command = [sys.executable, "-m", "api", "inspect", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0
