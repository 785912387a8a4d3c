"""What a model has said, as it may be sent back: a refused request would refuse all that follow.

The API itself keeps these rules; models make up names all the same, and others speak its language.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

__all__ = ["sendable"]

Block = dict[str, Any]

# What the API takes back of each block; it refuses fields that it does not know in a request.
_NEEDED: Final[Mapping[str, Mapping[str, type]]] = {
    "text": {"text": str},
    "thinking": {"thinking": str, "signature": str},
    "redacted_thinking": {"data": str},
    "tool_use": {"id": str, "name": str, "input": dict},
}
_MORE: Final[Mapping[str, Mapping[str, type]]] = {"tool_use": {"caller": dict, "toolset_name": str}}

_THINKING: Final = ("thinking", "redacted_thinking")

_NOT_SAID: Final = ("image", "document", "tool_result")
"""Blocks that nobody but the user has."""

_ID: Final = re.compile("[a-zA-Z0-9_-]+")
_NO_NAME: Final = re.compile("[^a-zA-Z0-9_-]")
_NAME_CHARS: Final = 128


def sendable(blocks: Sequence[Block], request: Mapping[str, Any]) -> list[Block]:
    """The blocks of an answer to `request` as they may be sent back behind it.

    Raises LookupError, TypeError or ValueError for what is no answer.
    """
    content = [part for block in blocks for part in _whole(block)]
    ids = {
        block["id"]
        for message in request["messages"]
        for block in message["content"]
        if isinstance(block, dict) and block["type"] == "tool_use"
    }
    toolset = any("toolset" in tool.get("type", "") for tool in request.get("tools", ()))
    for block in content:
        if block["type"] == "tool_use":
            _fit(block, ids, toolset=toolset)
    return _plain(content)


def _whole(block: Block) -> list[Block]:
    """`block` with the fields that may be sent back; of thoughts that nobody could, nothing."""
    kind = block["type"]
    if not isinstance(kind, str) or kind in _NOT_SAID:
        raise TypeError("a model does not say this")
    needed = _NEEDED.get(kind)
    if needed is None:
        return [block]
    kept = {"type": kind} | {
        name: block[name]
        for name, form in (*needed.items(), *_MORE.get(kind, {}).items())
        if isinstance(block.get(name), form)
    }
    if needed.keys() <= kept.keys():
        return [kept]
    if kind in _THINKING:
        return []
    raise TypeError("a block lacks something")


def _fit(call: Block, ids: set[str], *, toolset: bool) -> None:
    """Gives a call a name and an id that a request may have, and no other has."""
    call["name"] = _NO_NAME.sub("_", call["name"])[:_NAME_CHARS] or "_"
    if call["id"] in ids or not _ID.fullmatch(call["id"]):
        call["id"] = f"toolu_{uuid4().hex}"
    ids.add(call["id"])
    if not (toolset and call.get("toolset_name") == "computer"):
        call.pop("toolset_name", None)


def _plain(content: list[Block]) -> list[Block]:
    """With null for numbers that JSON does not have, and without halves of surrogate pairs: Python
    reads both, and a request with either fails, as does PostgreSQL."""
    text = json.dumps(content, ensure_ascii=False)
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    found: list[Block] = json.loads(text, parse_constant=lambda _: None)
    return found
