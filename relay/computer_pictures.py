"""Pictures of a desktop as a language model takes them."""

from __future__ import annotations

import base64
from typing import Any

import trio

from relay.computer_geometry import Size
from relay.pictures import png
from relay.rfb.pixels.canvas import Array

Block = dict[str, Any]
"""A content block of the Messages API."""


async def image(pixels: Array, size: Size) -> Block:
    """An image block: a PNG of `size`."""
    # In a thread: it takes longer than other tasks of the process should wait.
    file = await trio.to_thread.run_sync(png, pixels, size)
    data = base64.b64encode(file).decode("ascii")
    return {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": data},
    }
