"""Sessions that are ended from outside, whatever they are doing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from api.live import CHECK_S, TRIM_FROM, LiveSessions
from api.store import Store, StoreError, Token
from relay import CloseCode, Session
from tests.labs.clock import ManualClock

CHAT = UUID(int=1)


class Stopped:
    """A session that notes how it was stopped."""

    def __init__(self) -> None:
        self.stops: list[tuple[int, str]] = []

    def stop(self, code: int, reason: str) -> None:
        self.stops.append((code, reason))


class Tokens:
    """A store of tokens, and of which chats are archived."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.broken = False
        self.gone: set[UUID] = set()
        end = self.clock() + timedelta(hours=1)
        now = self.clock()
        token = Token("a", UUID(int=2), "alice", "active", b"", 3600, now, now, end)
        self.tokens: dict[str, Token] = {"a": token, "b": replace(token, id="b")}

    async def token(self, token_id: str) -> Token | None:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise StoreError("gone")
        return self.tokens.get(token_id)

    async def archived(self, chat_ids: set[UUID]) -> list[UUID]:
        await trio.lowlevel.checkpoint()
        return [chat_id for chat_id in chat_ids if chat_id in self.gone]

    def expired(self, token: Token) -> bool:
        return self.clock() >= token.expires_at


async def test_an_end_before_the_session_is_there_cancels_its_start_and_is_kept() -> None:
    live, session = LiveSessions(), Stopped()
    with live.enter(str(CHAT), "a") as entry:
        live.end_chat(CHAT, CloseCode.ARCHIVED, "chat archived")
        with entry.starting:
            await trio.sleep_forever()
        assert entry.starting.cancelled_caught
        entry.attach(cast(Session, session))
    assert session.stops == [(CloseCode.ARCHIVED, "chat archived")]


async def test_only_the_chats_own_sessions_end() -> None:
    live = LiveSessions()
    sessions = {"one": Stopped(), "other": Stopped()}
    with live.enter(str(CHAT), "a") as one, live.enter(str(UUID(int=9)), "a") as other:
        one.attach(cast(Session, sessions["one"]))
        other.attach(cast(Session, sessions["other"]))
        live.end_chat(CHAT, CloseCode.ARCHIVED, "chat archived")
        assert live.count == 2
    assert sessions["one"].stops
    assert not sessions["other"].stops
    assert live.count == 0


async def test_sessions_end_with_their_token(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    live, tokens = LiveSessions(), Tokens()
    sessions = {name: Stopped() for name in "ab"}
    nursery.start_soon(live.watch_store, cast(Store, tokens))
    with live.enter(str(CHAT), "a") as a, live.enter(str(CHAT), "b") as b:
        a.attach(cast(Session, sessions["a"]))
        b.attach(cast(Session, sessions["b"]))
        await trio.sleep(2 * CHECK_S)
        assert not sessions["a"].stops
        del tokens.tokens["a"]  # revoked
        tokens.broken = True
        await trio.sleep(2 * CHECK_S)
        assert not sessions["a"].stops  # nobody is signed out by a database that is away
        tokens.broken = False
        await trio.sleep(2 * CHECK_S)
        assert set(sessions["a"].stops) == {(CloseCode.SIGNED_OUT, "signed out")}
        assert not sessions["b"].stops
        tokens.clock.advance(minutes=59)
        b_token: Any = tokens.tokens["b"]
        tokens.tokens["b"] = replace(b_token, expires_at=b_token.expires_at + timedelta(hours=1))
        tokens.clock.advance(minutes=59)
        await trio.sleep(2 * CHECK_S)
        assert not sessions["b"].stops  # used elsewhere meanwhile, and so extended
        tokens.clock.advance(hours=1)
        await trio.sleep(2 * CHECK_S)
        assert sessions["b"].stops


async def test_sessions_end_with_their_chat_wherever_it_is_archived(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    live, tokens = LiveSessions(), Tokens()
    session, other = Stopped(), Stopped()
    nursery.start_soon(live.watch_store, cast(Store, tokens))
    with (
        live.enter("no chat at all", "a"),
        live.enter(str(CHAT), "a") as one,
        live.enter(str(UUID(int=3)), "a") as another,
    ):
        one.attach(cast(Session, session))
        another.attach(cast(Session, other))
        await trio.sleep(2 * CHECK_S)
        assert not session.stops
        tokens.gone = {CHAT}
        await trio.sleep(2 * CHECK_S)
        assert set(session.stops) == {(CloseCode.ARCHIVED, "chat archived")}
        assert not other.stops


def test_of_two_that_come_for_the_last_place_one_gets_it() -> None:
    live = LiveSessions(capacity=1)
    with live.enter(str(CHAT), "a") as first, live.enter(str(CHAT), "a") as second:
        assert (first.too_many, second.too_many) == (False, True)
    with live.enter(str(CHAT), "a") as third:
        assert not third.too_many


def test_when_half_of_many_have_left_memory_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    left_when_trimmed: list[int] = []
    live = LiveSessions()
    monkeypatch.setattr("api.live.trim", lambda: left_when_trimmed.append(live.count))
    for many in (TRIM_FROM - 1, 2 * TRIM_FROM):
        sessions = [live.enter("chat", "token") for _ in range(many)]
        for session in sessions:
            with session:
                session.stay()
        for session in sessions:
            session.leave()
    assert left_when_trimmed == [TRIM_FROM, TRIM_FROM // 2]
