"""What a model may ask of the computer tool, checked before anything is done.

Every error says what would be right, because the model reads it and tries again.
"""

from __future__ import annotations

import reprlib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from relay import keysyms
from relay.computer.geometry import Point, Region

TEXT_LIMIT_CHARS = 10_000
"""Of one `type`. Three pages of prose; programs that are typed should come by other ways."""

KEYS_LIMIT_CHARS = 1_000
"""Of a text that names keys. With the repetitions it is what one action may press."""

REPEAT_LIMIT = 100
"""As the toolset's schema has it."""

SCROLL_LIMIT = 100
"""Wheel clicks of one action. Models that mean pixels ask for more."""

DURATION_LIMIT_S = 300
"""Of one wait or held key, as the toolset's schema has it."""

DIRECTIONS = ("up", "down", "left", "right")

# Shift, Control, Meta, Alt, Super and Hyper, left and right (X11's keysymdef.h), and AltGr. The
# two locks between them (0xffe5, 0xffe6) cannot be held.
MODIFIERS = frozenset([*range(0xFFE1, 0xFFE5), *range(0xFFE7, 0xFFEF), 0xFE03])


class Refused(Exception):
    """What was asked for cannot be done as it stands. The text is for the model."""


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write very large numbers.
        return repr(x) if abs(x) < 10**18 else "a huge number"


_short = _Short()
_short.maxstring = _short.maxother = 60


def shown(value: object) -> str:
    """A value as an error may show it: short, whatever it is."""
    return _short.repr(value)


def listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"


Check = Callable[[str, object], Any]
"""Takes a parameter's name and value, and returns what the action gets. Raises Refused."""


def _whole_number(value: object) -> int | None:
    # A schema's "integer" is 512.0 too, and some serialisers have no other numbers.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _whole_numbers(value: object, count: int) -> list[int] | None:
    if not isinstance(value, list | tuple) or len(value) != count:
        return None
    found = [number for number in map(_whole_number, value) if number is not None]
    return found if len(found) == count else None


def point(name: str, value: object) -> Point:
    found = _whole_numbers(value, 2)
    if found is None:
        raise Refused(
            f"{name} must be [x, y], an array of two whole numbers of pixels, not {shown(value)}"
        )
    x, y = found
    return x, y


def region(name: str, value: object) -> Region:
    found = _whole_numbers(value, 4)
    if found is None:
        raise Refused(
            f"{name} must be [x0, y0, x1, y1], an array of four whole numbers of pixels, "
            f"not {shown(value)}"
        )
    x0, y0, x1, y1 = found
    if x0 >= x1 or y0 >= y1:
        raise Refused(
            f"{name} must be [x0, y0, x1, y1] with x0 < x1 and y0 < y1, not {shown(value)}"
        )
    return x0, y0, x1, y1


def _whole(least: int, most: int, what: str) -> Check:
    def check(name: str, value: object) -> Any:
        number = _whole_number(value)
        if number is None or not least <= number <= most:
            raise Refused(
                f"{name} must be a whole number {what} from {least} to {most}, not {shown(value)}"
            )
        return number

    return check


scroll_amount = _whole(0, SCROLL_LIMIT, "of wheel clicks, not pixels,")
repeat = _whole(1, REPEAT_LIMIT, "of times")


def scroll_direction(name: str, value: object) -> str:
    if not isinstance(value, str) or value not in DIRECTIONS:
        raise Refused(f"{name} must be one of {listed(DIRECTIONS)}, not {shown(value)}")
    return value


def duration(name: str, value: object) -> float:
    # Compared and not converted: NaN compares with nothing, and a huge whole number has no float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise Refused(f"{name} must be a number of seconds, 0 or more, not {shown(value)}")
    if value > DURATION_LIMIT_S:
        raise Refused(
            f"{name} is in seconds, at most {DURATION_LIMIT_S} at once, not {shown(value)}"
        )
    return value


def _text(name: str, value: object, limit: int) -> str:
    if not isinstance(value, str):
        raise Refused(f"{name} must be a string, not {shown(value)}")
    if len(value) > limit:
        raise Refused(
            f"{name} has {len(value):,} characters, and at most {limit:,} are taken at once: "
            "do it in several calls"
        )
    return value


def literal(name: str, value: object) -> str:
    """A text to type. The value never stands in an error: it may be a password."""
    text = _text(name, value, TEXT_LIMIT_CHARS)
    for at, char in enumerate(text):
        # Control characters and halves of surrogate pairs: no key makes them.
        if unicodedata.category(char) in ("Cc", "Cs") and char not in "\t\n\r":
            raise Refused(
                f"{name} holds U+{ord(char):04X} at position {at}, which cannot be typed. "
                "Leave it out; keys such as Escape are pressed with the key action"
            )
    return text


_KEYS_ARE = (
    "Keys have X's names, and those of a combination + between them: Return, Page_Down, ctrl+s. "
    "Text is for the type action"
)


def _keys(parse: Callable[[str], Any]) -> Check:
    def check(name: str, value: object) -> Any:
        text = _text(name, value, KEYS_LIMIT_CHARS)
        try:
            found = parse(text)
        except ValueError as error:
            raise Refused(f"{name}: {error}. {_KEYS_ARE}") from None
        if not found:
            raise Refused(f"{name} must name a key, such as Return or ctrl+s")
        return found

    return check


def _modifiers(text: str) -> list[int]:
    keys = keysyms.combination(text)
    if not MODIFIERS.issuperset(keys):
        raise ValueError(
            f"{shown(text)} must name the keys held meanwhile: shift, ctrl, alt or super, "
            "or several joined with +"
        )
    return keys


combination = _keys(keysyms.combination)
combinations = _keys(keysyms.combinations)
_held = _keys(_modifiers)


def modifiers(name: str, value: object) -> Sequence[int]:
    """Keys that are held meanwhile; models leave them out by an empty text too."""
    keys: Sequence[int] = [] if value == "" else _held(name, value)
    return keys


@dataclass(frozen=True, slots=True)
class Parameters:
    """Of one action: what it needs, and what it takes beside."""

    needs: Mapping[str, Check] = field(default_factory=dict)
    takes: Mapping[str, Check] = field(default_factory=dict)

    def names(self) -> list[str]:
        return [*self.needs, *self.takes]


_NONE = Parameters()
_CLICK = Parameters(takes={"coordinate": point, "text": modifiers})

PARAMETERS: Mapping[str, Parameters] = {
    "screenshot": _NONE,
    "zoom": Parameters({"region": region}),
    "cursor_position": _NONE,
    "mouse_move": Parameters({"coordinate": point}),
    "left_click": _CLICK,
    "right_click": _CLICK,
    "middle_click": _CLICK,
    "double_click": _CLICK,
    "triple_click": _CLICK,
    # The first version's drag started at the pointer, and models may go on to do so.
    "left_click_drag": Parameters(
        {"coordinate": point}, {"start_coordinate": point, "text": modifiers}
    ),
    "left_mouse_down": _NONE,
    "left_mouse_up": _NONE,
    "scroll": Parameters(
        {"scroll_direction": scroll_direction, "scroll_amount": scroll_amount},
        {"coordinate": point, "text": modifiers},
    ),
    "type": Parameters({"text": literal}),
    "key": Parameters({"text": combinations}, {"repeat": repeat}),
    "hold_key": Parameters({"text": combination, "duration": duration}),
    "wait": Parameters({"duration": duration}),
}
"""Every action by name. Versions differ in which of them they have, not in what they take."""


def arguments(action: str, given: object) -> dict[str, Any]:
    """What `action` is called with, of what a model gave. Raises Refused.

    A null is as good as nothing: models fill in what they leave out.
    """
    if not isinstance(given, Mapping):
        raise Refused(f"the input of {action} must be an object, not {shown(given)}")
    parameters = PARAMETERS[action]
    present = {name: value for name, value in given.items() if value is not None}
    checks = {**parameters.needs, **parameters.takes}
    for name in present:
        if name not in checks:
            raise Refused(
                f"{shown(name)} is not accepted for {action}, which takes "
                f"{listed(parameters.names())}"
            )
    for name in parameters.needs:
        if name not in present:
            needs = f", which needs {listed(parameters.needs)}" if len(parameters.needs) > 1 else ""
            raise Refused(f"{name} is required for {action}{needs}")
    return {name: checks[name](name, value) for name, value in present.items()}
