"""What both directions of one session know of each other."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from relay.rfb.errors import Violation
from relay.rfb.handshake import HandshakeBounds, ServerInit
from relay.rfb.pixel_format import PixelFormat
from relay.rfb.rights import Rights


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
    `let_through` are the encodings that SetEncodings keeps, levels aside. `offered` may be used by
    the desktop, and Raw always; how it is framed is in `Offers`, and what is under way between the
    two in `Flow`.
    """

    __slots__ = (
        "audio",
        "audio_enabled",
        "bounds",
        "bytes_per_pixel",
        "continuous_updates",
        "cpixel_bytes",
        "extended_buttons",
        "extended_clipboard",
        "extended_desktop_size",
        "extended_keys",
        "fence_answers_due",
        "fence_replies_due",
        "fences",
        "gii",
        "height",
        "jpeg_offered",
        "let_through",
        "listed",
        "offered",
        "pixel_format",
        "pointer_relative",
        "rights",
        "tpixel_bytes",
        "width",
        "xvp",
        "zrle_begun",
    )

    def __init__(
        self,
        init: ServerInit,
        bounds: Bounds,
        rights: Rights,
        let_through: Collection[int],
    ) -> None:
        self.bounds = bounds
        self.width = init.width
        self.height = init.height
        self.offered: frozenset[int] = frozenset()
        # The viewer's last list. `offered` has besides what the desktop may not yet know to be
        # dropped.
        self.listed: frozenset[int] = frozenset()
        self.rights = rights
        self.let_through = let_through
        # A quality level among the offers permits JPEG inside Tight.
        self.jpeg_offered = False
        # Each is false until the desktop has confirmed the extension; before that a viewer
        # must not use its messages.
        self.audio = False
        self.continuous_updates = False
        self.extended_buttons = False
        self.extended_clipboard = False
        self.extended_desktop_size = False
        self.extended_keys = False
        self.fences = False
        self.gii = False
        self.xvp = False
        # Whether the zlib stream of ZRLE has begun.
        self.zrle_begun = False
        # Whether the viewer has ever switched audio on.
        self.audio_enabled = False
        # Whether the desktop reads a PointerEvent's x and y as deltas.
        self.pointer_relative = False
        # The viewer's fence requests that the desktop has not answered, and the other way round.
        self.fence_replies_due = 0
        self.fence_answers_due = 0
        self.set_pixel_format(init.pixel_format)

    def set_pixel_format(self, pixel_format: PixelFormat) -> None:
        self.pixel_format = pixel_format
        self.bytes_per_pixel = pixel_format.bytes_per_pixel
        self.cpixel_bytes = pixel_format.cpixel_bytes
        self.tpixel_bytes = pixel_format.tpixel_bytes

    def crop(self, x: int, y: int, w: int, h: int) -> tuple[int, int, int, int]:
        """An area's part inside the framebuffer."""
        x, y = min(x, self.width), min(y, self.height)
        return x, y, min(w, self.width - x), min(h, self.height - y)

    def resize(self, width: int, height: int) -> None:
        """A new framebuffer size. Raises Violation when it is beyond the bounds."""
        bounds = self.bounds
        if (
            not 0 < width <= bounds.framebuffer_side_px
            or not 0 < height <= bounds.framebuffer_side_px
            or width * height > bounds.framebuffer_px
        ):
            raise Violation("framebuffer-size", f"a framebuffer of {width}x{height}")
        self.width = width
        self.height = height
