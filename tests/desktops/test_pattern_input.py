"""What viewers do to the test pattern, as they see it: keys, the pointer, and other sizes.

Expected bytes are from the community specification for ExtendedDesktopSize, SetDesktopSize and
DesktopName.
"""

from __future__ import annotations

import struct

import pytest
import trio
import trio.testing

from relay.desktops.pattern import PatternServer
from tests.labs.pattern_viewer import (
    DESKTOP_NAME,
    DESKTOP_SIZE,
    EXTENDED_DESKTOP_SIZE,
    HEIGHT,
    SHOW_ALL,
    SHOW_NEW,
    WIDTH,
    connect,
    key,
    pointer,
    screen_layout,
    server,
    set_desktop_size,
)
from tests.labs.rfb_viewer import set_encodings

__all__ = ["server"]  # the fixture


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
