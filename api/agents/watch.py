"""Who follows a chat that a model works in, and what they have not heard yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Final, NamedTuple
from uuid import UUID

import trio

__all__ = ["Followers", "Watch", "Words"]

LOOK_AGAIN_S: Final = 5.0
"""Other processes change chats without telling."""

UNHEARD_CHARS: Final = 65_536
"""Of text that a watcher has not taken; it has all of it when the message is saved."""


class Words(NamedTuple):
    """What the model is saying, before it is a message. `restarted`: what it said earlier behind
    the message of the id `behind` is void."""

    behind: int = 0
    restarted: bool = False
    text: str = ""


class Watch:
    """What somebody who watches a chat has not seen; for one waiter. `token_id` is what has signed
    them in, and `ended` whether they have to go."""

    def __init__(self, token_id: str) -> None:
        self.token_id = token_id
        self.ended = False
        self._told = trio.Event()
        self._changed = False
        self._words = Words()

    def tell(self, words: Words | None = None) -> None:
        """Something has changed, or the model is saying `words`."""
        if words is None:
            self._changed = True
        else:
            before = self._words
            if words.restarted or words.behind != before.behind:
                self._words = words
            else:
                text = (before.text + words.text)[:UNHEARD_CHARS]
                self._words = Words(before.behind, before.restarted, text)
        self._told.set()

    async def wait(self) -> tuple[bool, Words]:
        """Waits for news, for a few seconds at most: whether the chat may have changed, and what
        its model has said since."""
        with trio.move_on_after(LOOK_AGAIN_S) as late:
            await self._told.wait()
        self._told = trio.Event()
        news = self._changed or late.cancelled_caught, self._words
        self._changed, self._words = False, Words()
        return news


class Followers:
    """Who follows chats in this process, whichever process runs them."""

    def __init__(self) -> None:
        self._watches: dict[UUID, list[Watch]] = {}
        self.closing = False

    @contextmanager
    def watch(self, chat_id: UUID, token_id: str = "") -> Iterator[Watch]:
        """Tells of changes of a chat's while the block runs."""
        watch = Watch(token_id)
        self._watches.setdefault(chat_id, []).append(watch)
        try:
            yield watch
        finally:
            self._watches[chat_id].remove(watch)
            if not self._watches[chat_id]:
                del self._watches[chat_id]

    def tell(self, chat_id: UUID, words: Words | None = None) -> None:
        """Tells those who watch a chat that it has changed, or what its model says."""
        for watch in self._watches.get(chat_id, ()):
            watch.tell(words)

    def end_token(self, token_id: str) -> None:
        """Whoever has signed in with that token follows no chat any more."""
        for watch in chain.from_iterable(self._watches.values()):
            if watch.token_id == token_id:
                watch.ended = True
                watch.tell()

    def close(self) -> None:
        """The server ends: nobody follows any chat."""
        self.closing = True
        for chat_id in self._watches:
            self.tell(chat_id)
