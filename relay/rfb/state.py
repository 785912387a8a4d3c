"""What both directions of one session know of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from relay.rfb.errors import Violation
from relay.rfb.handshake import HandshakeBounds, ServerInit
from relay.rfb.pixel_format import PixelFormat

if TYPE_CHECKING:
    from relay.rfb.encodings.base import Encoding


class Bounds(HandshakeBounds, Protocol):
    """The limits the conversation needs; `relay.Limits` has them."""

    @property
    def clipboard_bytes(self) -> int: ...
    @property
    def encodings_count(self) -> int: ...
    @property
    def cursor_side_px(self) -> int: ...


class State:
    """Pixel format, framebuffer size, what was offered and what was confirmed.

    `width` and `height` bound every rectangle: the size last forwarded to the viewer.
    `allowed` maps the encodings the desktop may use to their framing: the viewer's offers so
    far; Raw always is. `requests` counts update requests that may still be answered, and is
    an upper bound: one update may answer several (RFC 6143, Section 7.5.3).
    """

    __slots__ = (
        "allowed",
        "bounds",
        "bytes_per_pixel",
        "clipboard_offered",
        "continuous_updates",
        "cpixel_bytes",
        "extended_buttons",
        "extended_clipboard",
        "extended_desktop_size",
        "extended_keys",
        "fence_replies_due",
        "fences",
        "height",
        "jpeg_offered",
        "offered",
        "pixel_format",
        "requests",
        "tpixel_bytes",
        "updates_continuous",
        "width",
    )

    def __init__(self, init: ServerInit, bounds: Bounds, raw: Encoding) -> None:
        self.bounds = bounds
        self.width = init.width
        self.height = init.height
        self.allowed: dict[int, Encoding] = {0: raw}
        self.offered: set[int] = set()
        self.requests = 0
        # A quality level among the offers permits JPEG inside Tight.
        self.jpeg_offered = False
        self.clipboard_offered = False
        # Each is false until the desktop has confirmed the extension; before that a viewer
        # must not use its messages.
        self.continuous_updates = False
        self.extended_buttons = False
        self.extended_clipboard = False
        self.extended_desktop_size = False
        self.extended_keys = False
        self.fences = False
        # Whether the viewer has switched continuous updates on.
        self.updates_continuous = False
        # The viewer's fence requests that the desktop has not answered.
        self.fence_replies_due = 0
        self.set_pixel_format(init.pixel_format)

    def set_pixel_format(self, pixel_format: PixelFormat) -> None:
        self.pixel_format = pixel_format
        self.bytes_per_pixel = pixel_format.bytes_per_pixel
        self.cpixel_bytes = pixel_format.cpixel_bytes
        self.tpixel_bytes = pixel_format.tpixel_bytes

    def resize(self, width: int, height: int) -> None:
        """A new framebuffer size. Raises Violation when it is beyond the bounds."""
        bounds = self.bounds
        if (
            not 0 < width <= bounds.framebuffer_side_px
            or not 0 < height <= bounds.framebuffer_side_px
            or width * height > bounds.framebuffer_px
        ):
            raise Violation(f"a framebuffer of {width}x{height}")
        self.width = width
        self.height = height
