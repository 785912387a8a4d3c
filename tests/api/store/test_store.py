"""The store: what it keeps, and who wins at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio

from api.store import Store, StoreError
from tests.labs.clock import ManualClock
from tests.labs.databases import postgresql, url

__all__ = ["postgresql", "url"]  # the fixtures


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(url: str, clock: ManualClock) -> AsyncIterator[Store]:
    store = await Store.open(url, clock=clock, token_lifetime_s=86_400)
    yield store
    await store.aclose()


async def test_opening_again_finds_everything(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    first = await Store.open(url)
    user = await first.ensure_user("alice")
    workspace = await first.add_workspace(user.id, "dev", "tcp://localhost:5900")
    chat = await first.create_chat(user.id, title="hello", workspace_id=workspace.id)
    token = await first.create_token(user.id)
    await first.aclose()

    second = await Store.open(url)
    assert await second.user("alice") == user
    assert await second.user("nobody") is None
    assert await second.ensure_user("alice") == user
    assert await second.workspace(workspace.id) == workspace
    assert await second.chat(chat.id) == chat
    assert [t.id for t in await second.tokens()] == [token[:10]]
    await second.aclose()


async def test_only_the_hash_of_a_token_is_kept(tmp_path: Path) -> None:
    store = await Store.open(f"sqlite:///{tmp_path}/store.db")
    user = await store.ensure_user("alice")
    secret = (await store.create_token(user.id)).partition("-")[2]
    code = await store.create_link(user.id, "/")
    await store.aclose()
    stored = (tmp_path / "store.db").read_bytes()  # closing has merged the log into it
    assert b"alice" in stored
    assert secret.encode() not in stored
    assert code.encode() not in stored


async def test_token_form_and_lifetime(store: Store, clock: ManualClock) -> None:
    user = await store.ensure_user("alice")
    text = await store.create_token(user.id)
    token_id, secret = text.split("-")
    assert (len(token_id), len(secret)) == (10, 22)
    assert (token_id + secret).isalnum()
    token = await store.token(token_id)
    assert token is not None
    assert (token.user_id, token.user_name, token.user_status) == (user.id, "alice", "active")
    assert token.expires_at == clock.now + timedelta(days=1)
    assert "secret_hash" not in repr(token)

    clock.advance(seconds=86_399)
    assert not store.expired(token)
    clock.advance(seconds=1)
    assert store.expired(token)


async def test_use_extends_a_token_and_is_written_hourly(store: Store, clock: ManualClock) -> None:
    token_id = (await store.create_token((await store.ensure_user("alice")).id))[:10]
    fresh = await store.token(token_id)
    assert fresh is not None

    clock.advance(minutes=59)
    assert await store.touch_token(fresh) == fresh.expires_at
    assert await store.token(token_id) == fresh

    clock.advance(minutes=1)
    assert await store.touch_token(fresh) == clock.now + timedelta(days=1)
    used = await store.token(token_id)
    assert used is not None
    assert (used.last_used_at, used.expires_at) == (clock.now, clock.now + timedelta(days=1))


async def test_revoked_token_is_gone(store: Store) -> None:
    token_id = (await store.create_token((await store.ensure_user("alice")).id))[:10]
    assert await store.revoke_token(token_id)
    assert await store.token(token_id) is None
    assert not await store.revoke_token(token_id)


async def test_use_extends_no_token_beyond_its_greatest_age(url: str, clock: ManualClock) -> None:
    first = await Store.open(url, clock=clock, token_lifetime_s=86_400, token_max_age_s=172_800)
    token_id = (await first.create_token((await first.ensure_user("alice")).id))[:10]
    end = clock.now + timedelta(days=2)
    for _ in range(2):
        clock.advance(hours=23)
        token = await first.token(token_id)
        assert token is not None
        await first.touch_token(token)
    used = await first.token(token_id)
    assert used is not None
    assert used.expires_at == end
    clock.advance(hours=1, minutes=59)
    assert not first.expired(used)
    clock.advance(minutes=1)
    assert first.expired(used)
    short = await first.create_token(used.user_id, lifetime_s=10 * 86_400)
    stored = await first.token(short[:10])
    assert stored is not None
    assert stored.expires_at == clock.now + timedelta(days=2)
    await first.aclose()


async def test_a_greatest_age_that_was_lowered_counts_for_old_tokens(
    store: Store, clock: ManualClock
) -> None:
    token_id = (await store.create_token((await store.ensure_user("alice")).id))[:10]
    strict = Store(store.database, clock=clock, token_lifetime_s=86_400, token_max_age_s=3_600)
    token = await strict.token(token_id)
    assert token is not None
    assert strict.ends_at(token) == clock.now + timedelta(hours=1)
    clock.advance(minutes=59)
    assert await strict.touch_token(token) == strict.ends_at(token)
    assert not strict.expired(token)
    clock.advance(minutes=1)
    assert strict.expired(token)
    assert await strict.touch_token(token) == clock.now


async def test_a_users_tokens_and_nobody_elses(store: Store, clock: ManualClock) -> None:
    alice, bob = await store.ensure_user("alice"), await store.ensure_user("bob")
    old = (await store.create_token(alice.id))[:10]
    clock.advance(seconds=1)
    new = (await store.create_token(alice.id))[:10]
    other = (await store.create_token(bob.id))[:10]

    async def listed(**where: Any) -> tuple[list[bytes], bool]:
        page = await store.tokens_page(alice.id, lambda token: token.id.encode(), **where)
        return [item.data for item in page.items], page.more

    assert await listed(limit=9) == ([new.encode(), old.encode()], False)
    assert await listed(limit=1) == ([new.encode()], True)
    assert await listed(limit=1, after=await store.token(new)) == ([old.encode()], False)
    assert await store.revoke_tokens_of(alice.id, other) == []
    assert await store.revoke_tokens_of(alice.id, old) == [old]
    assert await store.revoke_tokens_of(alice.id) == [new]
    assert await store.revoke_tokens_of(alice.id) == []
    assert await store.token(other) is not None


async def test_a_link_is_looked_at_and_replaces_a_token(store: Store, clock: ManualClock) -> None:
    user = await store.ensure_user("alice")
    code = await store.create_link(user.id, "/", lifetime_s=60)
    old = (await store.create_token(user.id))[:10]
    for _ in range(2):
        assert await store.link_user(code) == user
    assert await store.link_user("no-such-code") is None
    await store.set_user_status(user.id, "suspended")
    assert await store.redeem_link(code, replacing=old) is None
    assert await store.token(old) is not None
    await store.set_user_status(user.id, "active")
    assert await store.redeem_link(code, replacing=old) is not None
    assert await store.token(old) is None
    assert await store.link_user(code) is None
    late = await store.create_link(user.id, "/", lifetime_s=60)
    clock.advance(seconds=60)
    assert await store.link_user(late) is None


async def test_link_works_once_and_not_late(store: Store, clock: ManualClock) -> None:
    user = await store.ensure_user("alice")
    code = await store.create_link(user.id, "/chats/1", lifetime_s=60)
    late = await store.create_link(user.id, "/chats/2", lifetime_s=60)
    redeemed = await store.redeem_link(code)
    assert redeemed is not None
    token, path = redeemed
    assert path == "/chats/1"
    stored = await store.token(token[:10])
    assert stored is not None
    assert stored.user_name == "alice"
    assert await store.redeem_link(code) is None
    assert await store.redeem_link("no-such-code") is None

    clock.advance(seconds=60)
    assert await store.redeem_link(late) is None


async def test_of_many_at_once_one_wins(store: Store) -> None:
    user = await store.ensure_user("alice")
    chat = await store.create_chat(user.id)
    code = await store.create_link(user.id, "/")
    archived: list[bool] = []
    redeemed: list[object] = []

    async def archive() -> None:
        archived.append(await store.set_archived(chat.id, True))

    async def redeem() -> None:
        redeemed.append(await store.redeem_link(code))

    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(archive)
            nursery.start_soon(redeem)
    assert sorted(archived) == [False] * 11 + [True]
    assert sum(result is not None for result in redeemed) == 1


async def test_chats_are_listed_newest_first(store: Store, clock: ManualClock) -> None:
    alice, bob = await store.ensure_user("alice"), await store.ensure_user("bob")
    old = await store.create_chat(alice.id, title="old")
    clock.advance(minutes=1)
    new = await store.create_chat(alice.id, title="new")
    gone = await store.create_chat(alice.id, title="gone")
    await store.create_chat(bob.id, title="bob's")
    clock.advance(minutes=1)
    assert await store.set_archived(gone.id, True)

    assert await store.chats(alice.id) == [new, old]
    archived = {chat.title: chat for chat in await store.chats(alice.id, archived=True)}
    assert archived.keys() == {"new", "old", "gone"}
    assert (archived["gone"].archived, archived["gone"].updated_at) == (True, clock.now)
    assert len(await store.chats(archived=True)) == 4


async def test_a_workspace_name_is_taken_once_per_owner(store: Store) -> None:
    alice, bob = await store.ensure_user("alice"), await store.ensure_user("bob")
    await store.add_workspace(alice.id, "dev", "pattern")
    await store.add_workspace(bob.id, "dev", "pattern")
    with pytest.raises(ValueError, match="'dev' already"):
        await store.add_workspace(alice.id, "dev", "xvnc")
    assert [owner for _, owner in await store.workspaces()] == ["alice", "bob"]


async def test_foreign_keys_hold(store: Store) -> None:
    with pytest.raises(StoreError, match=r"(?i)foreign key"):
        await store.create_chat(uuid4())
