"""Pictures of a desktop as a language model takes them."""

from __future__ import annotations

import base64
from typing import Any, Final

import trio

from relay.client.pictures import jpeg, png
from relay.computer.geometry import Size
from relay.rfb.pixels.canvas import Array

Block = dict[str, Any]
"""A content block of the Messages API."""

LIMIT_BYTES: Final = 3_750_000
"""The Messages API takes 5 MB of base64. A desktop has far less, unless it shows photographs."""

_QUALITIES: Final = (85, 50)


async def image(pixels: Array, size: Size) -> Block:
    """An image block: a PNG of `size`, or a JPEG where that would be too much."""
    # In a thread: it takes longer than other tasks of the process should wait.
    media_type, file = await trio.to_thread.run_sync(_encoded, pixels, size)
    data = base64.b64encode(file).decode("ascii")
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def _encoded(pixels: Array, size: Size) -> tuple[str, bytes]:
    file = png(pixels, size)
    if len(file) <= LIMIT_BYTES:
        return "image/png", file
    for quality in _QUALITIES:
        file = jpeg(pixels, size, quality=quality)
        if len(file) <= LIMIT_BYTES:
            break
    return "image/jpeg", file
