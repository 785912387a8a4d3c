"""Text from an RFB client: by keys, and by the clipboard where keys do not do."""

from __future__ import annotations

import re
from typing import Final

import trio

from relay.client.connection import Connection
from relay.client.input import Input
from relay.keysyms import keysym_of

_UNICODE: Final = 0x01000000
"""From here on keysyms are those of Unicode's characters beyond Latin-1."""

# Characters of one paste: with two more a line end they stay below what desktops take (256 KiB).
_PASTED_AT_ONCE: Final = 32_768

_PASTE_TIMEOUT_S: Final = 2.0
_PASTE_QUIET_S: Final = 0.08


def _kind(keysym: int) -> str:
    """u: a character that no Latin keyboard has; c: another; k: a key such as Return."""
    return "u" if keysym >= _UNICODE else "k" if keysym >= 0xFF00 else "c"


class Text:
    """One connection's. What may be typed and pasted, and what comes of it, `relay.client.Desktop`
    says."""

    def __init__(self, connection: Connection, keys: Input) -> None:
        self._connection = connection
        self._messages = connection.messages
        self._input = keys

    async def type(self, text: str) -> bool:
        text = text.replace("\r\n", "\n")
        keysyms = {character: keysym_of(character) for character in text}
        pastes = self._messages.clipboard_on_request
        kinds = "".join(_kind(keysyms[character]) for character in text)
        # A paste takes its time, so words of a line are one, with what is between them.
        for run in re.finditer("u(?:c*u)*|[^u]+" if pastes else ".+", kinds):
            part = text[slice(*run.span())]
            if not (pastes and run[0].startswith("u")):
                await self._input.type([keysyms[character] for character in part])
            elif not await self.paste(part):
                return False
        return True

    async def paste(self, text: str) -> bool:
        text.encode()
        # Before it is parted, for a part's end could come between the two.
        text = text.replace("\r\n", "\n")
        for at in range(0, len(text), _PASTED_AT_ONCE):
            if not await self._paste(text[at : at + _PASTED_AT_ONCE]):
                return False
        return True

    async def _paste(self, text: str) -> bool:
        messages = self._messages
        # From here on: a clipboard manager asks at once, and then the desktop has it for all.
        provided = messages.provided
        await self.set_clipboard(text)
        await self._input.press("shift+Insert")
        if messages.clipboard_on_request:
            with trio.move_on_after(_PASTE_TIMEOUT_S):
                await self._connection.until(lambda: messages.provided > provided)
            if messages.provided == provided:
                return False
        # Programs insert it in their own time, and keys that come behind must not overtake it.
        await self._connection.settled(quiet_s=_PASTE_QUIET_S, limit_s=_PASTE_TIMEOUT_S)
        return True

    async def set_clipboard(self, text: str) -> None:
        await self._connection.send(self._messages.offer(text))
        await self._connection.sync()
