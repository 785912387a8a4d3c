"""What the test pattern shows: a picture that moves, the text typed so far and the pointer.

Input marks rectangles as damaged; they are drawn when somebody wants the pixels.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

from relay.desktops import font
from relay.desktops.region import Rect, Region
from relay.rfb.pixel_format import PixelFormat

NATIVE = PixelFormat(32, 24, False, True, 255, 255, 255, 0, 8, 16)
"""Red first: what noVNC asks for, so that a browser's pixels need no conversion."""

TYPED_MAX = 8_000
"""Characters of typed text that are kept: more than fit on an 8K screen at this size."""

_TEXT_SCALE, _TITLE_SCALE = 2, 4
_CELL_WIDTH, _CELL_HEIGHT = font.ADVANCE * _TEXT_SCALE, font.LINE_HEIGHT * _TEXT_SCALE
_MARGIN, _PADDING = 32, 14
_BAR_HEIGHT = 10
_TRACK_HEIGHT, _BALL_RADIUS, _BALL_STEP = 76, 26, 14
_POINTER_ARM, _POINTER_BOX = 16, 5


def _pixel(colour: str) -> bytes:
    return bytes.fromhex(colour) + b"\0"


_SKY, _GROUND = (0x16, 0x22, 0x3C), (0x4A, 0x2C, 0x5E)
_PANEL, _PANEL_EDGE = _pixel("0f1624"), _pixel("3d4f74")
_INK, _FAINT, _ACCENT = _pixel("eceff4"), _pixel("9fb0cc"), _pixel("88c0d0")
_BALL, _BALL_SHINE, _OUTLINE = _pixel("ebcb8b"), _pixel("fff4d6"), _pixel("000000")
# White, yellow, cyan, green, magenta, red, blue, black: a wrong pixel format shows at once.
_BARS = [
    _pixel(f"{red}{green}{blue}")
    for green in ("ff", "00")
    for red in ("ff", "00")
    for blue in ("ff", "00")
]

# By the buttons held (RFC 6143, Section 7.5.5): none, left, middle, right; others in one colour.
_POINTER = {0: _INK, 1: _pixel("ff3b30"), 2: _pixel("34c759"), 4: _pixel("3f8cff")}
_POINTER_OTHER = _pixel("ffd60a")

# X11 keysyms that do more than stand for themselves, or that have a name worth reading.
_BACKSPACE, _RETURN, _TAB, _KEYPAD_ENTER = 0xFF08, 0xFF0D, 0xFF09, 0xFF8D
_TYPED = {_RETURN: "\n", _KEYPAD_ENTER: "\n", _TAB: "    "}
_KEY_NAMES = {
    _BACKSPACE: "BackSpace", _TAB: "Tab", _RETURN: "Return", 0xFF1B: "Escape", 0xFF50: "Home",
    0xFF51: "Left", 0xFF52: "Up", 0xFF53: "Right", 0xFF54: "Down", 0xFF55: "Page_Up",
    0xFF56: "Page_Down", 0xFF57: "End", 0xFF63: "Insert", _KEYPAD_ENTER: "KP_Enter",
    0xFFE1: "Shift_L", 0xFFE2: "Shift_R", 0xFFE3: "Control_L", 0xFFE4: "Control_R",
    0xFFE5: "Caps_Lock", 0xFFE7: "Meta_L", 0xFFE8: "Meta_R", 0xFFE9: "Alt_L", 0xFFEA: "Alt_R",
    0xFFEB: "Super_L", 0xFFEC: "Super_R", 0xFFFF: "Delete", 0x20: "space",
    **{0xFFBE + n: f"F{n + 1}" for n in range(12)},
}  # fmt: skip


class Screen:
    """The picture. `on_damage` is called with each rectangle that will look different."""

    def __init__(self, width: int, height: int, on_damage: Callable[[Rect], None]) -> None:
        self._on_damage = on_damage
        self._undrawn = Region()
        self._typed = ""
        self._last_key = "none yet"
        self._pointer = (width // 2, height // 2)
        self._buttons = 0
        self._ticks = 0
        self.resize(width, height)

    def resize(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._pixels = bytearray(width * height * 4)
        self._sky = [
            bytes(a + (b - a) * y // height for a, b in zip(_SKY, _GROUND, strict=True)) + b"\0"
            for y in range(height)
        ]
        inner = max(width - 2 * _MARGIN, 1)
        track_y = max(height - _MARGIN - _TRACK_HEIGHT, 0)
        panel_y = _BAR_HEIGHT + 124
        self._title = Rect(_MARGIN, _BAR_HEIGHT + 24, inner, font.LINE_HEIGHT * _TITLE_SCALE)
        self._status = Rect(_MARGIN, self._title.bottom + 4, inner, 2 * _CELL_HEIGHT)
        self._panel = Rect(_MARGIN, panel_y, inner, max(track_y - 20 - panel_y, 1))
        self._track = Rect(_MARGIN, track_y, inner, _TRACK_HEIGHT)
        self._lines = self._wrap()
        self._undrawn.clear()
        self._damage(self.bounds)

    @property
    def bounds(self) -> Rect:
        return Rect(0, 0, self.width, self.height)

    def tick(self) -> None:
        """One step of what moves."""
        self._damage(self._ball())
        self._ticks += 1
        self._damage(self._ball())

    def key(self, keysym: int, *, down: bool) -> None:
        name = _KEY_NAMES.get(keysym) or (
            chr(keysym) if 0x20 < keysym < 0x7F else f"keysym {keysym:#x}"
        )
        self._last_key = f"{name} {'down' if down else 'up'}"
        self._damage(self._status)
        if not down:
            return
        if keysym == _BACKSPACE:
            self._typed = self._typed[:-1]
        else:
            # Latin-1 and Unicode beyond ASCII have no glyph; they show as "?".
            unicode = keysym >> 24 == 1 or 0xA0 <= keysym <= 0xFF
            plain = chr(keysym) if 0x20 <= keysym < 0x7F else "?" if unicode else ""
            self._typed = (self._typed + _TYPED.get(keysym, plain))[-TYPED_MAX:]
        before, self._lines = self._lines, self._wrap()
        for number in range(max(len(before), len(self._lines))):
            if before[number : number + 1] != self._lines[number : number + 1]:
                self._damage(self._line_rect(number))

    def pointer(self, x: int, y: int, buttons: int) -> None:
        self._damage(self._pointer_rect())
        self._pointer, self._buttons = (x, y), buttons
        self._damage(self._pointer_rect())
        self._damage(self._status)

    def read(self, rect: Rect) -> bytes:
        """The pixels of `rect`, row by row in the native format, after drawing what is due."""
        for undrawn in self._undrawn.take(self.bounds):
            self._draw(undrawn)
        stride = self.width * 4
        first = rect.y * stride + rect.x * 4
        length = rect.width * 4
        pixels = self._pixels
        return b"".join(
            [pixels[at : at + length] for at in range(first, first + rect.height * stride, stride)]
        )

    def _damage(self, rect: Rect) -> None:
        visible = rect.intersect(self.bounds)
        if visible is not None:
            self._undrawn.add(visible)
            self._on_damage(visible)

    def _wrap(self) -> list[str]:
        """The typed text as the lines that fit, the last ones, with the caret at the end."""
        columns = max((self._panel.width - 2 * _PADDING) // _CELL_WIDTH, 1)
        rows = max((self._panel.height - 2 * _PADDING) // _CELL_HEIGHT, 1)
        lines = [
            line[at : at + columns]
            for line in (self._typed + "_").split("\n")
            for at in range(0, max(len(line), 1), columns)
        ]
        return lines[-rows:]

    def _line_rect(self, number: int) -> Rect:
        x, y = self._panel.x + _PADDING, self._panel.y + _PADDING
        return Rect(x, y + number * _CELL_HEIGHT, self._panel.right - x, _CELL_HEIGHT)

    def _pointer_rect(self) -> Rect:
        x, y = self._pointer
        reach = _POINTER_ARM + 2
        return Rect(x - reach, y - reach, 2 * reach + 1, 2 * reach + 1)

    def _ball(self) -> Rect:
        """Where the ball is: to and fro on its track, bouncing."""
        size = 2 * _BALL_RADIUS
        way = max(self._track.width - size - 8, 1)
        along = self._ticks * _BALL_STEP % (2 * way)
        x = self._track.x + 4 + (along if along < way else 2 * way - along)
        phase = self._ticks % 16 - 8
        y = self._track.bottom - 5 - size - (64 - phase * phase) * (_TRACK_HEIGHT - size - 10) // 64
        return Rect(x, y, size, size)

    def _draw(self, clip: Rect) -> None:
        pixels, width = self._pixels, self.width
        for y in range(clip.y, clip.bottom):
            at = (y * width + clip.x) * 4
            pixels[at : at + clip.width * 4] = self._sky[y] * clip.width
        for number, colour in enumerate(_BARS):
            x = number * width // len(_BARS)
            right = (number + 1) * width // len(_BARS)
            self._fill(clip, Rect(x, 0, right - x, _BAR_HEIGHT), colour)
        self._text(clip, self._title, "Test pattern", _TITLE_SCALE, _INK)
        x, y = self._pointer
        held = ", ".join(str(n + 1) for n in range(8) if self._buttons >> n & 1) or "none"
        for number, text in enumerate(
            (
                f"{width} x {self.height}   pointer {x}, {y}   buttons {held}",
                f"last key: {self._last_key}",
            )
        ):
            line = self._status._replace(y=self._status.y + number * _CELL_HEIGHT)
            self._text(clip, line, text, _TEXT_SCALE, (_FAINT, _ACCENT)[number])
        for panel in (self._panel, self._track):
            self._fill(clip, panel, _PANEL_EDGE)
            inner = Rect(panel.x + 2, panel.y + 2, panel.width - 4, panel.height - 4)
            self._fill(clip, inner, _PANEL)
        for number, text in enumerate(self._lines):
            self._text(clip, self._line_rect(number), text, _TEXT_SCALE, _INK)
        self._draw_ball(clip)
        self._draw_pointer(clip)

    def _draw_ball(self, clip: Rect) -> None:
        ball = self._ball()
        if ball.intersect(clip) is None:
            return
        for rect in _disc(ball.x + _BALL_RADIUS, ball.y + _BALL_RADIUS, _BALL_RADIUS):
            self._fill(clip, rect, _BALL)
        for rect in _disc(ball.x + 18, ball.y + 17, 7):
            self._fill(clip, rect, _BALL_SHINE)

    def _draw_pointer(self, clip: Rect) -> None:
        x, y = self._pointer
        colour = _POINTER.get(self._buttons, _POINTER_OTHER)
        for grow, paint in ((1, _OUTLINE), (0, colour)):
            for half_width, half_height in (
                (_POINTER_ARM + grow, 1 + grow),
                (1 + grow, _POINTER_ARM + grow),
                (_POINTER_BOX + grow, _POINTER_BOX + grow),
            ):
                box = Rect(x - half_width, y - half_height, 2 * half_width + 1, 2 * half_height + 1)
                self._fill(clip, box, paint)

    def _fill(self, clip: Rect, rect: Rect, pixel: bytes) -> None:
        visible = rect.intersect(clip)
        if visible is None:
            return
        row = pixel * visible.width
        stride = self.width * 4
        first = visible.y * stride + visible.x * 4
        for at in range(first, first + visible.height * stride, stride):
            self._pixels[at : at + len(row)] = row

    def _text(self, clip: Rect, line: Rect, text: str, scale: int, pixel: bytes) -> None:
        visible = line.intersect(clip)
        if visible is None:
            return
        advance = font.ADVANCE * scale
        first = (visible.x - line.x) // advance
        last = -((line.x - visible.right) // advance)
        for number, character in enumerate(text[first:last], first):
            left = line.x + number * advance
            for x, y, length in font.runs(character):
                run = Rect(left + x * scale, line.y + y * scale, length * scale, scale)
                self._fill(visible, run, pixel)


def _disc(centre_x: int, centre_y: int, radius: int) -> Iterator[Rect]:
    """A filled circle as one-pixel rows."""
    for offset in range(-radius, radius):
        half = int((radius * radius - (offset + 0.5) ** 2) ** 0.5)
        yield Rect(centre_x - half, centre_y + offset, 2 * half, 1)


class Translation:
    """Turns native pixels into those of a true-colour pixel format (RFC 6143, Section 7.4)."""

    def __init__(self, pixel_format: PixelFormat) -> None:
        self._identity = pixel_format == NATIVE
        self._table = _PixelTable(pixel_format)
        self._typecode = {8: "B", 16: "H", 32: "I"}[pixel_format.bits_per_pixel]
        self._big_endian = pixel_format.big_endian

    def __call__(self, native: bytes) -> bytes:
        if self._identity:
            return native
        pixels = array("I", native)
        wanted = array(self._typecode, map(self._table.__getitem__, pixels))
        # Bytes of an array are in the machine's order; this package runs on little-endian ones.
        if self._big_endian:
            wanted.byteswap()
        return wanted.tobytes()


class _PixelTable(dict[int, int]):
    """From a native pixel to the wanted one; the picture has few colours, so each is computed
    once."""

    def __init__(self, pixel_format: PixelFormat) -> None:
        super().__init__()
        self._format = pixel_format

    def __missing__(self, pixel: int) -> int:
        wanted = self._format
        value = 0
        for native_shift, maximum, shift in (
            (NATIVE.red_shift, wanted.red_max, wanted.red_shift),
            (NATIVE.green_shift, wanted.green_max, wanted.green_shift),
            (NATIVE.blue_shift, wanted.blue_max, wanted.blue_shift),
        ):
            channel = pixel >> native_shift & 255
            value |= (channel * maximum + 127) // 255 << shift
        self[pixel] = value
        return value
