"""The parser against the model, on streams that Hypothesis makes: one verdict, one list of
events, however the bytes arrive.

`HYPOTHESIS_PROFILE=long` looks for more, and at random; `MODEL_EXAMPLES` says for how many.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.limits import Limits
from relay.rfb import encodings, flow, from_desktop
from relay.rfb.conversation import Conversation
from relay.rfb.errors import ProtocolError
from relay.rfb.handshake import ServerInit
from relay.rfb.pixel_format import PixelFormat
from tests.labs import conversations
from tests.labs.rfb_model import reader as model
from tests.labs.rfb_model.reader import Format, Known, Reading
from tests.labs.rfb_model.rectangles import CHAINS, PIXELS, PSEUDO
from tests.labs.rfb_streams import desktop as stream_desktop
from tests.labs.rfb_streams import strategies as streams
from tests.labs.rfb_streams import viewer as stream_viewer
from tests.labs.rfb_streams.viewer import EXTENSIONS, Stream
from tests.labs.splits import TAILS, Feeder, check, check_refused

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
settings.register_profile(
    "model",
    max_examples=int(os.environ.get("MODEL_EXAMPLES", "50000" if LONG else "300")),
    derandomize=not LONG,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
PROFILE = settings.get_profile("model")

BYTE_BY_BYTE_LIMIT = 20_000
"""Longer streams are not fed byte by byte."""


@dataclass
class Outcome:
    reading: Reading = field(default_factory=Reading)
    known: dict[str, object] = field(default_factory=dict)


def pixel_format(of: Format) -> PixelFormat:
    return PixelFormat(of.bits, of.depth, False, of.true_colour, *of.maxima, *of.shifts)


def conversation(known: Known, way: str, *, passive: bool) -> Conversation:
    """One in which both sides know what `known` says."""
    init = ServerInit(known.width, known.height, pixel_format(known.pixel_format), b"")
    made = Conversation(
        init,
        Limits(),
        let_through=encodings.REGISTRY.keys() | encodings.SIGNALS,
        passive=passive,
    )
    state = made.state
    if way == "down":
        numbers = sorted(known.offered)
        message = bytearray(b"\x02\0" + len(numbers).to_bytes(2, "big"))
        for number in numbers:
            message += number.to_bytes(4, "big", signed=True)
        assert made.up.judge(message, 0, len(message)) == len(message)
        state.fence_replies_due = known.answers
        made.flow.requests = known.requests
        made.flow.continuous.on = known.continuous
        made.flow.continuous._enables = known.enables
    else:
        state.listed = frozenset(known.offered)
        state.fence_answers_due = known.answers
    state.audio_enabled = known.audio_enabled
    for name in known.confirmed:
        setattr(state, name, True)
    return made


@contextlib.contextmanager
def limits(known: Known) -> Iterator[None]:
    with (
        mock.patch.object(flow, "UNREQUESTED_LIMIT", known.unrequested),
        mock.patch.object(from_desktop, "_UPDATE_SLACK_BYTES", known.slack),
    ):
        yield


def parse(
    stream: Stream, way: str, cuts: list[int], *, passive: bool = False, unseen: bool = False
) -> Outcome:
    """`unseen`: opaque bytes are moved past the parser wherever it allows that."""
    made = conversation(stream.known, way, passive=passive)
    feeder = Feeder(getattr(made, way), TAILS[way])
    reader = feeder.reader
    outcome = Outcome()
    reading = outcome.reading
    before = reader.offset
    reader.observer = lambda kind, number, at: reading.events.append((kind, number, at - before))
    wire = bytes(stream.data)
    try:
        for first, behind in zip([0, *cuts], [*cuts, len(wire)], strict=True):
            piece = wire[first:behind]
            if unseen and reader.opaque and not reader.discarding:
                moved = min(reader.opaque, len(piece))
                reader.moved(moved)
                feeder.forwarded += piece[:moved]
                piece = piece[moved:]
            feeder.feed(piece)
    except ProtocolError as error:
        reading.verdict, reading.offset, reading.rule = "refused", error.offset - before, error.rule
        assert len(feeder.forwarded) <= reading.offset
        return outcome
    if feeder.tail or reader.opaque or made.flow.in_update:
        reading.verdict = "incomplete"
        return outcome
    reading.dropped = len(wire) - len(feeder.forwarded)
    outcome.known = {name: getattr(made.state, name) for name in EXTENSIONS}
    if way == "down":
        outcome.known["size"] = made.state.width, made.state.height
        outcome.known["pixels"] = made.state.pixel_format.sizes
    return outcome


def expect(stream: Stream, way: str) -> Outcome:
    known = copy.deepcopy(stream.known)
    reading = stream.reader(bytes(stream.data), known).read()
    if reading.verdict != "ok":
        reading.dropped = 0
        return Outcome(reading)
    learnt: dict[str, object] = {name: name in known.confirmed for name in EXTENSIONS}
    if way == "down":
        pixels = known.pixel_format
        learnt["size"] = known.width, known.height
        learnt["pixels"] = pixels.pixel, pixels.cpixel, pixels.tpixel
    return Outcome(reading, learnt)


def agree(stream: Stream, way: str, cuts: list[int]) -> None:
    passive = way == "up"
    with limits(stream.known):
        whole = parse(stream, way, [], passive=passive)
        size = len(stream.data)
        for unseen in (False, True):
            assert parse(stream, way, cuts, passive=passive, unseen=unseen) == whole, cuts
        if passive:
            # What an active one holds back or leaves out is not the model's.
            active = parse(stream, way, []).reading
            assert replace(active, dropped=0) == replace(whole.reading, dropped=0)
        if size <= BYTE_BY_BYTE_LIMIT:
            every = list(range(1, size))
            assert parse(stream, way, every, passive=passive) == whole
        expected = expect(stream, way)
        if whole != expected and "incomplete" in (whole.reading.verdict, expected.reading.verdict):
            # An element passes, or is refused, at the byte that decides or once its head is there.
            stream = replace(stream, data=stream.data + bytes(8192))
            whole = parse(stream, way, [], passive=passive)
            expected = expect(stream, way)
        assert whole == expected


@st.composite
def cases(draw: st.DrawFn, made: st.SearchStrategy[Stream]) -> tuple[Stream, list[int]]:
    stream = draw(made)
    size = len(stream.data)
    if size < 2:
        return stream, []
    cuts = draw(st.lists(st.integers(1, size - 1), max_size=6, unique=True))
    return stream, sorted(cuts)


WAYS = {"up": streams.from_viewer(), "down": streams.from_desktop()}
GENERATED = {
    (way, kind): cases(made)
    for way, legal in WAYS.items()
    for kind, made in {"legal": legal, "mutated": streams.mutated(legal)}.items()
}


@pytest.mark.parametrize(("way", "kind"), GENERATED)
def test_parser_and_model_agree(way: str, kind: str) -> None:
    @settings(PROFILE)
    @given(GENERATED[way, kind])
    def run(case: tuple[Stream, list[int]]) -> None:
        agree(case[0], way, case[1])

    run()


@pytest.mark.parametrize(
    "numbers",
    [*([n] for n in sorted(PIXELS | CHAINS)), sorted(stream_desktop.PSEUDO_BODIES)],
    ids=lambda numbers: str(numbers[0]) if len(numbers) == 1 else "pseudo",
)
def test_parser_and_model_agree_inside(numbers: list[int]) -> None:
    @settings(PROFILE, max_examples=PROFILE.max_examples * (3 if len(numbers) > 1 else 1))
    @given(cases(streams.inside(numbers)))
    def run(case: tuple[Stream, list[int]]) -> None:
        agree(case[0], "down", case[1])

    run()


def test_the_model_knows_everything_that_is_framed() -> None:
    assert encodings.REGISTRY.keys() | {encodings.LAST_RECT} == {*CHAINS, *PIXELS, *PSEUDO}
    assert encodings.SIGNALS == stream_viewer.SIGNALS
    assert {n for level in encodings.LEVELS for n in level} == set(model.LEVELS)


# What the comparison has found.


def test_update_length_in_a_chain_was_blamed_on_where_a_chunk_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(from_desktop, "_UPDATE_SLACK_BYTES", -4 * 640 * 480 * 4 + 20)
    tile = b"\x02\x11\x22\x33\0"
    wire = b"\0\0\0\x01" + bytes(4) + b"\0\x50\0\x10" + b"\0\0\0\x05" + 5 * tile
    reason = check_refused(
        lambda: conversations.conversation(5),
        "down",
        wire,
        len(wire),
        "FramebufferUpdate > rectangle 0 > Hextile",
    )
    assert reason == "more than 20 bytes of pixels in one update"


def test_an_encoding_inside_a_cursor_need_not_have_been_offered() -> None:
    cursor = b"\0\0\0\x01" + bytes(4) + b"\0\x01\0\x01" + b"\xff\xff\xfe\xc6"
    tight = cursor + b"\0\0\0\x07" + b"\x80\x11\x22\x33\x44"
    check(lambda: conversations.conversation(-314, 7), "down", tight)
    reason = check_refused(
        lambda: conversations.conversation(-314),
        "down",
        tight,
        4,
        "FramebufferUpdate > rectangle 0 > CursorWithAlpha",
    )
    assert reason == "encoding 7 was not offered"
    check(lambda: conversations.conversation(-314), "down", cursor + bytes(4) + b"\x11\x22\x33\x44")
