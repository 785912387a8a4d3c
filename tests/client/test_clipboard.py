"""The RFB client and the clipboard of a desktop in the test's hands, plain and extended."""

from __future__ import annotations

import struct
import zlib

import pytest
import trio.testing

from relay.limits import Limits
from tests.labs.client import EXTENDED_CAPABILITIES, Pair, extended, pair, provided

__all__ = ["pair"]


def given(text: bytes) -> bytes:
    """The message that has it. Its zlib stream is flushed and does not end: libvncserver ends the
    connection with it."""
    deflater = zlib.compressobj()
    packed = deflater.compress(struct.pack(">I", len(text) + 1) + text + b"\0")
    packed += deflater.flush(zlib.Z_SYNC_FLUSH)
    return struct.pack(">BxxxiI", 6, -4 - len(packed), 0x10000001) + packed


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

    await far.stream.send_all(EXTENDED_CAPABILITIES + extended(0x08000001))
    await desktop.picture()
    await far.hears(struct.pack(">BxxxiI", 6, -4, 0x02000001))
    text = "漢\r\nb\0".encode()
    packed = zlib.compress(struct.pack(">I", len(text)) + text)
    await far.stream.send_all(extended(0x10000001, packed))
    await desktop.picture()
    assert desktop.clipboard == "漢\nb"
    await desktop.set_clipboard("é\n漢")
    await far.hears(struct.pack(">BxxxiI", 6, -4, 0x08000001))
    await far.stream.send_all(extended(0x02000001))
    await desktop.picture()
    await far.hears(given("é\r\n漢".encode()))


async def test_a_text_is_given_at_once_to_a_desktop_that_knows_no_notify(pair: Pair) -> None:
    """As libvncserver's capabilities have it, also where its program does nothing with the text
    (x11vnc): what is typed there is not pasted."""
    desktop, far = pair
    await far.stream.send_all(extended(0x17000001, struct.pack(">I", 1 << 20)))
    await desktop.picture()
    await desktop.set_clipboard("漢")
    assert given("漢".encode()) in far.heard
    await desktop.type("漢")
    assert struct.pack(">BBHI", 4, 1, 0, 0x01006F22) in far.heard


async def test_a_text_that_is_none_leaves_the_connection_as_it_was(pair: Pair) -> None:
    desktop, far = pair
    await far.stream.send_all(EXTENDED_CAPABILITIES)
    await desktop.picture()
    await desktop.set_clipboard("before")
    with pytest.raises(ValueError, match="surrogate"):
        await desktop.set_clipboard("\ud800")
    await far.stream.send_all(extended(0x02000001))
    await desktop.picture()
    await far.hears(given(b"before"))


async def test_long_text_is_pasted_in_parts_that_a_desktop_takes(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    desktop, far = pair
    await far.stream.send_all(EXTENDED_CAPABILITIES)
    await desktop.picture()
    await desktop.type("漢\u2028" * (Limits().clipboard_bytes // 6))
    assert far.heard.count(struct.pack(">BxxxiI", 6, -4, 0x08000001)) == 3
    with pytest.raises(ValueError, match="surrogate"):
        await desktop.paste("a" * 40_000 + "\ud800")
    assert far.heard.count(struct.pack(">BxxxiI", 6, -4, 0x08000001)) == 3


async def test_a_line_end_is_not_parted(pair: Pair, autojump_clock: trio.testing.MockClock) -> None:
    desktop, far = pair
    await desktop.paste("a" * 32_767 + "\r\nb")
    assert b"aa\n" in far.heard
    assert b"a\r" not in far.heard


@pytest.mark.parametrize("is_extended", [False, True])
async def test_a_text_that_no_desktop_takes(pair: Pair, is_extended: bool) -> None:
    """TigerVNC's server drops what is longer than its limit, which is ours as well."""
    desktop, far = pair
    if is_extended:
        await far.stream.send_all(EXTENDED_CAPABILITIES)
    await desktop.picture()
    most = Limits().clipboard_bytes - is_extended
    await desktop.set_clipboard("a" * most)
    with pytest.raises(ValueError, match="262145 bytes of text; a clipboard has at most 262144"):
        await desktop.set_clipboard("a" * (most + 1))


async def test_lines_of_a_plain_clipboard_end_with_a_line_feed(pair: Pair) -> None:
    desktop, far = pair
    await desktop.set_clipboard("a\r\nb")
    assert b"\x06\0\0\0\0\0\0\x03a\nb" in far.heard


async def test_an_extended_clipboard_beyond_the_limit_is_skipped(pair: Pair) -> None:
    desktop, far = pair
    long = "é".encode() * (Limits().clipboard_bytes // 2 + 1)
    await far.stream.send_all(EXTENDED_CAPABILITIES + provided(3, b"ok\0"))
    await far.stream.send_all(provided(len(long), long))
    await desktop.picture()
    assert desktop.clipboard == "ok"


async def test_a_clipboard_beyond_the_limit_is_skipped(pair: Pair) -> None:
    desktop, far = pair
    size = Limits().clipboard_bytes + 1
    await far.stream.send_all(struct.pack(">BxxxI", 3, size) + bytes(size) + b"\x02")
    await desktop.picture()
    assert desktop.clipboard is None
