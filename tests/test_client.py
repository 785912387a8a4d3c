"""The RFB client beside a desktop in the test's hands: what it says, and how it takes faults."""

from __future__ import annotations

import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from relay.client import ENCODINGS_HERE, RGBX, Desktop
from relay.errors import DesktopError
from relay.limits import Limits
from relay.login import DesktopEnd
from relay.rfb.handshake import ServerInit

WIDTH, HEIGHT = 8, 4
FENCE_OF_THEIRS = b"\xf8\0\0\0\x80\0\0\x03\x02ok"
KEY_A_DOWN, KEY_A_UP = bytes.fromhex("0401000000000061"), bytes.fromhex("0400000000000061")


class Far:
    """The desktop's side: what it hears, and what it says."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self.heard = b""
        self.picture = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        self.answers = True

    async def run(self) -> None:
        """Answers fences and requests for all, as Xvnc does."""
        async for data in self.stream:
            self.heard += data
            if not self.answers:
                continue
            for at in range(len(data)):
                if data.startswith(b"\xf8\0\0\0\x80\0\0\x01\x04", at):
                    reply = b"\xf8\0\0\0\0\0\0\x01\x04" + data[at + 9 : at + 13]
                    await self.stream.send_all(reply)
                if data.startswith(b"\x03\0\0\0\0\0", at):
                    await self.stream.send_all(self.update())

    def update(self) -> bytes:
        height, width = self.picture.shape[:2]
        head = struct.pack(">BxHHHHHi", 0, 1, 0, 0, width, height, 0)
        return head + self.picture.tobytes()

    async def hears(self, message: bytes) -> None:
        while message not in self.heard:
            await trio.sleep(0.01)


@pytest.fixture
async def pair(nursery: trio.Nursery) -> AsyncIterator[tuple[Desktop, Far]]:
    near, stream = trio.testing.memory_stream_pair()
    init = ServerInit(WIDTH, HEIGHT, RGBX, b"lab")
    end = DesktopEnd(near, init, version="3.8", security_type=1)
    far = Far(stream)
    nursery.start_soon(far.run)
    desktop = Desktop(end, RGBX, ENCODINGS_HERE, Limits())
    yield desktop, far
    await desktop.aclose()


Pair = tuple[Desktop, Far]


async def with_fences(pair: Pair) -> Pair:
    """One that has said that it knows fences."""
    desktop, far = pair
    await far.stream.send_all(FENCE_OF_THEIRS)
    await desktop.picture()
    return pair


async def test_what_is_painted_is_seen(pair: Pair) -> None:
    desktop, far = pair
    far.picture[1, 2] = (10, 20, 30, 0)
    picture = await desktop.picture()
    assert picture[1, 2].tolist() == [10, 20, 30, 255]
    assert (desktop.width, desktop.height, desktop.name) == (WIDTH, HEIGHT, "lab")


async def test_a_fence_is_answered_with_what_it_carries(pair: Pair) -> None:
    _, far = await with_fences(pair)
    # Of its flags the request is taken off (community specification, ServerFence).
    await far.hears(b"\xf8\0\0\0\0\0\0\x03\x02ok")


@pytest.mark.parametrize("fences", [False, True])
async def test_a_click_is_over_when_the_desktop_has_taken_it(pair: Pair, fences: bool) -> None:
    desktop, far = await with_fences(pair) if fences else pair
    await desktop.click(3, 2)
    down, up = (struct.pack(">BBHH", 5, mask, 3, 2) for mask in (1, 0))
    assert struct.pack(">BBHH", 5, 0, 3, 2) + down + up in far.heard


async def test_the_clicks_of_a_double_click_have_different_times(
    pair: Pair, autojump_clock: Any
) -> None:
    desktop, _ = await with_fences(pair)
    began = trio.current_time()
    await desktop.click(3, 2, count=2)
    assert 0.005 <= trio.current_time() - began <= 0.1
    began = trio.current_time()
    await desktop.scroll(down=5)
    await desktop.click(3, 2)
    assert trio.current_time() == began


async def test_where_the_pointer_is_is_not_known_before_it_has_moved(pair: Pair) -> None:
    desktop, _ = pair
    assert desktop.pointer is None
    await desktop.move(3, 2)
    assert desktop.pointer == (3, 2)


async def test_where_the_pointer_is_may_be_told(pair: Pair) -> None:
    desktop, far = pair
    await far.stream.send_all(struct.pack(">BxHHHHHi", 0, 1, 5, 1, 0, 0, -232))
    await desktop.sync()
    assert desktop.pointer == (5, 1)


async def test_to_stop_waiting_for_quiet_does_not_cut_a_message(
    pair: Pair, autojump_clock: Any
) -> None:
    desktop, _ = pair
    await desktop.sync()

    stream = desktop._stream
    assert isinstance(stream, trio.StapledStream)
    deliver = stream.send_stream.send_all_hook

    async def slow() -> None:
        await trio.sleep(0.05)
        await deliver()

    stream.send_stream.send_all_hook = slow
    await desktop.settled(quiet_s=0.01, limit_s=0.02)
    await desktop.sync()
    assert not desktop.gone


async def test_a_place_off_the_desktop(pair: Pair) -> None:
    desktop, _ = pair
    with pytest.raises(ValueError, match=r"\(8, 0\) is not on the desktop, which is 8x4"):
        await desktop.click(8, 0)


async def test_typed_text_is_keys_down_and_up(pair: Pair) -> None:
    desktop, far = pair
    await desktop.type("aa")
    assert (KEY_A_DOWN + KEY_A_UP) * 2 in far.heard


async def test_what_cannot_be_typed_types_nothing(pair: Pair) -> None:
    desktop, far = pair
    with pytest.raises(ValueError, match="which no key types"):
        await desktop.type("a\0")
    assert KEY_A_DOWN not in far.heard


async def test_a_key_that_is_the_same_in_every_layout_has_its_keycode(pair: Pair) -> None:
    """QEMU's extended key event, where the desktop has announced it by an empty rectangle."""
    desktop, far = pair
    await far.stream.send_all(struct.pack(">BxHHHHHi", 0, 1, 0, 0, 0, 0, -258))
    await desktop.picture()
    await desktop.press("Return")
    down, up = (struct.pack(">BBHII", 255, 0, is_down, 0xFF0D, 0x1C) for is_down in (1, 0))
    assert down + up in far.heard
    await desktop.type("a")
    assert KEY_A_DOWN + KEY_A_UP in far.heard


async def test_the_cursor_is_drawn_where_the_pointer_is(pair: Pair) -> None:
    desktop, far = pair
    # Two pixels, of which the mask shows the first; it points with the second (RFC 6143, 7.8.1).
    shape = bytes([1, 2, 3, 0, 4, 5, 6, 0]) + b"\x80"
    await far.stream.send_all(struct.pack(">BxHHHHHi", 0, 1, 1, 0, 2, 1, -239) + shape)
    await desktop.move(0, 1)
    assert (await desktop.picture(cursor=True))[1, 0].tolist() == [0, 0, 0, 255]
    await desktop.move(4, 1)
    assert (await desktop.picture(cursor=True))[1, 3].tolist() == [1, 2, 3, 255]
    assert (await desktop.picture())[1, 3].tolist() == [0, 0, 0, 255]


async def test_a_desktop_that_changes_its_size_meanwhile(pair: Pair) -> None:
    desktop, far = pair
    await far.stream.send_all(struct.pack(">BxHHHHHi", 0, 1, 0, 0, 6, 5, -223))
    far.picture = np.full((5, 6, 4), 7, np.uint8)
    picture = await desktop.picture()
    assert picture.shape == (5, 6, 4)
    assert (picture[..., :3] == 7).all()


async def test_settled_waits_for_the_end_of_changes(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    desktop, far = pair
    ticks = 5

    async def change() -> None:
        for _ in range(ticks):
            await trio.sleep(0.05)
            await far.stream.send_all(far.update())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        began = trio.current_time()
        assert await desktop.settled(quiet_s=0.08, limit_s=2)
    assert trio.current_time() - began == pytest.approx(ticks * 0.05 + 0.08)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        assert not await desktop.settled(quiet_s=0.08, limit_s=0.2)


async def test_a_clipboard_of_latin_1(pair: Pair) -> None:
    desktop, far = pair
    await far.stream.send_all(b"\x03\0\0\0\0\0\0\x04caf\xe9")
    await desktop.picture()
    assert desktop.clipboard == "café"
    await desktop.set_clipboard("naïve 漢")
    assert b"\x06\0\0\0\0\0\0\x07na\xefve ?" in far.heard


async def test_a_clipboard_of_unicode(pair: Pair) -> None:
    """Extended Clipboard Pseudo-encoding (community specification)."""
    desktop, far = pair

    def message(flags: int, data: bytes = b"") -> bytes:
        return struct.pack(">BxxxiI", 3, -4 - len(data), flags) + data

    await far.stream.send_all(message(0x1F000001, struct.pack(">I", 0)))
    await far.stream.send_all(message(0x08000001))
    await desktop.picture()
    await far.hears(struct.pack(">BxxxiI", 6, -4, 0x02000001))
    text = "漢\r\nb\0".encode()
    packed = zlib.compress(struct.pack(">I", len(text)) + text)
    await far.stream.send_all(message(0x10000001, packed))
    await desktop.picture()
    assert desktop.clipboard == "漢\nb"
    await desktop.set_clipboard("é\n漢")
    await far.hears(struct.pack(">BxxxiI", 6, -4, 0x08000001))
    await far.stream.send_all(message(0x02000001))
    await desktop.picture()
    text = "é\r\n漢\0".encode()
    packed = zlib.compress(struct.pack(">I", len(text)) + text)
    await far.hears(struct.pack(">BxxxiI", 6, -4 - len(packed), 0x10000001) + packed)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (b"\x09", "message type 9"),
        (struct.pack(">BxHHHHHi", 0, 1, 4, 0, 8, 4, 0), "8x4 at 4, 0 on a framebuffer of 8x4"),
        (struct.pack(">BxHHHHHi", 0, 1, 0, 0, 8, 4, 99), "encoding 99"),
        (struct.pack(">BxHHHHHi", 0, 1, 0, 0, 0, 4, -223), "a framebuffer of 0x4"),
        (b"\xf8\0\0\0\0\0\0\0\x41", "a fence of 65 bytes"),
        (b"\x03\0\0\0\xff\xff\xff\xfe", "a cut text of length -2"),
    ],
)
async def test_a_desktop_that_breaks_the_rules(pair: Pair, said: bytes, text: str) -> None:
    desktop, far = pair
    await far.stream.send_all(said)
    with pytest.raises(DesktopError, match=f"does not speak RFB as it should: .*{text}"):
        await desktop.picture()
    with pytest.raises(DesktopError):
        await desktop.click(1, 1)


async def test_a_clipboard_beyond_the_limit_is_skipped(pair: Pair) -> None:
    desktop, far = pair
    size = Limits().clipboard_bytes + 1
    await far.stream.send_all(struct.pack(">BxxxI", 3, size) + bytes(size) + b"\x02")
    await desktop.picture()
    assert desktop.clipboard is None


async def test_a_desktop_that_goes_away(pair: Pair) -> None:
    desktop, far = pair
    far.answers = False
    await far.stream.send_eof()
    with pytest.raises(DesktopError, match="closed the connection"):
        await desktop.picture()


async def test_a_desktop_that_does_not_answer(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    desktop, far = pair
    far.answers = False
    for act in (desktop.picture, desktop.sync):
        with pytest.raises(DesktopError, match="not answered within 10 s"):
            await act()


async def test_what_is_held_down_is_released_at_the_end(pair: Pair) -> None:
    desktop, far = pair
    await desktop.move(1, 1)
    await desktop.button_down()
    await desktop.key_down(0x61)
    await desktop.aclose()
    await far.hears(KEY_A_UP + struct.pack(">BBHH", 5, 0, 1, 1))
