"""How much a model may say in one answer, for it is kept, shown and sent back with each request.

A call whose input is too much is not done and not kept: the model is told. An answer that is too
much as a whole is none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import reduce
from typing import Any, Final

__all__ = ["ANSWER_BYTES", "TOO_DEEP", "TooMuch", "bounded", "is_within_depth", "shallow"]

DEPTH: Final = 64
"""Objects and lists in each other, in all that is kept of an answer. Nobody's tools have ten; many
readers of JSON stop at some hundred, and then they read nothing of the chat."""

BLOCKS: Final = 100
"""Of one answer. Each may be a call whose screenshot is held until the turn is over."""

INPUT_BYTES: Final = 1 << 18
"""Of one call's input, in JSON. The longest texts that tools take have 64 KiB."""

ANSWER_BYTES: Final = 1 << 20
"""Of one answer, in JSON. The longest, of 64,000 tokens, have half of it."""

TOO_DEEP: Final[dict[str, Any]] = reduce(lambda inner, _: {"": inner}, range(DEPTH), {})
"""In the place of an input nested deeper than this, for which a reader may have no stack."""

OTHER_REFUSED: Final = "Not executed: another call of this answer was refused."

Block = dict[str, Any]


class TooMuch(Exception):
    """The answer cannot be kept. The text is for the chat's owner."""


def bounded(content: Sequence[Block]) -> tuple[list[Block], dict[str, str]]:
    """The blocks of an answer as they may be kept; and where a call among them was refused, what
    each call is told instead of being done, by its id. Raises TooMuch."""
    if len(content) > BLOCKS:
        raise TooMuch(
            f"The model's answer had more than {BLOCKS} parts. Send a message to go on, and ask "
            "for less at once."
        )
    refused: dict[str, str] = {}
    kept = []
    for block in content:
        why = _problem(block["input"]) if block["type"] == "tool_use" else ""
        if why:
            refused[block["id"]] = why
            block = {**block, "input": {}}
        kept.append(block)
    if not is_within_depth(kept):
        raise TooMuch("The model's answer was nested too deeply. Send a message to go on.")
    if len(json.dumps(kept)) > ANSWER_BYTES:
        raise TooMuch(
            "The model's answer was too long. Send a message to go on, and ask for less at once."
        )
    if refused:
        calls = [block["id"] for block in kept if block["type"] == "tool_use"]
        refused = {call_id: refused.get(call_id, OTHER_REFUSED) for call_id in calls}
    return kept, refused


def _problem(given: object) -> str:
    """Why a call's input cannot be kept, if it cannot."""
    # It is itself inside of a block, in a list.
    if not is_within_depth(given, DEPTH - 2):
        return f"Not executed: the input is nested more than {DEPTH - 2} deep."
    if len(json.dumps(given)) > INPUT_BYTES:
        return f"Not executed: the input has more than {INPUT_BYTES} bytes of JSON."
    return ""


def is_within_depth(value: object, depth: int = DEPTH) -> bool:
    """Whether no more objects and lists than `depth` are in each other. It needs no stack."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(depth):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return not level


def shallow(block: Block) -> Block:
    """A stored block, without what is nested too deeply in it: there were no bounds once."""
    if is_within_depth(block, DEPTH - 1):  # it is in a list
        return block
    flat = {name: value for name, value in block.items() if not isinstance(value, dict | list)}
    return flat | ({"input": {}} if block["type"] == "tool_use" else {})
