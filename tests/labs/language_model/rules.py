"""What the Messages API accepts: written from its documentation and its error texts, and without a
look at what the project sends. `tests/labs/language_model/server.py` judges requests by it."""

from __future__ import annotations

import base64
import binascii
import io
import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from PIL import Image, UnidentifiedImageError

REQUEST_BYTES = 32_000_000
IMAGE_BASE64_BYTES = 5 * 1024 * 1024
IMAGES = 100
FEW_IMAGES = 20
SIDE_PX = 8000
SIDE_OF_MANY_PX = 2000
# For results of computer_toolset_20260801, which the API does not shrink.
TOOLSET_SIDE_PX = 2576
TOOLSET_TOKENS = 4784
CACHE_MARKS = 4

ID = re.compile(r"[a-zA-Z0-9_-]+")
NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/gif": "GIF", "image/webp": "WEBP"}

TOOLSET = "computer_toolset_20260801"
BETAS = {
    "computer_20241022": "computer-use-2024-10-22",
    "computer_20250124": "computer-use-2025-01-24",
    "computer_20251124": "computer-use-2025-11-24",
}
DIRECT = {"type": "direct"}

# Which forms of the tool a model takes, of those whose names are known. The newest take the toolset
# alone; some before them take all.
ONLY_TOOLSET = re.compile(r"claude-(fable|mythos)-5-2|claude-(opus|sonnet|haiku)-5-5")
NO_TOOLSET = re.compile(r"claude-(opus|sonnet|haiku)-4-[5-7](-\d{8})?")

# fmt: off
MEMBERS = {
    "screenshot", "zoom", "cursor_position", "mouse_move", "left_click", "right_click",
    "middle_click", "double_click", "triple_click", "left_click_drag", "left_mouse_down",
    "left_mouse_up", "scroll", "type", "key", "hold_key", "wait",
}
# fmt: on

# Fields: (required, optional).
Fields = tuple[set[str], set[str]]
TOP: Fields = (
    {"model", "max_tokens", "messages"},
    {"system", "tools", "stream", "metadata", "stop_sequences", "tool_choice", "thinking"}
    | {"output_config", "cache_control", "service_tier"},
)
BLOCKS: dict[str, Fields] = {
    "text": ({"type", "text"}, {"cache_control", "citations"}),
    "image": ({"type", "source"}, {"cache_control"}),
    "thinking": ({"type", "thinking", "signature"}, set()),
    "redacted_thinking": ({"type", "data"}, set()),
    "tool_use": (
        {"type", "id", "name", "input"},
        {"cache_control", "caller", "toolset_name"},
    ),
    "tool_result": (
        {"type", "tool_use_id"},
        {"content", "is_error", "cache_control", "toolset_name"},
    ),
}
OF_ROLE = {
    "user": {"text", "image", "tool_result"},
    "assistant": {"text", "thinking", "redacted_thinking", "tool_use"},
}
_DISPLAY = {"type", "name", "display_width_px", "display_height_px"}
_COMMON = {"cache_control", "display_number"}
TOOLS: dict[str, Fields] = {
    "custom": ({"name", "input_schema"}, {"type", "description", "cache_control", "strict"}),
    "computer_20241022": (_DISPLAY, _COMMON),
    "computer_20250124": (_DISPLAY, _COMMON),
    "computer_20251124": (_DISPLAY, _COMMON | {"enable_zoom", "strict"}),
    TOOLSET: ({"type"}, {"configs", "cache_control", "allowed_callers"}),
}


class Refused(Exception):
    """The text is what the API would say."""

    def __init__(self, text: str, status: int = 400, kind: str = "invalid_request_error") -> None:
        super().__init__(text)
        self.status = status
        self.kind = kind


def check_headers(headers: Mapping[str, str], api_key: str) -> None:
    """`headers` by their names in lower case. The key comes in one of two."""
    given = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
    if not given:
        raise Refused("x-api-key header is required", 401, "authentication_error")
    if given != api_key:
        raise Refused("invalid x-api-key", 401, "authentication_error")
    if "anthropic-version" not in headers:
        raise Refused("anthropic-version: header is required")
    if not headers.get("content-type", "").startswith("application/json"):
        raise Refused("content-type: must be application/json")


def check_body(body: Any, betas: str = "") -> None:
    """Raises Refused. `betas` is the value of the `anthropic-beta` header."""
    _fields(body, TOP, "")
    _is(isinstance(body["model"], str) and body["model"], "model: must be a non-empty string")
    _is(
        type(body["max_tokens"]) is int and body["max_tokens"] > 0,
        "max_tokens: must be greater than 0",
    )
    _system(body.get("system", "x"))
    tools = body.get("tools", [])
    named = {beta.strip() for beta in betas.split(",")} - {""}
    unknown = ", ".join(f"`{beta}`" for beta in sorted(named.difference(BETAS.values())))
    _is(not unknown, f"Unexpected value(s) {unknown} for the `anthropic-beta` header.")
    _tools(tools, named)
    _takes(body["model"], tools)
    _messages(body["messages"], tools)
    marks = _count_marks(body)
    _is(marks <= CACHE_MARKS, f"A maximum of 4 blocks with cache_control. Found {marks}.")


def is_thought(block: dict[str, Any]) -> bool:
    return block["type"] in ("thinking", "redacted_thinking")


def check_thoughts(body: dict[str, Any], given: list[dict[str, Any]]) -> None:
    """Raises Refused for a model's thoughts that are not as they were `given`."""
    for number, message in enumerate(body["messages"]):
        for index, block in enumerate(message["content"]):
            _is(
                isinstance(block, str) or not is_thought(block) or block in given,
                f"messages.{number}.content.{index}: Invalid `signature` in `thinking` block",
            )


def _is(condition: object, text: str) -> None:
    if not condition:
        raise Refused(text)


def _fields(value: Any, fields: Fields, where: str) -> None:
    _is(isinstance(value, dict), f"{where or 'body'}: must be an object")
    at = f"{where}." if where else ""
    required, optional = fields
    for name in sorted(required - value.keys()):
        raise Refused(f"{at}{name}: Field required")
    for name in sorted(value.keys() - required - optional):
        raise Refused(f"{at}{name}: Extra inputs are not permitted")
    mark = value.get("cache_control", {"type": "ephemeral"})
    known = isinstance(mark, dict) and mark.get("type") == "ephemeral"
    _is(known and mark.keys() <= {"type", "ttl"}, f"{at}cache_control: must be of type ephemeral")


def _count_marks(value: Any) -> int:
    if isinstance(value, dict):
        return ("cache_control" in value) + sum(map(_count_marks, value.values()))
    return sum(map(_count_marks, value)) if isinstance(value, list) else 0


def _system(system: Any) -> None:
    if isinstance(system, str):
        _is(system, "system: text content blocks must be non-empty")
        return
    _is(isinstance(system, list) and system, "system: must be a string or a list of blocks")
    for number, block in enumerate(system):
        _block(block, {"text"}, f"system.{number}")


# Tools.


def _tools(tools: Any, betas: set[str]) -> None:
    _is(isinstance(tools, list), "tools: must be a list")
    names = []
    for number, tool in enumerate(tools):
        where = f"tools.{number}"
        _is(isinstance(tool, dict), f"{where}: must be an object")
        kind = tool.get("type", "custom")
        _is(kind in TOOLS, f"{where}: Input tag {kind!r} found using 'type' does not match any")
        _fields(tool, TOOLS[kind], where)
        names.append(tool.get("name", TOOLSET))
        if kind == "custom":
            _is(NAME.fullmatch(str(tool["name"])), f"{where}.name: must match the pattern")
            schema = tool["input_schema"]
            _is(
                isinstance(schema, dict) and schema.get("type") == "object",
                f"{where}.input_schema.type: must be 'object'",
            )
        elif kind == TOOLSET:
            configs = tool.get("configs") or {}
            for name in sorted(configs.keys() - MEMBERS):
                raise Refused(f"{where}.configs.{name}: Extra inputs are not permitted")
        else:
            _is(BETAS[kind] in betas, f"{where}: {kind} needs the beta header {BETAS[kind]}")
            _is(tool["name"] == "computer", f"{where}.name: must be 'computer'")
            for side in ("display_width_px", "display_height_px"):
                _is(
                    type(tool[side]) is int and tool[side] > 0,
                    f"{where}.{side}: must be greater than 0",
                )
    _is(len(names) == len(set(names)), "tools: Tool names must be unique.")


def _takes(model: str, tools: list[dict[str, Any]]) -> None:
    kinds = {tool.get("type", "custom") for tool in tools}
    refused: set[str] = set()
    if ONLY_TOOLSET.fullmatch(model):
        refused = kinds & BETAS.keys()
    elif NO_TOOLSET.fullmatch(model):
        refused = kinds & {TOOLSET}
    names = ", ".join(sorted(refused))
    _is(not refused, f"'{model}' does not support tool types: {names}.")


# Messages.


def _messages(messages: Any, tools: list[dict[str, Any]]) -> None:
    _is(isinstance(messages, list) and messages, "messages: at least one message is required")
    sizes: list[tuple[str, tuple[int, int]]] = []
    ids: set[str] = set()
    calls: dict[str, dict[str, Any]] = {}
    for number, message in enumerate(messages):
        where = f"messages.{number}"
        _fields(message, ({"role", "content"}, set()), where)
        role, content = message["role"], message["content"]
        _is(role in OF_ROLE, f"{where}.role: must be 'user' or 'assistant'")
        expected = ("user", "assistant")[number % 2]
        _is(
            role == expected,
            f"{where}: roles must alternate between user and assistant, the first being user; "
            f"found {role}",
        )
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        _is(
            isinstance(content, list) and content,
            f"{where}: all messages must have non-empty content",
        )
        for index, block in enumerate(content):
            sizes += _block(block, OF_ROLE[role], f"{where}.content.{index}")
        if role == "user":
            _answers(content, calls, where)
        calls = _calls(content, ids, tools, where) if role == "assistant" else {}
    _is(
        messages[-1]["role"] == "user",
        "This model does not support assistant message prefill. The conversation must end with a "
        "user message.",
    )
    _images(sizes)


def _calls(
    content: list[dict[str, Any]], ids: set[str], tools: list[dict[str, Any]], where: str
) -> dict[str, dict[str, Any]]:
    _is(
        not is_thought(content[-1]),
        f"{where}: The final block in an assistant message cannot be `thinking`.",
    )
    calls = {block["id"]: block for block in content if block["type"] == "tool_use"}
    for block in content:
        if block["type"] != "tool_use":
            continue
        _is(block["id"] not in ids, f"{where}: `tool_use` ids must be unique")
        ids.add(block["id"])
        _is(tools, "Requests which include `tool_use` or `tool_result` blocks must define tools.")
        if block.get("toolset_name") is not None:
            declared = any(tool.get("type") == TOOLSET for tool in tools)
            _is(
                block["toolset_name"] == "computer" and declared,
                f"{where}: toolset {block['toolset_name']!r} is not declared in tools",
            )
    return calls


def _answers(
    content: list[dict[str, Any]], calls: Mapping[str, dict[str, Any]], where: str
) -> None:
    kinds = [block["type"] == "tool_result" for block in content]
    results = [block for block in content if block["type"] == "tool_result"]
    found = [block["tool_use_id"] for block in results]
    missing = [name for name in calls if name not in found]
    # The API says the same where results come behind other blocks.
    if missing or kinds != sorted(kinds, reverse=True):
        raise Refused(
            f"{where}: `tool_use` ids were found without `tool_result` blocks immediately after: "
            f"{', '.join(missing or found)}. Each `tool_use` block must have a corresponding "
            "`tool_result` block in the next message."
        )
    for block in results:
        name = block["tool_use_id"]
        _is(
            name in calls,
            f"{where}: unexpected `tool_use_id` found in `tool_result` blocks: {name}. Each "
            "`tool_result` block must have a corresponding `tool_use` block in the previous "
            "message.",
        )
        wanted = calls[name].get("toolset_name")
        _is(
            block.get("toolset_name") == wanted,
            f"{where}: toolset_name of the result for {name} must be {wanted!r}",
        )
    _is(
        len(found) == len(set(found)),
        f"{where}: each tool_use must have a single result. Found multiple `tool_result` blocks",
    )


def _block(block: Any, kinds: set[str], where: str) -> list[tuple[str, tuple[int, int]]]:
    """The sizes of the images in it."""
    _is(isinstance(block, dict), f"{where}: must be an object")
    kind = block.get("type")
    _is(kind in kinds, f"{where}: Input tag {kind!r} found using 'type' does not match any here")
    _fields(block, BLOCKS[kind], f"{where}.{kind}")
    return CHECKS[kind](block, where)


def _text(block: dict[str, Any], where: str) -> list[tuple[str, tuple[int, int]]]:
    text = block["text"]
    _is(isinstance(text, str), f"{where}.text: must be a string")
    _is(text, f"{where}: text content blocks must be non-empty")
    _is(text.strip(), f"{where}: text content blocks must contain non-whitespace text")
    return []


def _thinking(block: dict[str, Any], where: str) -> list[tuple[str, tuple[int, int]]]:
    for name in {"thinking", "signature", "data"} & block.keys():
        _is(isinstance(block[name], str), f"{where}.{name}: must be a string")
    _is(block.get("signature", "x"), f"{where}: Invalid `signature` in `thinking` block")
    return []


def _tool_use(block: dict[str, Any], where: str) -> list[tuple[str, tuple[int, int]]]:
    _is(ID.fullmatch(str(block["id"])), f"{where}.tool_use.id: must match the pattern")
    _is(NAME.fullmatch(str(block["name"])), f"{where}.tool_use.name: must match the pattern")
    _is(isinstance(block["input"], dict), f"{where}.tool_use.input: must be an object")
    _is(
        block.get("caller", DIRECT) == DIRECT,
        f"{where}.tool_use.caller: must be direct, where no tool of the server's is declared",
    )
    return []


def _tool_result(block: dict[str, Any], where: str) -> list[tuple[str, tuple[int, int]]]:
    content, is_error = block.get("content", []), block.get("is_error", False)
    _is(isinstance(is_error, bool), f"{where}.tool_result.is_error: must be a boolean")
    _is(content or not is_error, f"{where}: content cannot be empty if `is_error` is true")
    if isinstance(content, str):
        return []
    _is(isinstance(content, list), f"{where}.tool_result.content: must be a string or a list")
    sizes = []
    for index, part in enumerate(content):
        at = f"{where}.tool_result.content.{index}"
        sizes += _block(part, {"text", "image"}, at)
        _is(
            part["type"] == "text" or not is_error,
            f"{at}: all content must be type `text` if `is_error` is true",
        )
    if block.get("toolset_name") is not None:
        for at, (width, height) in sizes:
            tokens = math.ceil(width / 28) * math.ceil(height / 28)
            _is(
                max(width, height) <= TOOLSET_SIDE_PX and tokens <= TOOLSET_TOKENS,
                f"{at}: an image of {width}x{height} is over the model's limit",
            )
    return sizes


def _image(block: dict[str, Any], where: str) -> list[tuple[str, tuple[int, int]]]:
    source = block["source"]
    _is(isinstance(source, dict), f"{where}.image.source: must be an object")
    kind = source.get("type")
    _is(
        kind == "base64",
        f"{where}.image.source: Input tag {kind!r} found using 'type' does not match 'base64'",
    )
    _fields(source, ({"type", "media_type", "data"}, set()), f"{where}.image.source.base64")
    name, text = source["media_type"], source["data"]
    _is(name in FORMATS, f"{where}.image.source.base64.media_type: must be one of {list(FORMATS)}")
    _is(isinstance(text, str), f"{where}.image.source.base64.data: must be a string")
    _is(
        len(text) <= IMAGE_BASE64_BYTES,
        f"{where}.image.source.base64: image exceeds 5 MB maximum: {len(text)} bytes > "
        f"{IMAGE_BASE64_BYTES} bytes",
    )
    try:
        found, size = _decoded(text)
    except binascii.Error as error:
        raise Refused(f"{where}.image.source.base64: invalid base64 data") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise Refused(f"{where}.image.source.base64.data: Could not process image") from error
    _is(
        found == FORMATS[name],
        f"{where}.image: specified using the {name} media type, but the image appears to be "
        f"{found}",
    )
    return [(where, size)]


@lru_cache(maxsize=64)  # A chat's next request has nearly the same.
def _decoded(text: str) -> tuple[str | None, tuple[int, int]]:
    """Format and size. Raises what base64 and Pillow raise."""
    with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
        image.load()
        return image.format, image.size


def _images(sizes: list[tuple[str, tuple[int, int]]]) -> None:
    _is(len(sizes) <= IMAGES, f"Too many images: {len(sizes)} > {IMAGES}")
    limit_px = SIDE_PX if len(sizes) <= FEW_IMAGES else SIDE_OF_MANY_PX
    for where, size in sizes:
        _is(
            max(size) <= limit_px,
            f"{where}: At least one of the image dimensions exceed max allowed size"
            f"{' for many-image requests' if limit_px < SIDE_PX else ''}: {limit_px} pixels",
        )


CHECKS: dict[str, Callable[[dict[str, Any], str], list[tuple[str, tuple[int, int]]]]] = {
    "text": _text,
    "image": _image,
    "thinking": _thinking,
    "redacted_thinking": _thinking,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
}
