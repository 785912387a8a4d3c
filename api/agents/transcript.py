"""From the stored messages of a chat to the `messages` of a request to the Messages API.

What is stored may end anywhere: replies are interrupted, processes die. What is made of it keeps
the API's rules. And its beginning changes seldom, so that the API's prompt cache serves it.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, Literal
from uuid import UUID

from api.agents.bounds import shallow

__all__ = ["Block", "Load", "Stored", "request_messages"]

Block = dict[str, Any]
"""A content block of the Messages API. A stored picture's source is {"type": "stored",
"file_id": "<uuid>"}."""

Stored = tuple[Literal["user", "assistant"], list[Block]]
Load = Callable[[UUID], Awaitable[tuple[str, bytes]]]
"""A stored picture's media type and bytes."""

KEEP: Final = 10
"""So many of the newest pictures are sent at least. Each costs 1000 to 5000 tokens a request."""

BATCH: Final = 10
"""Older ones go so many at a time: whenever one goes, the cache is lost from there on. With more
than 20 pictures in a request the API takes none with a side over 2000 px."""

IMAGE_BYTES: Final = 5 * 1024 * 1024 // 4 * 3
"""The API takes 5 MiB of base64 a picture. One refused request would follow another."""

IMAGES_BYTES: Final = 18_000_000
"""Of all pictures: 24 MB in base64. A request may have 32 MB."""

INTERRUPTED: Final = (
    "Interrupted: this may have been done, wholly or in part. Find out before you do it again."
)
"""Results are saved for a whole turn: of one that was cut off, some calls were made."""

NO_OUTPUT: Final = "(no output)"
CONTINUE: Final = "Continue."
LEFT_OUT: Final = "[An earlier picture was left out here.]"
TOO_LARGE: Final = "[A picture was too large to be sent.]"

# Two, for the API looks for cached prefixes at most 20 blocks before a mark: one turn with many
# actions may have more. It allows four; the others are for tools and system prompt.
CACHE_MARKS: Final = 2

_THINKING: Final = ("thinking", "redacted_thinking")


async def request_messages(stored: Sequence[Stored], load: Load) -> list[dict[str, Any]]:
    """The `messages` of a request, which keep all the API's rules; [] if there is nothing to say.

    Loads the pictures that are sent, and no others; raises what `load` raises. `stored` stays
    unchanged.
    """
    messages = _repaired(stored)
    await _put_pictures(messages, load)
    for message in [m for m in messages if m["role"] == "user"][-CACHE_MARKS:]:
        message["content"][-1]["cache_control"] = {"type": "ephemeral"}
    return messages


# Repair.


def _repaired(stored: Sequence[Stored]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    seen: set[str] = set()
    for role, content in stored:
        if role == "assistant":
            blocks = _said(content, seen)
        else:
            blocks = _heard(content, _open_calls(messages))
        if not blocks:
            continue
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        elif messages or role == "user":  # the first is the user's
            messages.append({"role": role, "content": blocks})
    if messages and messages[-1]["role"] == "assistant":
        messages.append({"role": "user", "content": []})
    for said, heard in pairwise(messages):
        if said["role"] == "assistant":
            heard["content"] = _answered(said["content"], heard["content"])
    # Newer models refuse to go on with words put into their mouth.
    if messages and not messages[-1]["content"]:
        messages[-1]["content"] = [_text(CONTINUE)]
    return messages


def _said(content: Iterable[Block], seen: set[str]) -> list[Block]:
    """What the API takes of an assistant message. No id of a tool_use may come again."""
    blocks = []
    for block in content:
        if block["type"] == "tool_use":
            if block["id"] in seen:
                continue
            seen.add(block["id"])
        if not _is_empty(block):
            blocks.append(dict(shallow(block)))
    # Of a reply that was cut off while the model thought. No message may end so.
    while blocks and blocks[-1]["type"] in _THINKING:
        blocks.pop()
    return blocks


def _heard(content: Iterable[Block], open_calls: set[str]) -> list[Block]:
    """What the API takes of a user message."""
    blocks = []
    for block in content:
        if block["type"] != "tool_result":
            if not _is_empty(block):
                blocks.append(dict(block))
        elif block["tool_use_id"] in open_calls:
            open_calls.remove(block["tool_use_id"])
            blocks.append(_result(block))
    return blocks


def _open_calls(messages: Sequence[dict[str, Any]]) -> set[str]:
    """The ids that a user message at the end may answer."""
    calls: set[str] = set()
    for message in messages[-2:]:
        for block in message["content"]:
            if block["type"] == "tool_use":
                calls.add(block["id"])
            elif block["type"] == "tool_result":
                calls.discard(block["tool_use_id"])
    return calls


def _result(block: Block) -> Block:
    content = block.get("content") or []
    if isinstance(content, str):
        content = [_text(content)]
    is_error = block.get("is_error", False)
    kept = [
        dict(part)
        for part in content
        if not _is_empty(part) and (part["type"] == "text" or not is_error)
    ]
    # An error without content is refused.
    return {**block, "content": kept or [_text(NO_OUTPUT)]}


def _answered(said: Iterable[Block], heard: Iterable[Block]) -> list[Block]:
    """What follows `said`: its results in its order, then the rest of `heard`."""
    results = {block["tool_use_id"]: block for block in heard if block["type"] == "tool_result"}
    answers = []
    for call in said:
        if call["type"] == "tool_use":
            interrupted: Block = {
                "type": "tool_result",
                "tool_use_id": call["id"],
                "is_error": True,
                "content": [_text(INTERRUPTED)],
            }
            answer = results.get(call["id"], interrupted)
            if "toolset_name" in call:
                answer["toolset_name"] = call["toolset_name"]
            answers.append(answer)
    return answers + [block for block in heard if block["type"] != "tool_result"]


def _is_empty(block: Block) -> bool:
    return block["type"] == "text" and not block["text"].strip()


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


# Pictures.


async def _put_pictures(messages: Iterable[dict[str, Any]], load: Load) -> None:
    places = [
        (content, index)
        for message in messages
        for content in _contents(message["content"])
        for index, block in enumerate(content)
        if block["type"] == "image"
    ]
    first = max(0, len(places) - KEEP) // BATCH * BATCH
    room_bytes = IMAGES_BYTES
    for content, index in places[:first]:
        content[index] = _text(LEFT_OUT)
    for content, index in reversed(places[first:]):
        # Once one had no room, none before it has: the model sees an unbroken run.
        if room_bytes < 0:
            content[index] = _text(LEFT_OUT)
            continue
        media_type, data = await load(UUID(content[index]["source"]["file_id"]))
        if len(data) > IMAGE_BYTES:
            content[index] = _text(TOO_LARGE)
            continue
        room_bytes -= len(data)
        content[index] = _text(LEFT_OUT) if room_bytes < 0 else _picture(media_type, data)


def _contents(content: list[Block]) -> Iterator[list[Block]]:
    for block in content:
        if block["type"] == "tool_result":
            yield block["content"]
    yield content


def _picture(media_type: str, data: bytes) -> Block:
    text = base64.b64encode(data).decode("ascii")
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": text}}
