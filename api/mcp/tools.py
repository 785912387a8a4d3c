"""The computer tool's actions as MCP tools: names, descriptions and strict schemas.

Which actions there are and what each takes is relay/computer/input.py's to say; here is how a model
is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mcp_types import CallToolResult, ContentBlock, ImageContent, TextContent, Tool, ToolAnnotations

from relay.computer import LOOKS, TOOLSET, VERSIONS, Result
from relay.computer import input as given
from relay.computer.input import PARAMETERS, Check

__all__ = ["INSTRUCTIONS", "TOOLS", "tool_result"]

INSTRUCTIONS: Final = (
    "These tools see and use one desktop. Begin with a screenshot. Coordinates are pixels of the "
    "newest screenshot, from its top left. Every action that may change the screen answers with a "
    "new screenshot: look at it before the next action."
)

_VERSION: Final = VERSIONS[TOOLSET]

_DESCRIPTIONS: Final[Mapping[str, str]] = {
    "screenshot": "Look at the whole screen. Later coordinates are pixels of this picture.",
    "zoom": "Look at a part of the screen enlarged, to read small text. Coordinates of other tools "
    "stay those of the newest screenshot, not of this picture.",
    "cursor_position": "Tell where the pointer is, as X and Y in the newest screenshot.",
    "mouse_move": "Move the pointer without a click, for example to see a tooltip.",
    "left_click": "Click with the left button, at a point or where the pointer is.",
    "right_click": "Click with the right button, at a point or where the pointer is.",
    "middle_click": "Click with the middle button, at a point or where the pointer is.",
    "double_click": "Click twice with the left button, to open something or select a word.",
    "triple_click": "Click three times with the left button, to select a line or a paragraph.",
    "left_click_drag": "Press the left button at start_coordinate (or where the pointer is), move "
    "to coordinate, and release it there.",
    "left_mouse_down": "Press the left button where the pointer is and keep it down, for a drag in "
    "several steps. An error releases it.",
    "left_mouse_up": "Release the left button where the pointer is.",
    "scroll": "Turn the mouse wheel, at a point or where the pointer is.",
    "type": "Type text into what has the keyboard's focus. A line break presses Return.",
    "key": "Press a key or a combination of keys, for example Return or ctrl+s.",
    "hold_key": "Hold a key or a combination down for some seconds.",
    "wait": "Wait for some seconds, then look, for example while a program loads.",
}

_KEYS: Final = {"type": "string", "minLength": 1, "maxLength": given.KEYS_LIMIT_CHARS}


def _numbers(names: str, count: int) -> dict[str, Any]:
    return {
        "type": "array",
        "items": {"type": "integer", "minimum": 0},
        "minItems": count,
        "maxItems": count,
        "description": f"[{names}] in pixels of the newest screenshot, from its top left.",
    }


# What a check takes, in a schema's words. A check without an entry is noticed at the import.
_SCHEMAS: Final[Mapping[Check, Mapping[str, Any]]] = {
    given.point: _numbers("x, y", 2),
    given.region: _numbers("x0, y0, x1, y1", 4),
    given.scroll_direction: {"type": "string", "enum": list(given.DIRECTIONS)},
    given.scroll_amount: {
        "type": "integer",
        "minimum": 0,
        "maximum": given.SCROLL_LIMIT,
        "description": "How many clicks of the wheel, not pixels; 3 to 5 are about a third of a "
        "page.",
    },
    given.repeat: {
        "type": "integer",
        "minimum": 1,
        "maximum": given.REPEAT_LIMIT,
        "default": 1,
        "description": "How many times.",
    },
    given.duration: {
        "type": "number",
        "minimum": 0,
        "maximum": given.DURATION_LIMIT_S,
        "description": "Seconds; fractions are allowed.",
    },
    given.literal: {
        "type": "string",
        "maxLength": given.TEXT_LIMIT_CHARS,
        "description": "The text as it is to appear.",
    },
    given.combination: {
        **_KEYS,
        "description": "An X key name, or several joined with +: Return, Escape, Tab, Down, F5, a, "
        "ctrl+c.",
    },
    given.combinations: {
        **_KEYS,
        "description": "An X key name, or several joined with +: Return, Escape, Tab, Page_Down, "
        "F5, ctrl+c. Several of them, with spaces between, are pressed one after the other.",
    },
    given.modifiers: {
        **_KEYS,
        "description": "Keys held down meanwhile: shift, ctrl, alt or super, or several joined "
        "with +.",
    },
}


def _tool(name: str) -> Tool:
    parameters = PARAMETERS[name]
    checks = {**parameters.needs, **parameters.takes}
    schema = {
        "type": "object",
        "properties": {parameter: dict(_SCHEMAS[check]) for parameter, check in checks.items()},
        "required": list(parameters.needs),
        "additionalProperties": False,
    }
    looks = name in LOOKS
    annotations = ToolAnnotations(
        read_only_hint=looks,
        # A click may delete; what waits or moves the pointer is not worth telling apart.
        destructive_hint=not looks,
        idempotent_hint=looks,
        open_world_hint=True,
    )
    return Tool(
        name=name,
        description=_DESCRIPTIONS[name],
        input_schema=schema,
        annotations=annotations,
    )


TOOLS: Final = [_tool(name) for name in _VERSION.actions]


def _content(block: Mapping[str, Any]) -> ContentBlock:
    if block["type"] == "text":
        return TextContent(text=block["text"])
    source = block["source"]
    return ImageContent(data=source["data"], mime_type=source["media_type"])


def tool_result(result: Result) -> CallToolResult:
    """A result of `relay.computer` in MCP's form."""
    return CallToolResult(
        content=[_content(block) for block in result["content"]], is_error=result["is_error"]
    )
