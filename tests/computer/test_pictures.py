"""What a model is shown of a desktop: PNG, and JPEG where the Messages API would refuse the PNG."""

from __future__ import annotations

from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from relay.computer.pictures import LIMIT_BYTES, image

API_LIMIT_BYTES = 5_000_000  # of base64, as its documentation has it


@pytest.mark.parametrize(
    ("contrast", "size", "kind"),
    [(0, (1280, 800), "PNG"), (256, (1280, 720), "PNG"), (256, (2576, 1449), "JPEG")],
)
async def test_how_a_picture_is_sent(contrast: int, size: tuple[int, int], kind: str) -> None:
    width, height = size
    # Noise is worse than any photograph.
    noise = np.random.default_rng(1).integers(0, contrast or 1, (height, width, 4), np.uint8)
    block = await image(noise, size)
    source = block["source"]
    assert source["media_type"] == f"image/{kind.lower()}"
    assert len(source["data"]) <= API_LIMIT_BYTES
    picture = Image.open(BytesIO(b64decode(source["data"])))
    assert (picture.format, picture.size) == (kind, size)


def test_the_limit_is_the_apis() -> None:
    assert (LIMIT_BYTES + 2) // 3 * 4 <= API_LIMIT_BYTES
