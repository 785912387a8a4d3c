"""Pictures of a desktop as files."""

from __future__ import annotations

import io

from PIL import Image

from relay.rfb.pixels.canvas import Array


def png(picture: Array, size_px: tuple[int, int] | None = None) -> bytes:
    """A picture as a PNG file, without its alpha; scaled to a width and height."""
    # Level 1: a third of the time of the default.
    return _file(picture, size_px, "PNG", compress_level=1)


def jpeg(picture: Array, size_px: tuple[int, int] | None = None, *, quality: int) -> bytes:
    """As `png`, as a JPEG file."""
    return _file(picture, size_px, "JPEG", quality=quality)


def _file(picture: Array, size_px: tuple[int, int] | None, kind: str, **options: int) -> bytes:
    image = Image.fromarray(picture[..., :3])
    if size_px is not None and image.size != size_px:
        image = image.resize(size_px, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
