"""Which sessions of MCP clients there are, and which makes room."""

from __future__ import annotations

import pytest

from api.mcp.sessions import Full, Sessions


async def test_one_that_has_been_answered_counts_once() -> None:
    sessions = Sessions(2)
    with sessions.opening() as (evicted, add):
        assert evicted is None
        add("first")
        # Its client has the answer, and opens another before the server is done with the first.
        with sessions.opening() as (evicted, add_another):
            assert evicted is None
            add_another("second")
    assert {session.id for session in sessions.all()} == {"first", "second"}
    with sessions.opening() as (evicted, _):
        assert evicted is not None
        assert evicted.id == "first"


async def test_those_that_are_being_opened_have_their_places() -> None:
    sessions = Sessions(1)
    with sessions.opening(), pytest.raises(Full), sessions.opening():
        pass
    with sessions.opening() as (evicted, _):
        assert evicted is None
