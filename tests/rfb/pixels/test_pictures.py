"""Pictures at random, encoded by tests/labs/pixel_encoders.py, in every encoding and pixel format:
what is decoded is what was there."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.rfb.pixel_format import PixelFormat
from tests.labs.painting import FORMATS, GROUND, canvas, colour, paint, rows
from tests.labs.pixel_encoders import Encoders, Picture, runs

NUMBERS = [0, 2, 4, 5, 6, 7, 15, 16]


def picture(rng: random.Random, w: int, h: int, wanted: PixelFormat) -> Picture:
    """Runs of a few colours, or noise."""
    # All bits of a pixel vary, those of no channel too, as far as the format says what they mean.
    top = (1 << wanted.bits_per_pixel) - 1 if wanted.true_colour else 255
    colours = [rng.randint(0, top) for _ in range(rng.choice((1, 2, 3, 4, 5, 16, 17, 130, 300)))]
    values: list[int] = []
    longest = rng.choice((1, 3, 40, 600))
    while len(values) < w * h:
        values += [rng.choice(colours)] * rng.randint(1, longest)
    return [values[y * w : (y + 1) * w] for y in range(h)]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("number", NUMBERS)
@settings(max_examples=6, deadline=None)
@given(rng=st.randoms(use_true_random=False), w=st.integers(1, 35), h=st.integers(1, 20))
def test_a_picture_comes_back(number: int, name: str, rng: random.Random, w: int, h: int) -> None:
    wanted = FORMATS[name]
    encoders = Encoders(wanted, rng)
    on = canvas(w + 3, h + 2, wanted)
    # The second uses what the connection keeps.
    for _ in range(2):
        sent = picture(rng, w, h, wanted)
        found = paint(on, number, (2, 1, w, h), encoders.by_number[number](sent))
        assert found == [[colour(value, wanted) for value in row] for row in sent]
    on.pixels[1 : h + 1, 2 : w + 2] = GROUND
    assert {pixel for row in rows(on.pixels) for pixel in row} == {GROUND}, "nothing beside it"


@pytest.mark.parametrize("number", NUMBERS)
def test_a_large_picture_comes_back(number: int) -> None:
    """More than one tile of 64 both ways, runs over more than 255 pixels."""
    rng = random.Random(number)
    wanted = FORMATS["565"]
    sent = picture(rng, 130, 70, wanted)
    sent[:20] = [[7] * 130 for _ in range(20)]
    assert max(length for _, length, _ in runs([value for row in sent for value in row])) > 2000
    found = paint(
        canvas(130, 70, wanted),
        number,
        (0, 0, 130, 70),
        Encoders(wanted, rng).by_number[number](sent),
    )
    assert found == [[colour(value, wanted) for value in row] for row in sent]
