"""The frames of the load and its desktop."""

from __future__ import annotations

import pytest

from bench.wire import BINARY, Unmasking, frame
from tests.labs.peers import client_frame


def test_the_desktop_refuses_frames_without_a_mask() -> None:
    unmasking = Unmasking()
    data = client_frame(b"abc") + client_frame(b"x" * 300)
    assert unmasking.feed(data[:10]) + unmasking.feed(data[10:]) == b"abc" + b"x" * 300
    with pytest.raises(ValueError, match="without a mask"):
        unmasking.feed(frame(b"abcdef", BINARY))
