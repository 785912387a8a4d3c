"""What may come only so often: presses of keys, bells."""

from __future__ import annotations

import pytest

from relay.limits import Limits
from relay.rfb.conversation import Conversation
from tests.labs.flow import Talk
from tests.labs.peers import INIT
from tests.labs.rfb_messages import KEY, LEGAL_UP
from tests.labs.splits import TAILS, Feeder


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def timed(clock: Clock) -> Conversation:
    made = Conversation(INIT, Limits(), clock=clock)
    made.state.extended_keys = True
    return made


@pytest.mark.parametrize("key", [KEY, LEGAL_UP["QEMU key"]], ids=["plain", "extended"])
def test_presses_of_keys_have_a_rate(key: bytes) -> None:
    clock = Clock()
    made = timed(clock)
    talk = Talk(made)
    down = key
    flag = 3 if key[0] == 255 else 1
    up = key[:flag] + b"\0" + key[flag + 1 :]
    assert talk.up(down * 4000) == down * 4000
    # A key that is down can always be released.
    assert talk.up(down + up * 10 + down) == up * 10
    clock.now_s = 0.0015
    assert talk.up(down * 5) == down * 3
    clock.now_s = 60
    assert talk.up(down * 5000) == down * 4000
    assert made.up.inputs == 4000 + 12 + 5 + 5000


def test_bells_have_a_rate() -> None:
    clock = Clock()
    made = timed(clock)

    def heard(bells: int) -> int:
        feeder = Feeder(made.down, TAILS["down"])
        feeder.feed(b"\x02" * bells)
        return len(feeder.forwarded)

    assert heard(1000) == 10
    clock.now_s = 0.1
    assert heard(5) == 1
    clock.now_s = 0.95
    assert heard(5) == 5
    clock.now_s = 1.0
    assert heard(5) == 3 + 1
    clock.now_s = 1000
    assert heard(50) == 10


def test_without_a_clock_nothing_comes_too_often() -> None:
    made = Conversation(INIT, Limits(), passive=True)
    feeder = Feeder(made.down, TAILS["down"])
    feeder.feed(b"\x02" * 100)
    assert len(feeder.forwarded) == 100
