"""Session tokens: where they are looked for, what is wrong with them, and for how long they do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from api.http.auth import (
    SIGNED_OUT,
    Identity,
    authenticate,
    parse_token,
    require_same_origin,
)
from api.http.errors import ApiError
from api.http.site import Site, same_origin
from api.store import Store, User
from tests.labs.clock import ManualClock

FORMAT = "Invalid API key format: "


def connection(
    headers: Mapping[str, str] | None = None, query: str = "", kind: str = "http"
) -> HTTPConnection:
    raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    return HTTPConnection({"type": kind, "headers": raw, "query_string": query.encode()})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(clock: ManualClock) -> AsyncIterator[Store]:
    store = await Store.open("sqlite://", clock=clock, token_lifetime_s=86_400)
    yield store
    await store.aclose()


@pytest.fixture
async def alice(store: Store) -> User:
    return await store.ensure_user("alice")


async def refusal(store: Store, request: HTTPConnection) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await authenticate(request, store)
    return caught.value


@given(st.text() | st.from_regex(r"\w{9,11}-\w{21,23}", fullmatch=True))
@example("-")
@example("abcdefghij-abcdefghijklmnopqrstuv")
@example("abcdefghij--abcdefghijklmnopqrstu")
def test_token_is_two_parts_of_known_length_or_refused(text: str) -> None:
    if text.count("-") == 1 and text.find("-") == 10 and len(text) == 33:
        assert "-".join(parse_token(text)) == text
        return
    with pytest.raises(ApiError) as caught:
        parse_token(text)
    assert (caught.value.status, caught.value.message) == (401, SIGNED_OUT)
    assert (caught.value.detail or "").startswith(FORMAT)


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("nodash", "incorrect amount of API key parts, expected 2 got 1"),
        ("a-b-c", "incorrect amount of API key parts, expected 2 got 3"),
        ("short-abcdefghijklmnopqrstuv", "invalid API key ID length, expected 10 got 5"),
        ("abcdefghij-short", "invalid API key secret length, expected 22 got 5"),
    ],
)
def test_what_is_wrong_with_a_token(text: str, detail: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_token(text)
    assert caught.value.detail == FORMAT + detail


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("place", ["cookie", "query", "header", "bearer"])
async def test_token_is_found_in_each_place(
    store: Store, alice: User, place: str, kind: str
) -> None:
    token = await store.create_token(alice.id)
    request = {
        "cookie": lambda: connection({"Cookie": f"a=b; coder_session_token={token}"}, kind=kind),
        "query": lambda: connection(query=f"a=b&coder_session_token={token}", kind=kind),
        "header": lambda: connection({"coder-session-token": token}, kind=kind),
        "bearer": lambda: connection({"Authorization": f"bearer {token}"}, kind=kind),
    }[place]()
    identity = await authenticate(request, store)
    assert (identity.user_id, identity.user_name) == (alice.id, "alice")
    assert (identity.token_id, identity.place) == (token[:10], place)


@pytest.mark.parametrize("place", ["cookie", "query"])
async def test_the_first_that_is_not_empty_wins_in_one_place_too(
    store: Store, alice: User, place: str
) -> None:
    good, bob = await store.create_token(alice.id), await store.ensure_user("bob")
    texts = [
        f"coder_session_token={token}" for token in ("", good, await store.create_token(bob.id))
    ]
    if place == "cookie":
        request = connection({"Cookie": "; ".join(texts)}, kind="http")
    else:
        request = connection(query="&".join(texts), kind="http")
    assert (await authenticate(request, store)).user_name == "alice"


async def test_the_first_place_that_is_not_empty_wins(store: Store, alice: User) -> None:
    good, bad = await store.create_token(alice.id), "x"
    ways = [
        ("Cookie", "coder_session_token={}"),
        ("query", "coder_session_token={}"),
        ("Coder-Session-Token", "{}"),
        ("Authorization", "Bearer {}"),
    ]
    for index in range(len(ways)):
        # Places before the good one are empty, those after it bad: it is the good one that counts.
        tokens = [""] * index + [good] + [bad] * (len(ways) - index - 1)
        filled = {
            name: form.format(token) for (name, form), token in zip(ways, tokens, strict=True)
        }
        query = filled.pop("query")
        assert (await authenticate(connection(filled, query), store)).user_id == alice.id

        tokens[index], tokens[-1] = bad, good if index < len(ways) - 1 else bad
        filled = {
            name: form.format(token) for (name, form), token in zip(ways, tokens, strict=True)
        }
        query = filled.pop("query")
        error = await refusal(store, connection(filled, query))
        assert error.status == 401  # no other is tried


async def test_each_refusal_has_its_text(store: Store, alice: User, clock: ManualClock) -> None:
    token = await store.create_token(alice.id)
    token_id, secret = token.split("-")
    other = "A" * 22
    table = [
        ("", 'Cookie "coder_session_token" or query parameter must be provided.'),
        ("x", FORMAT + "incorrect amount of API key parts, expected 2 got 1"),
        (f"0000000000-{secret}", "API key is invalid."),
        (f"\N{LATIN SMALL LETTER E WITH ACUTE}123456789-{secret}", None),
        (f"{token_id}-{other}", "API key secret is invalid."),
    ]
    for text, detail in table:
        error = await refusal(store, connection({"Coder-Session-Token": text}))
        assert (error.status, error.message) == (401, SIGNED_OUT)
        assert error.headers["WWW-Authenticate"] == "Bearer"
        if detail is not None:
            assert error.detail == detail
        assert secret not in str(error.json_body())

    clock.advance(days=1)
    error = await refusal(store, connection({"Coder-Session-Token": token}))
    assert error.detail == 'API key expired at "2026-03-02T12:00:00+00:00"'
    # A guess learns nothing about whether the token is still good.
    error = await refusal(store, connection({"Coder-Session-Token": f"{token_id}-{other}"}))
    assert error.detail == "API key secret is invalid."


async def test_suspended_user(store: Store, alice: User) -> None:
    request = connection({"Coder-Session-Token": await store.create_token(alice.id)})
    await store.set_user_status(alice.id, "suspended")
    error = await refusal(store, request)
    assert json.loads(error.json_body()) == {
        "message": 'User is not active (status = "suspended"). '
        "Contact an admin to reactivate your account."
    }
    await store.set_user_status(alice.id, "active")
    assert (await authenticate(request, store)).user_id == alice.id


async def test_use_keeps_a_token_alive(store: Store, alice: User, clock: ManualClock) -> None:
    request = connection({"Coder-Session-Token": await store.create_token(alice.id)})
    for _ in range(10):
        clock.advance(hours=23)
        await authenticate(request, store)
    clock.advance(hours=24)
    assert (await refusal(store, request)).status == 401


async def test_broken_store_is_an_internal_error(store: Store, alice: User) -> None:
    request = connection({"Coder-Session-Token": await store.create_token(alice.id)})
    await store.database.run(lambda c: c.exec_driver_sql("DROP TABLE tokens"), write=True)
    error = await refusal(store, request)
    assert (error.status, error.detail) == (500, None)
    assert error.message == (
        "An internal error occurred. Please try again or contact the system administrator."
    )


ALLOWED = Site(allowed_origins=frozenset({"https://desk.example"}))


@pytest.mark.parametrize(
    ("origin", "host", "expected"),
    [
        ("http://127.0.0.1:6080", "127.0.0.1:6080", True),
        ("https://Relay.example", "relay.EXAMPLE", True),
        ("https://desk.example", "10.0.0.1", True),
        ("http://desk.example", "10.0.0.1", False),
        ("https://evil.example", "127.0.0.1:6080", False),
        ("http://127.0.0.1:6081", "127.0.0.1:6080", False),
        ("http://127.0.0.1", "127.0.0.1:6080", False),
        ("http://127.0.0.1:6080.evil.example", "127.0.0.1:6080", False),
        ("http://evil@127.0.0.1:6080", "127.0.0.1:6080", False),
        ("null", "127.0.0.1:6080", False),
        ("", "", False),
        ("127.0.0.1:6080", "127.0.0.1:6080", False),
    ],
)
def test_same_origin(origin: str, host: str, expected: bool) -> None:
    assert same_origin(connection({"Origin": origin, "Host": host}), ALLOWED) is expected


@pytest.mark.parametrize(
    ("place", "headers", "refused"),
    [
        ("cookie", {"Origin": "http://relay.example"}, False),
        ("cookie", {"Origin": "http://evil.example"}, True),
        ("cookie", {"Origin": "null", "Sec-Fetch-Site": "same-origin"}, True),
        ("cookie", {}, True),
        ("cookie", {"Sec-Fetch-Site": "same-origin"}, False),
        ("cookie", {"Sec-Fetch-Site": "none"}, False),
        ("cookie", {"Sec-Fetch-Site": "same-site"}, True),
        ("cookie", {"Sec-Fetch-Site": "cross-site"}, True),
        ("header", {"Origin": "http://evil.example"}, False),
        ("bearer", {}, False),
        ("query", {}, False),
    ],
)
async def test_changes_by_cookie_come_from_our_own_pages(
    alice: User, clock: ManualClock, place: str, headers: dict[str, str], refused: bool
) -> None:
    identity = Identity(alice.id, alice.name, "abcdefghij", clock.now, place)
    request = connection({"Host": "relay.example", **headers})
    if not refused:
        require_same_origin(request, identity, ALLOWED)
        return
    with pytest.raises(ApiError) as caught:
        require_same_origin(request, identity, ALLOWED)
    assert (caught.value.status, caught.value.message) == (403, "Forbidden.")
