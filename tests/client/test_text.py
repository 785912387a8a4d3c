"""The RFB client's typing and pasting, beside a desktop in the test's hands."""

from __future__ import annotations

import struct

import pytest
import trio
import trio.testing

from tests.labs.client import (
    CLIPBOARD_OFFERED,
    Pair,
    pair,
    with_clipboard,
)
from tests.labs.peers import KEY, KEY_UP

__all__ = ["pair"]  # the fixture


async def test_typed_text_is_keys_down_and_up(pair: Pair) -> None:
    desktop, far = pair
    await desktop.type("aa")
    assert (KEY + KEY_UP) * 2 in far.heard


async def test_what_cannot_be_typed_types_nothing(pair: Pair) -> None:
    desktop, far = pair
    with pytest.raises(ValueError, match="which no key types"):
        await desktop.type("a\0")
    assert KEY not in far.heard


async def test_a_paste_does_not_wait_for_what_a_clipboard_manager_took(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    desktop, far = await with_clipboard(pair)
    start = trio.current_time()
    await desktop.type("\N{OHM SIGN}")
    assert trio.current_time() - start < 0.5
    assert CLIPBOARD_OFFERED in far.heard


async def test_text_that_nobody_pastes_is_told_and_ends_the_typing(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    desktop, far = await with_clipboard(pair)
    far.pastes = False
    assert await desktop.type("\N{OHM SIGN}\na\n\N{OHM SIGN}") is False
    assert far.heard.count(CLIPBOARD_OFFERED) == 1
    assert KEY not in far.heard
    far.pastes = True
    assert await desktop.type("\N{OHM SIGN}\na") is True
    assert KEY in far.heard


async def test_the_words_of_a_line_are_one_paste(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    desktop, far = await with_clipboard(pair)
    await desktop.type("aa \u044d\u0442\u043e, \u0434\u0430\n\u043d\u0435\u0442aa")
    assert far.heard.count(CLIPBOARD_OFFERED) == 2
    assert far.heard.count(KEY) == 4
    space_down, return_down = (struct.pack(">BBxxI", 4, 1, key) for key in (0x20, 0xFF0D))
    assert far.heard.count(space_down) == 1
    assert far.heard.count(return_down) == 1
