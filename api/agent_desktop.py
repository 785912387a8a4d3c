"""An agent's hands: the computer tool on the desktop of its chat, while it works.

The connection is made before the model is first asked, and again where the desktop has ended and
come back. Keys and buttons are let go of at the end, whatever ended it.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import UUID, uuid4

from api.settings import ModelSettings
from api.store import Chat, File, Store
from relay.computer_versions import NOT_EXECUTED, TOOLSET, VERSIONS
from relay.desktops import Desktops
from relay.errors import DesktopError
from relay.limits import Limits

if TYPE_CHECKING:
    from relay.client import Desktop
    from relay.computer import Computer

__all__ = ["VOID", "AgentDesktop", "result_of", "stored"]

VOID: Final = (
    "The desktop ended and was started again, so earlier screenshots are void. Take a screenshot, "
    "then act by what it shows."
)

Block = dict[str, Any]


class AgentDesktop:
    """The computer tool of one run of a chat; of one that is no agent's, none. `async with` closes
    the connection. Needs the extra `agent`."""

    def __init__(
        self, store: Store, desktops: Desktops, limits: Limits, chat: Chat, settings: ModelSettings
    ) -> None:
        self._store = store
        self._desktops = desktops
        self._limits = limits
        self._is_agents = chat.mode == "computer_use"
        self._workspace_id = chat.workspace_id
        self._version = settings.computer
        self._settle_s = settings.quiet_s, settings.settle_limit_s
        self._open = AsyncExitStack()
        self._desktop: Desktop | None = None
        self._computer: Computer | None = None
        # The desktop is another than the one whose screenshots the model has seen.
        self._void = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._open.aclose()

    @property
    def beta_header(self) -> str | None:
        """What a request with the tool needs."""
        return VERSIONS[self._version].beta_header if self._is_agents else None

    async def definitions(self) -> list[Block]:
        """The tool, for a request. Raises DesktopError where there has been no desktop yet; one
        that ended later is told to the model, by the tool's results."""
        if not self._is_agents:
            return []
        try:
            await self._connect()
        except DesktopError:
            if self._desktop is None:
                raise
        assert self._computer is not None
        assert self._desktop is not None
        return [self._computer.definition(self._desktop.width, self._desktop.height)]

    async def _connect(self) -> None:
        if self._desktop is not None and not self._desktop.gone:
            return
        # NumPy and Pillow, which a server without agents need not have.
        from relay.client import connect
        from relay.computer import Computer, Settings

        workspace = None
        if self._workspace_id is not None:
            workspace = await self._store.workspace(self._workspace_id)
        if workspace is None:
            raise DesktopError("the chat has no workspace")
        await self._open.aclose()
        desktop = await self._desktops.reach(
            workspace.id,
            workspace.desktop,
            lambda running: self._open.enter_async_context(connect(running, limits=self._limits)),
        )
        computer = Computer(desktop, self._version, Settings(*self._settle_s))
        self._computer = await self._open.enter_async_context(computer)
        self._void = self._desktop is not None
        self._desktop = desktop

    def takes(self, call: Block) -> bool:
        """Whether a tool_use block is the tool's."""
        if not self._is_agents:
            return False
        key = "toolset_name" if self._version == TOOLSET else "name"
        return bool(call.get(key) == "computer")

    def _looks(self, call: Block) -> bool:
        if self._version == TOOLSET:
            return bool(call["name"] == "screenshot")
        # What a model gives as input need not be an object; the tool tells it so.
        return isinstance(call["input"], dict) and call["input"].get("action") == "screenshot"

    async def run(self, calls: Sequence[Block]) -> list[Block]:
        """One result for each of those calls of a turn that the tool `takes`."""
        computer = self._computer
        if computer is None or not calls:
            return []
        if self._void and not self._looks(calls[0]):
            texts = [VOID] + [NOT_EXECUTED] * (len(calls) - 1)
            pairs = zip(calls, texts, strict=True)
            return [result_of(call, text, is_error=True) for call, text in pairs]
        self._void = False
        return await computer.run_batch(calls)


def result_of(call: Block, text: str, *, is_error: bool = False) -> Block:
    """A tool_result block of nothing but text, for a tool_use block."""
    result = {
        "type": "tool_result",
        "tool_use_id": call["id"],
        "is_error": is_error,
        "content": [{"type": "text", "text": text}],
    }
    # A member of a toolset that there is not wants its name in the result all the same.
    return result | ({"toolset_name": call["toolset_name"]} if "toolset_name" in call else {})


def stored(chat_id: UUID, block: Block, files: list[File]) -> Block:
    """`block` as it is kept: a picture's data goes to `files`, and its id in its place."""
    if block["type"] != "image":
        return block
    source = block["source"]
    files.append(File(uuid4(), chat_id, source["media_type"], b64decode(source["data"])))
    return {"type": "image", "source": {"type": "stored", "file_id": str(files[-1].id)}}
