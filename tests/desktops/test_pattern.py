"""The test pattern as a viewer sees it, byte by byte.

Expected bytes are from RFC 6143, and from the community specification for
ExtendedDesktopSize, SetDesktopSize and DesktopName.
"""

from __future__ import annotations

import gc
import struct
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from relay.desktops import RunningDesktop, pattern, provider_for
from relay.desktops.pattern import PatternServer
from relay.dialling.addresses import UnixAddress
from relay.dialling.login import open_desktop
from relay.limits import Limits
from tests.labs.desktop_processes import desktops_home, directories
from tests.labs.pattern_viewer import (
    BANNER,
    EXTENDED_DESKTOP_SIZE,
    HEIGHT,
    SHOW_ALL,
    SHOW_NEW,
    WIDTH,
    Viewer,
    connect,
    key,
    pointer,
    screen_layout,
    server,
)
from tests.labs.rfb_viewer import set_encodings

__all__ = ["desktops_home", "server"]  # the fixtures

BAR_PX = WIDTH // 8
"""Of the colour bars at the top: white, yellow, cyan, green, magenta, red, blue, black."""


async def test_every_byte_alone(server: PatternServer, nursery: trio.Nursery) -> None:
    ours, theirs = memory_stream_pair()
    nursery.start_soon(server.serve, theirs)
    viewer = Viewer(ours)
    sent = BANNER + b"\x01\x01" + set_encodings(0, EXTENDED_DESKTOP_SIZE) + key(ord("x")) + SHOW_ALL
    for number in range(len(sent)):
        await viewer.send(sent[number : number + 1])
        await trio.testing.wait_all_tasks_blocked()
    await viewer.read(12 + 2 + 4 + 4 + 16)
    (length,) = struct.unpack(">I", await viewer.read(4))
    await viewer.read(length)
    first, second = await viewer.update()
    assert first == (0, 0, WIDTH, HEIGHT, EXTENDED_DESKTOP_SIZE, screen_layout(WIDTH, HEIGHT))
    assert second[:5] == (0, 0, WIDTH, HEIGHT, 0)


@pytest.mark.parametrize(
    "said",
    [b"RFB 003.003\n", b"GET / HTTP/1.1\r\n", BANNER + b"\x02", b"RFB"],
    ids=["old version", "not RFB", "security not offered", "ends early"],
)
async def test_wrong_greeting_ends_that_viewer_only(
    server: PatternServer, nursery: trio.Nursery, said: bytes
) -> None:
    good = await connect(server, nursery)
    ours, theirs = memory_stream_pair()
    nursery.start_soon(server.serve, theirs)
    await ours.send_all(said)
    await ours.send_eof()
    while await ours.receive_some():
        pass
    await good.send(SHOW_ALL)
    await good.update()


async def test_silent_viewer_is_given_up(
    server: PatternServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    ours, theirs = memory_stream_pair()
    nursery.start_soon(server.serve, theirs)
    while await ours.receive_some():
        pass
    assert trio.current_time() == pytest.approx(Limits().handshake_timeout_s)


async def test_picture(server: PatternServer, nursery: trio.Nursery) -> None:
    viewer = await connect(server, nursery)
    await viewer.send(SHOW_ALL)
    (rectangle,) = await viewer.update()
    assert rectangle[:5] == (0, 0, WIDTH, HEIGHT, 0)
    bars = [viewer.pixels[BAR_PX * n + 1, 1].hex() for n in range(8)]
    assert bars == [
        *("ffffff00", "ffff0000", "00ffff00", "00ff0000"),
        *("ff00ff00", "ff000000", "0000ff00", "00000000"),
    ]


async def test_full_requests_are_answered_though_nothing_changed(
    server: PatternServer, nursery: trio.Nursery
) -> None:
    viewer = await connect(server, nursery)
    for area in ((0, 0, WIDTH, HEIGHT), (10, 20, 30, 40), (600, 470, 100, 100)):
        await viewer.send(struct.pack(">BBHHHH", 3, 0, *area))
        (rectangle,) = await viewer.update()
        x, y, width, height = area
        assert rectangle[:5] == (x, y, min(width, WIDTH - x), min(height, HEIGHT - y), 0)
    # Nothing of the screen in it: answered all the same.
    await viewer.send(struct.pack(">BBHHHH", 3, 0, 5000, 5000, 10, 10))
    assert await viewer.update() == []


async def test_incremental_requests_wait_for_a_change_and_get_only_that(
    server: PatternServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    viewer = await connect(server, nursery)
    await viewer.send(SHOW_ALL)
    await viewer.update()
    await viewer.send(SHOW_NEW)
    with trio.move_on_after(100) as waited:
        await viewer.update()
    assert waited.cancelled_caught

    before = dict(viewer.pixels)
    nursery.start_soon(server.animate)
    rectangles = await viewer.update()
    assert viewer.changed_since(before)
    assert sum(width * height for _, _, width, height, _, _ in rectangles) < 10_000
    nursery.cancel_scope.cancel()


async def test_it_moves(
    server: PatternServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    nursery.start_soon(server.animate)
    viewer = await connect(server, nursery)
    await viewer.send(SHOW_ALL)
    await viewer.update()
    for _ in range(80):  # there and back again
        await viewer.send(SHOW_NEW)
        assert await viewer.update()
    assert trio.current_time() == pytest.approx(8, abs=1)
    # What arrived in pieces is what a new viewer gets at once.
    late = await connect(server, nursery)
    await late.send(SHOW_ALL)
    await late.update()
    assert late.pixels == viewer.pixels
    nursery.cancel_scope.cancel()


async def test_part_of_the_screen_gets_its_changes_only(
    server: PatternServer, nursery: trio.Nursery
) -> None:
    viewer = await connect(server, nursery)
    await viewer.send(SHOW_ALL)
    await viewer.update()
    await viewer.send(pointer(100, 200), struct.pack(">BBHHHH", 3, 1, 90, 190, 20, 20))
    rectangles = await viewer.update()
    assert [r[:5] for r in rectangles] == [(90, 190, 20, 20, 0)]
    # The rest is still to come, once.
    await viewer.send(SHOW_NEW)
    rest = await viewer.update()
    assert all((x, y) != (90, 190) for x, y, *_ in rest)
    await viewer.send(SHOW_NEW)
    await trio.testing.wait_all_tasks_blocked()
    assert not viewer.unread
    nursery.cancel_scope.cancel()


async def test_viewers_share_one_screen(server: PatternServer, nursery: trio.Nursery) -> None:
    one = await connect(server, nursery)
    two = await connect(server, nursery)
    for viewer in (one, two):
        await viewer.send(SHOW_ALL)
        await viewer.update()
    await two.send(SHOW_NEW)
    await one.send(pointer(200, 300, 1), SHOW_NEW)
    await one.update()
    await trio.testing.wait_all_tasks_blocked()
    await two.update()
    await two.send(SHOW_ALL)
    await two.update()
    await one.send(SHOW_ALL)
    await one.update()
    assert one.pixels == two.pixels


async def test_viewer_that_reads_nothing_does_not_stop_the_others(
    server: PatternServer, nursery: trio.Nursery
) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    nursery.start_soon(server.serve, theirs)
    stuck = Viewer(ours)
    await stuck.read(12)
    await stuck.send(BANNER)
    await stuck.read(2)
    await stuck.send(b"\x01")
    await stuck.read(4)
    await stuck.send(b"\x01")
    await stuck.read(24)
    await stuck.send(SHOW_ALL)

    viewer = await connect(server, nursery)
    for number in range(10):
        await viewer.send(pointer(number, number), SHOW_NEW)
        await viewer.update()
    nursery.cancel_scope.cancel()


# bits per pixel, depth, big endian, true colour, maxima, shifts (RFC 6143, Section 7.4).
# The bars are white, yellow, cyan, green, magenta, red, blue, black.
FORMATS = {
    "565 little": (
        "10 10 00 01 001f 003f 001f 0b 05 00",
        "ffff e0ff ff07 e007 1ff8 00f8 1f00 0000",
    ),
    "565 big": ("10 10 01 01 001f 003f 001f 0b 05 00", "ffff ffe0 07ff 07e0 f81f f800 001f 0000"),
    "332": ("08 08 00 01 0007 0007 0003 00 03 06", "ff 3f f8 38 c7 07 c0 00"),
    "bgr32": (
        "20 18 00 01 00ff 00ff 00ff 10 08 00",
        "ffffff00 00ffff00 ffff0000 00ff0000 ff00ff00 0000ff00 ff000000 00000000",
    ),
    "rgb32 big": (
        "20 18 01 01 00ff 00ff 00ff 10 08 00",
        "00ffffff 00ffff00 0000ffff 0000ff00 00ff00ff 00ff0000 000000ff 00000000",
    ),
    "10 bits": (
        "20 1e 00 01 03ff 03ff 03ff 14 0a 00",
        "ffffff3f 00fcff3f ffff0f00 00fc0f00 ff03f03f 0000f03f ff030000 00000000",
    ),
}


@pytest.mark.parametrize("name", FORMATS)
async def test_pixel_formats(server: PatternServer, nursery: trio.Nursery, name: str) -> None:
    pixel_format, bars = FORMATS[name]
    wire = bytes.fromhex(pixel_format)
    viewer = await connect(server, nursery)
    viewer.bytes_per_pixel = wire[0] // 8
    await viewer.send(b"\0\0\0\0" + wire + b"\0\0\0", SHOW_ALL)
    await viewer.update()
    assert [viewer.pixels[BAR_PX * n + 1, 1].hex() for n in range(8)] == bars.split()


@pytest.mark.parametrize(
    "message",
    [
        b"\x09",
        b"\xff" * 12,
        b"\0\0\0\0" + bytes.fromhex("18 18 00 01 00ff 00ff 00ff 00 08 10 000000"),
        b"\0\0\0\0" + bytes.fromhex("08 08 00 00 0000 0000 0000 00 00 00 000000"),
        b"\0\0\0\0" + bytes.fromhex("20 18 00 01 0000 00ff 00ff 00 08 10 000000"),
        struct.pack(">BxH", 2, 65535),
    ],
    ids=["unknown", "extension", "24 bits", "colour map", "no red", "many encodings"],
)
async def test_broken_message_ends_that_viewer_only(
    server: PatternServer, nursery: trio.Nursery, message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    good = await connect(server, nursery)
    bad = await connect(server, nursery)
    await bad.send(message)
    assert await bad.stream.receive_some() == b""
    assert "broke the protocol" in caplog.text
    await good.send(SHOW_ALL)
    await good.update()


@pytest.mark.parametrize("sign", [1, -1], ids=["classic", "extended"])
async def test_clipboard_is_ignored_however_long(
    server: PatternServer, nursery: trio.Nursery, sign: int
) -> None:
    viewer = await connect(server, nursery)
    await viewer.send(struct.pack(">Bxxxi", 6, sign * 1_000_000))
    for _ in range(100):
        await viewer.send(bytes(10_000))
    await viewer.send(SHOW_ALL)
    (rectangle,) = await viewer.update()
    assert rectangle[:5] == (0, 0, WIDTH, HEIGHT, 0)


async def test_as_a_desktop(desktops_home: Path) -> None:
    async with trio.open_nursery() as nursery:
        desktop: RunningDesktop = await nursery.start(
            provider_for("pattern", geometry="320x200").run
        )
        end = await open_desktop(desktop.address)
        assert (end.width, end.height, end.name) == (320, 200, "Test pattern 320x200")
        assert (end.version, end.security_type) == ("3.8", 1)
        await end.aclose()
        assert dict(desktop.environment) == {}
        nursery.cancel_scope.cancel()
    assert directories(desktops_home) == []


async def test_a_start_that_is_cancelled_leaves_no_socket(tmp_path: Path) -> None:
    with trio.move_on_after(0) as scope:
        await pattern._listen(UnixAddress(str(tmp_path / "rfb")))
    assert scope.cancelled_caught
    # What is open and collected is a warning, and so an error.
    gc.collect()
