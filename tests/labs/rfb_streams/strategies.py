"""Hypothesis strategies for RFB: legal streams of either direction, and mutations of them."""

from __future__ import annotations

import copy
from dataclasses import replace

from hypothesis import strategies as st

from tests.labs.rfb_model.reader import LEVELS, OUR_FENCE, Known
from tests.labs.rfb_model.rectangles import LAST_RECT
from tests.labs.rfb_streams.desktop import BODIES, DesktopWriter
from tests.labs.rfb_streams.viewer import (
    EVERYTHING,
    EXTENSIONS,
    FORMATS,
    SIZES,
    Stream,
    ViewerWriter,
)

EXTREMES = [0, 1, 2, 3, 4, 5, 7, 16, 64, 65, 0x7F, 0x80, 0xFF, 0x100, 4096, 4097, 0xFFFF, 0x10000]
EXTREMES += [262_145, 0x100001, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFC, 0xFFFFFFFF]


@st.composite
def from_viewer(draw: st.DrawFn) -> Stream:
    """What a viewer may send once the desktop has confirmed some extensions."""
    confirmed = draw(st.one_of(st.just(EXTENSIONS), st.lists(st.sampled_from(EXTENSIONS))))
    known = Known(
        offered=EVERYTHING - set(LEVELS), confirmed=set(confirmed), answers=draw(st.integers(0, 2))
    )
    writer = ViewerWriter(draw, known)
    for _ in range(draw(st.integers(1, 6))):
        writer.message()
    return writer.s


@st.composite
def from_desktop(draw: st.DrawFn) -> Stream:
    """What a desktop may send after SetEncodings."""
    some = st.frozensets(st.sampled_from(sorted(EVERYTHING)))
    few = st.tuples(st.sampled_from(sorted(BODIES)), st.sampled_from([LAST_RECT, -26]))
    offered = draw(st.one_of(st.just(EVERYTHING), some, few.map(frozenset)))
    width, height = draw(st.sampled_from(SIZES))
    known = Known(
        width,
        height,
        draw(st.sampled_from(FORMATS)),
        offered,
        audio_enabled=draw(st.booleans()),
        requests=draw(st.integers(0, 2)),
        continuous=draw(st.booleans()),
        enables=draw(st.integers(0, 2)),
        answers=draw(st.integers(0, 2)),
        unrequested=draw(st.sampled_from([64, 1])),
        slack=draw(st.sampled_from([1 << 20, 1 << 20, 100])),
    )
    writer = DesktopWriter(draw, known)
    for _ in range(draw(st.integers(1, 4))):
        writer.message()
    return writer.s


@st.composite
def mutated(draw: st.DrawFn, streams: st.SearchStrategy[Stream]) -> Stream:
    """A legal stream with one to three changes."""
    stream = draw(streams)
    data = bytearray(stream.data)
    for _ in range(draw(st.integers(1, 3))):
        change = draw(st.sampled_from(CHANGES))
        data = change(draw, stream, data)
    return replace(stream, data=data)


@st.composite
def inside(draw: st.DrawFn, numbers: list[int]) -> Stream:
    """Rectangles in one encoding, with changes behind their headers only."""
    number = draw(st.sampled_from(numbers))
    known = Known(
        *draw(st.sampled_from(SIZES[1:])), draw(st.sampled_from(FORMATS)), EVERYTHING, requests=1
    )
    writer = DesktopWriter(draw, known)
    count = draw(st.integers(1, 2))
    writer.s.put("BBH", 0, 0, count)
    for _ in range(count):
        writer.span(lambda: writer.rectangle(number))
    stream = writer.s
    heads = [range(4), *(range(first, first + 12) for first, _ in stream.spans)]
    stream.fields = [f for f in stream.fields if not any(f[0] in head for head in heads)]
    data = bytearray(stream.data)
    for _ in range(draw(st.integers(1, 2)) if stream.fields else 0):
        data = draw(st.sampled_from([_extreme, _boundary, _nudge]))(draw, stream, data)
    return replace(stream, data=data)


def _nudge(draw: st.DrawFn, stream: Stream, data: bytearray) -> bytearray:
    at, _ = stream.fields[draw(st.integers(0, len(stream.fields) - 1))]
    if at < len(data):  # a field may be empty, at the end
        data[at] ^= draw(st.integers(1, 255))
    return data


def _flip(draw: st.DrawFn, stream: Stream, data: bytearray) -> bytearray:
    if data:
        data[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
    return data


def _extreme(draw: st.DrawFn, stream: Stream, data: bytearray) -> bytearray:
    at, size = stream.fields[draw(st.integers(0, len(stream.fields) - 1))]
    if at + size > len(data):
        return data
    value = int.from_bytes(data[at : at + size], "big")
    near = [value + 1, value - 1, 2 * value, value ^ (1 << 8 * size - 1)]
    value = draw(st.sampled_from(EXTREMES + near)) & (1 << 8 * size) - 1
    data[at : at + size] = value.to_bytes(size, "big")
    return data


def _boundary(draw: st.DrawFn, stream: Stream, data: bytearray) -> bytearray:
    """The last value of a field that the model accepts, or the first that it does not."""
    at, size = stream.fields[draw(st.integers(0, len(stream.fields) - 1))]

    def refused(value: int) -> bool:
        data[at : at + size] = value.to_bytes(size, "big")
        return stream.reader(bytes(data), copy.deepcopy(stream.known)).read().verdict == "refused"

    if at + size <= len(data):
        good = int.from_bytes(data[at : at + size], "big")
        bad = draw(st.sampled_from([(1 << 8 * size) - 1, 1 << 8 * size - 1, 1 << 4 * size]))
        if not refused(good) and refused(bad):
            while abs(bad - good) > 1:
                middle = (bad + good) // 2
                good, bad = (good, middle) if refused(middle) else (middle, bad)
        data[at : at + size] = draw(st.sampled_from([good, bad])).to_bytes(size, "big")
    return data


def _span(draw: st.DrawFn, stream: Stream, data: bytearray) -> bytearray:
    """An element twice, or not at all, or two in the wrong order."""
    first, behind = draw(st.sampled_from(stream.spans))
    kind = draw(st.integers(0, 2))
    if kind == 0:
        return data[:behind] + data[first:behind] + data[behind:]
    if kind == 1:
        return data[:first] + data[behind:]
    other = draw(st.sampled_from(stream.spans))
    (a, b), (c, d) = sorted([(first, behind), other])
    return data if c < b else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _cut(draw: st.DrawFn, stream: Stream, data: bytearray) -> bytearray:
    return data[: draw(st.integers(0, len(data)))]


def _splice(draw: st.DrawFn, stream: Stream, data: bytearray) -> bytearray:
    """Bytes put in or taken out anywhere."""
    at = draw(st.integers(0, len(data)))
    put = draw(st.one_of(st.binary(max_size=4), st.just(b"\xff" * 4), st.just(OUR_FENCE)))
    return data[:at] + put + data[at + draw(st.integers(0, 4)) :]


CHANGES = [_flip, _extreme, _extreme, _extreme, _boundary, _boundary, _span, _cut, _splice]
