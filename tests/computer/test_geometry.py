"""Sizes of the pictures for a model, and coordinates between them and the desktop."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.computer.geometry import Size, filling, fitted, mapped, mapped_region
from relay.computer.versions import TOOLSET, VERSIONS

SMALL = VERSIONS["computer_20251124"].pictures
LARGE = VERSIONS[TOOLSET].pictures
SIDES = st.integers(1, 16_384)
SIZES = st.tuples(SIDES, SIDES)


# By hand, from the documented limits: 1568 px and 1.15 megapixels; 2576 px and 4784 tokens of 28x28
# pixels.
@pytest.mark.parametrize(
    ("size", "small", "large"),
    [
        ((1024, 768), (1024, 768), (1024, 768)),
        ((1280, 800), (1280, 800), (1280, 800)),
        # sqrt(1,150,000 / 2,073,600) = 0.74471
        ((1920, 1080), (1429, 804), (1920, 1080)),
        ((1080, 1920), (804, 1429), (1080, 1920)),
        # Exactly 92 * 52 = 4784 tokens.
        ((2560, 1440), (1429, 804), (2560, 1440)),
        # 2576 / 3840 = 0.67083
        ((3840, 2160), (1429, 804), (2576, 1449)),
        # 1568 / 4000 = 0.392; 2576 / 4000 = 0.644
        ((4000, 100), (1568, 39), (2576, 64)),
        # 93 * 52 tokens are too many; 2576x1441 are 92 * 52.
        ((2577, 1442), (1433, 802), (2576, 1441)),
        # sqrt(3,750,656 / 3,855,000) gives 2534x1479 of 91 * 53 = 4823; 90 * 53 is the next.
        ((2570, 1500), (1403, 819), (2520, 1471)),
        ((16_384, 1), (1568, 1), (2576, 1)),
        ((1, 1), (1, 1), (1, 1)),
    ],
)
def test_sizes(size: Size, small: Size, large: Size) -> None:
    assert fitted(size, SMALL) == small
    assert fitted(size, LARGE) == large


@given(SIZES)
def test_a_screenshot_is_within_the_limits_and_has_the_desktops_shape(size: Size) -> None:
    width, height = fitted(size, SMALL)
    assert max(width, height) <= 1568
    assert width * height <= 1_150_000
    large_width, large_height = fitted(size, LARGE)
    assert max(large_width, large_height) <= 2576
    assert math.ceil(large_width / 28) * math.ceil(large_height / 28) <= 4784
    for w, h in ((width, height), (large_width, large_height)):
        assert w <= size[0]
        assert h <= size[1]
        # Both sides are cut down to whole pixels, and neither to none.
        scale = max(w, h) / max(size)
        assert abs(min(size) * scale - min(w, h)) < 1 + 1e-3 or min(w, h) == 1


@given(SIZES)
def test_a_screenshot_is_not_smaller_than_it_must_be(size: Size) -> None:
    width, height = fitted(size, SMALL)
    if (width, height) != size:
        assert max(width, height) >= 1567 or (width + 1) * (height + 1) >= 1_150_000 * 0.999


def test_pixels_map_by_their_centres() -> None:
    # (c + 0.5) * to / from - 0.5: 0 -> 0.25, 639 -> 958.75, 1279 -> 1918.75
    assert mapped((0, 0), (1280, 720), (1920, 1080)) == (0, 0)
    assert mapped((639, 1), (1280, 720), (1920, 1080)) == (959, 2)
    assert mapped((1279, 719), (1280, 720), (1920, 1080)) == (1919, 1079)
    # Twice as large: -0.5 + 1 = 0.5, halves go up.
    assert mapped((0, 5), (10, 10), (20, 20)) == (1, 11)
    # Half as large: 0 and 1 are in the same pixel.
    assert mapped((0, 1), (20, 20), (10, 10)) == (0, 0)


@given(SIZES, SIZES, st.data())
def test_the_rule_is_the_documented_one(size: Size, to: Size, data: st.DataObject) -> None:
    point = tuple(data.draw(st.integers(-5, side + 5)) for side in size)
    half = Fraction(1, 2)
    exact = [(c + half) * new / old - half for c, old, new in zip(point, size, to, strict=True)]
    expected = tuple(
        min(max(math.floor(c + half), 0), new - 1) for c, new in zip(exact, to, strict=True)
    )
    assert mapped((point[0], point[1]), size, to) == expected


@given(SIZES, st.data())
def test_there_and_back_is_the_same_pixel(size: Size, data: st.DataObject) -> None:
    declared = fitted(size, SMALL)
    point = (
        data.draw(st.integers(0, declared[0] - 1)),
        data.draw(st.integers(0, declared[1] - 1)),
    )
    assert mapped(mapped(point, declared, size), size, declared) == point


def test_a_region_has_the_pixels_that_it_cuts() -> None:
    assert mapped_region((0, 0, 1280, 720), (1280, 720), (1920, 1080)) == (0, 0, 1920, 1080)
    assert mapped_region((1, 1, 2, 2), (1280, 720), (1920, 1080)) == (1, 1, 3, 3)
    assert mapped_region((10, 20, 30, 40), (800, 600), (800, 600)) == (10, 20, 30, 40)


@given(SIZES, SIZES)
def test_what_fills_a_frame_touches_it(size: Size, frame: Size) -> None:
    width, height = filling(size, frame)
    assert 1 <= width <= frame[0]
    assert 1 <= height <= frame[1]
    assert (width, height)[0] == frame[0] or height == frame[1]
