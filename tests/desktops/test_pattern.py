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

__all__ = ["desktops_home"]

WIDTH, HEIGHT = 640, 480
BAR = (
    WIDTH // 8
)  # the colour bars at the top: white, yellow, cyan, green, magenta, red, blue, black
BANNER = b"RFB 003.008\n"
NATIVE = bytes.fromhex("20 18 00 01 00ff 00ff 00ff 00 08 10 000000")
SHOW_ALL = struct.pack(">BBHHHH", 3, 0, 0, 0, WIDTH, HEIGHT)
SHOW_NEW = struct.pack(">BBHHHH", 3, 1, 0, 0, WIDTH, HEIGHT)
EXTENDED_DESKTOP_SIZE, DESKTOP_NAME, DESKTOP_SIZE = -308, -307, -223

Rectangle = tuple[int, int, int, int, int, bytes]
"""x, y, width, height, encoding, payload."""


def set_encodings(*numbers: int) -> bytes:
    return struct.pack(f">BxH{len(numbers)}i", 2, len(numbers), *numbers)


def set_desktop_size(width: int, height: int) -> bytes:
    return struct.pack(">BxHHBx", 251, width, height, 1) + struct.pack(
        ">IHHHHI", 7, 0, 0, width, height, 0
    )


def key(keysym: int, *, down: bool = True) -> bytes:
    return struct.pack(">BBxxI", 4, down, keysym)


def pointer(x: int, y: int, buttons: int = 0) -> bytes:
    return struct.pack(">BBHH", 5, buttons, x, y)


class Viewer:
    """A viewer after its handshake, with a picture of its own."""

    def __init__(self, stream: trio.abc.Stream, bytes_per_pixel: int = 4) -> None:
        self.stream = stream
        self.unread = bytearray()
        self.bytes_per_pixel = bytes_per_pixel
        self.pixels: dict[tuple[int, int], bytes] = {}

    async def send(self, *messages: bytes) -> None:
        await self.stream.send_all(b"".join(messages))

    async def read(self, count: int) -> bytes:
        while len(self.unread) < count:
            data = await self.stream.receive_some()
            assert data, "the server closed"
            self.unread += data
        taken = bytes(self.unread[:count])
        del self.unread[:count]
        return taken

    async def update(self) -> list[Rectangle]:
        """One FramebufferUpdate. Its Raw rectangles are put into the picture."""
        kind, padding, count = struct.unpack(">BBH", await self.read(4))
        assert (kind, padding) == (0, 0)
        return [await self._rectangle() for _ in range(count)]

    async def _rectangle(self) -> Rectangle:
        x, y, width, height, encoding = struct.unpack(">HHHHi", await self.read(12))
        if encoding == EXTENDED_DESKTOP_SIZE:
            screens = await self.read(4)
            payload = screens + await self.read(16 * screens[0])
        elif encoding == DESKTOP_NAME:
            (length,) = struct.unpack(">I", await self.read(4))
            payload = await self.read(length)
        elif encoding == DESKTOP_SIZE:
            payload = b""
        else:
            assert encoding == 0
            size = self.bytes_per_pixel
            payload = await self.read(width * height * size)
            for number in range(width * height):
                at = (x + number % width, y + number // width)
                self.pixels[at] = payload[number * size : (number + 1) * size]
        return x, y, width, height, encoding, payload

    def changed_since(self, before: dict[tuple[int, int], bytes]) -> set[tuple[int, int]]:
        return {at for at, pixel in self.pixels.items() if before.get(at) != pixel}


@pytest.fixture
def server() -> PatternServer:
    return PatternServer(WIDTH, HEIGHT, limits=Limits())


async def connect(server: PatternServer, nursery: trio.Nursery) -> Viewer:
    ours, theirs = memory_stream_pair()
    nursery.start_soon(server.serve, theirs)
    viewer = Viewer(ours)
    assert await viewer.read(12) == BANNER
    await viewer.send(BANNER)
    assert await viewer.read(2) == b"\x01\x01"  # one security type: None
    await viewer.send(b"\x01")
    assert await viewer.read(4) == b"\0\0\0\0"  # SecurityResult: OK
    await viewer.send(b"\x01")
    width, height = struct.unpack(">HH", await viewer.read(4))
    assert (width, height) == (server.screen.width, server.screen.height)
    assert await viewer.read(16) == NATIVE
    (length,) = struct.unpack(">I", await viewer.read(4))
    assert await viewer.read(length) == b"Test pattern %dx%d" % (width, height)
    return viewer


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
    bars = [viewer.pixels[BAR * n + 1, 1].hex() for n in range(8)]
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


async def test_typed_keys_are_readable(server: PatternServer, nursery: trio.Nursery) -> None:
    viewer = await connect(server, nursery)
    await viewer.send(pointer(0, HEIGHT - 1), SHOW_ALL)
    await viewer.update()
    empty = dict(viewer.pixels)

    await viewer.send(key(ord("L")), key(ord("L"), down=False), SHOW_NEW)
    await viewer.update()
    ink = bytes.fromhex("eceff400")
    panel = {at for at in viewer.changed_since(empty) if at[1] > 140}
    written = {at for at in panel if viewer.pixels[at] == ink}
    left, top = min(x for x, _ in written), min(y for _, y in written)
    cell = [(x, y) for x in range(10) for y in range(16)]
    letter = {(x, y) for x, y in cell if viewer.pixels[left + x, top + y] == ink}
    # An L of seven rows and five columns, each dot two by two pixels.
    upright = {(x, y) for x in range(2) for y in range(14)}
    foot = {(x, y) for x in range(10) for y in range(12, 14)}
    assert letter == upright | foot

    await viewer.send(key(0xFF08), key(0xFF08, down=False), SHOW_NEW)  # BackSpace
    await viewer.update()
    assert not [at for at in viewer.changed_since(empty) if at[1] > 140]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("keysym", [0xFF0D, 0xFFE1, 0xE9, 0x010020AC, 0xFFFFFFFF, 0, 0xFF55])
async def test_any_key_shows(server: PatternServer, nursery: trio.Nursery, keysym: int) -> None:
    viewer = await connect(server, nursery)
    await viewer.send(SHOW_ALL)
    await viewer.update()
    before = dict(viewer.pixels)
    await viewer.send(key(keysym), SHOW_NEW)
    await viewer.update()
    assert viewer.changed_since(before)


async def test_long_text_scrolls(server: PatternServer, nursery: trio.Nursery) -> None:
    viewer = await connect(server, nursery)
    for _ in range(300):
        await viewer.send(*(key(ord(c)) for c in "line of text"), key(0xFF0D))
    await viewer.send(SHOW_ALL)
    await viewer.update()
    before = dict(viewer.pixels)
    await viewer.send(key(ord("!")), SHOW_NEW)
    await viewer.update()
    assert [at for at in viewer.changed_since(before) if at[1] > 140]


async def test_pointer_shows_with_its_buttons(server: PatternServer, nursery: trio.Nursery) -> None:
    viewer = await connect(server, nursery)
    await viewer.send(SHOW_ALL)
    await viewer.update()
    away = viewer.pixels[300, 300]
    colours = {}
    for buttons in (0, 1, 2, 4, 8):
        await viewer.send(pointer(300, 300, buttons), SHOW_NEW)
        await viewer.update()
        colours[buttons] = viewer.pixels[300, 300]
    assert len({away, *colours.values()}) == 6
    await viewer.send(pointer(65535, 65535), SHOW_NEW)
    await viewer.update()
    assert viewer.pixels[300, 300] == away


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


def screen_layout(width: int, height: int) -> bytes:
    return struct.pack(">BxxxIHHHHI", 1, 0, 0, 0, width, height, 0)


async def test_resize(server: PatternServer, nursery: trio.Nursery) -> None:
    asker, other, old, blind = [await connect(server, nursery) for _ in range(4)]
    await asker.send(set_encodings(0, EXTENDED_DESKTOP_SIZE, DESKTOP_NAME))
    await other.send(set_encodings(EXTENDED_DESKTOP_SIZE))
    await old.send(set_encodings(0, DESKTOP_SIZE))
    await blind.send(set_encodings(0))
    for viewer in (asker, other, old, blind):
        await viewer.send(SHOW_ALL)
        await viewer.update()
    for viewer in (other, old, blind):
        await viewer.send(SHOW_NEW)
    await trio.testing.wait_all_tasks_blocked()

    await asker.send(set_desktop_size(800, 300), SHOW_NEW)
    assert await asker.update() == [
        (1, 0, 800, 300, EXTENDED_DESKTOP_SIZE, screen_layout(800, 300)),
        (0, 0, 0, 0, DESKTOP_NAME, b"Test pattern 800x300"),
    ]
    assert await other.update() == [
        (2, 0, 800, 300, EXTENDED_DESKTOP_SIZE, screen_layout(800, 300))
    ]
    assert await old.update() == [(0, 0, 800, 300, DESKTOP_SIZE, b"")]
    # Who cannot be told keeps its size, and gets what of it there still is.
    assert [r[:5] for r in await blind.update()] == [(0, 0, WIDTH, 300, 0)]

    for viewer in (asker, other, old):
        await viewer.send(struct.pack(">BBHHHH", 3, 1, 0, 0, 800, 300))
        assert [r[:5] for r in await viewer.update()] == [(0, 0, 800, 300, 0)]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("width", "height"), [(0, 0), (63, 480), (640, 4097), (65535, 65535)])
async def test_refused_resize_says_so(
    server: PatternServer, nursery: trio.Nursery, width: int, height: int
) -> None:
    viewer = await connect(server, nursery)
    await viewer.send(set_encodings(EXTENDED_DESKTOP_SIZE), SHOW_ALL)
    await viewer.update()
    await viewer.send(set_desktop_size(width, height), SHOW_NEW)
    (rectangle,) = await viewer.update()
    layout = screen_layout(WIDTH, HEIGHT)
    assert rectangle == (1, 2, WIDTH, HEIGHT, EXTENDED_DESKTOP_SIZE, layout)
    assert (server.screen.width, server.screen.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("size", [(64, 64), (4096, 64), (64, 4096), (200, 150)])
async def test_odd_sizes_are_drawn(
    server: PatternServer, nursery: trio.Nursery, size: tuple[int, int]
) -> None:
    viewer = await connect(server, nursery)
    await viewer.send(set_encodings(EXTENDED_DESKTOP_SIZE), SHOW_ALL)
    await viewer.update()
    await viewer.send(*(key(ord(c)) for c in "some text"), set_desktop_size(*size), SHOW_NEW)
    await viewer.update()
    await viewer.send(struct.pack(">BBHHHH", 3, 0, 0, 0, *size))
    (rectangle,) = await viewer.update()
    assert rectangle[2:4] == size
    server.screen.tick()


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
    assert [viewer.pixels[BAR * n + 1, 1].hex() for n in range(8)] == bars.split()


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
