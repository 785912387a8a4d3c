"""Talks between a viewer and a desktop."""

from __future__ import annotations

import pytest

from relay.limits import Limits
from relay.rfb.conversation import Conversation
from tests.labs.conversations import everything
from tests.labs.flow import Talk
from tests.labs.peers import INIT
from tests.labs.rfb_messages import END, fence


@pytest.fixture
def talk() -> Talk:
    """The viewer has offered everything."""
    return Talk(everything())


@pytest.fixture
def fenced(talk: Talk) -> Talk:
    """The desktop has said that it can do fences and continuous updates."""
    talk.down(fence(1 << 31, b"?"))
    talk.up(fence(0, b"?"))
    talk.down(END)
    return talk


@pytest.fixture
def recorded() -> Talk:
    """One that others have had, and that is only looked at."""
    return Talk(Conversation(INIT, Limits(), passive=True))
