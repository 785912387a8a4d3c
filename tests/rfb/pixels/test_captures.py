"""Real sessions, recorded by others, painted: every rectangle there is a decoder for.

Where a rectangle begins and ends, and when a pixel format takes effect, is what independent parsers
say (see the README.md beside the captures), so a decoder that misreads a length is found at once.
"""

from __future__ import annotations

import json
import lzma
import struct
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from relay.rfb import pixel_format
from relay.rfb.encodings.vmware import VMwareDisplayMode
from relay.rfb.pixels import DECODERS, Array, Canvas
from tests.labs import captures
from tests.labs.captures import FROM_DESKTOP, Capture
from tests.labs.painting import run

DISPLAY_MODE = VMwareDisplayMode.number
SET_COLOUR_MAP = 1


class Painted:
    """A session's desktop, painted rectangle by rectangle."""

    def __init__(self, capture: Capture) -> None:
        said = capture.expected["server_init"]
        self.stream = capture.stream(FROM_DESKTOP)
        self.formats = {
            change["effective_at_server_offset"]: bytes.fromhex(change["pixel_format"])
            for change in capture.expected["pixel_format_changes"]
        }
        self.canvas = Canvas(
            said["width"],
            said["height"],
            pixel_format.parse(bytes.fromhex(said["pixel_format"])),
        )
        self.counts: Counter[int] = Counter()

    def play(self, lines: list[dict[str, Any]]) -> Iterator[tuple[int, int]]:
        """Paints; yields the encoding and the offset of each rectangle that there is a decoder
        for, when it is painted."""
        ends = [line["off"] for line in lines if "rect" in line or "msg" in line][1:]
        behind = iter([*ends, len(self.stream)])
        for line in lines:
            if line.get("ev") in ("resize", "size"):
                self.canvas.resize(line["w"], line["h"])
            if line.get("msg") == SET_COLOUR_MAP:
                self._map(line["off"])
            if "rect" in line or "msg" in line:
                end = next(behind)
            if line.get("rect") in DECODERS:
                self._rectangle(line["rect"], line["off"], end)
                yield line["rect"], line["off"]
            elif line.get("rect") == DISPLAY_MODE:
                self.canvas.pixel_format = pixel_format.parse(self.stream, line["off"] + 12)

    def _map(self, at: int) -> None:
        """SetColourMapEntries (RFC 6143, Section 7.6.2)."""
        first, count = struct.unpack_from(">HH", self.stream, at + 2)
        entries = np.frombuffer(self.stream, ">u2", 3 * count, at + 6).reshape(count, 3)
        self.canvas.colour_map[first : first + count] = entries >> 8

    def _rectangle(self, number: int, begun: int, end: int) -> None:
        for at in [at for at in self.formats if at <= begun]:
            self.canvas.pixel_format = pixel_format.parse(self.formats.pop(at))
        x, y, w, h = struct.unpack_from(">4H", self.stream, begun)
        run(DECODERS[number](self.canvas, x, y, w, h), self.stream[begun + 12 : end])
        self.counts[number] += 1


def lines(name: str) -> list[dict[str, Any]]:
    """What the parsers say of the desktop's side; libvncclient, which reads no other, does not say
    which side."""
    raw = lzma.decompress((captures.TRACES / f"{name}.detail.jsonl.xz").read_bytes())
    return [line for line in map(json.loads, raw.splitlines()) if line.get("d", "s") == "s"]


def painted(name: str) -> Painted:
    session = Painted(captures.load(name))
    for _ in session.play(lines(name)):
        pass
    return session


SESSIONS = [name for name in captures.names() if captures.load(name).expected["rfb_session"]] or [
    "tiger-novnc-basic"
]


@pytest.mark.parametrize("name", SESSIONS)
def test_every_rectangle_takes_its_payload_exactly(name: str) -> None:
    session = painted(name)
    expected = captures.load(name).expected
    counted = {
        number: count for number, count in expected["rects"].items() if int(number) in DECODERS
    }
    assert {str(number): count for number, count in session.counts.items()} == counted
    assert [*session.canvas.pixels.shape] == [*expected["final_framebuffer"][::-1], 4]
    assert session.canvas.pixels[..., 3].min() == 255


def test_what_no_server_sent() -> None:
    sent = {int(n) for name in SESSIONS for n in captures.load(name).expected["rects"]}
    assert set(DECODERS) - sent == {15, -260}


# The same lines stood on the terminal in these sessions, at these places (x, y).
TEXT = {
    "xtight-xtightviewer-raw": (4, 40),
    "tiger-xtightviewer-rre": (40, 94),
    "xtight-xtightviewer-corre": (4, 40),
    "tiger-vncviewer-hextile": (40, 94),
    "x11vnc-xtightviewer-rfb37": (10, 74),
    "xtight-xtightviewer-zlib": (4, 40),
    "xtight-xtightviewer-tight": (4, 40),
    "tiger-vncviewer-default": (4, 44),
    "x11vnc-vncviewer-zrle": (40, 94),
    # In fewer colours: black on white still, but the frame differs.
    "tiger-vncviewer-zrle-8bpp": (4, 44),
    "x11vnc-colourmap8": (10, 74),
    "tiger-remmina": (40, 94),
}
FEW_COLOURS = {"tiger-vncviewer-zrle-8bpp", "x11vnc-colourmap8", "tiger-remmina"}


def text(name: str) -> Array:
    x, y = TEXT[name]
    return painted(name).canvas.pixels[y : y + 100, x : x + 196]


@pytest.mark.parametrize("name", TEXT)
def test_all_encodings_show_the_same_text(name: str) -> None:
    """From three servers, by seven encodings; of those only Raw is taken as it is."""
    found, raw = text(name), text("xtight-xtightviewer-raw")
    assert 300 < (raw[..., 0] == 0).sum() < raw[..., 0].size / 2, "text, not a blank"
    if name in FEW_COLOURS:
        assert ((found > 127) == (raw > 127)).all()
    else:
        assert (found == raw).all()


@pytest.mark.parametrize(
    "name", ["tiger-vncviewer-default", "tiger-xtightviewer-rre", "xtight-vncviewer"]
)
def test_cursors_look_like_cursors(name: str) -> None:
    session = Painted(captures.load(name))
    shapes = []
    for number, _ in session.play(lines(name)):
        if number < 0:
            assert session.canvas.cursor
            shapes.append(session.canvas.cursor)
    drawn = [shape for shape in shapes if shape.image[..., 3].any()]
    assert drawn
    for shape in drawn:
        h, w, _ = shape.image.shape
        assert shape.hot_x < w
        assert shape.hot_y < h
        assert set(shape.image[..., 3].ravel().tolist()) >= {0, 255}, "a figure on nothing"
