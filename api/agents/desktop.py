"""An agent's hands: the computer tool on the desktop of its chat, while it works.

The connection is made before the model is first asked, and again where the desktop has ended and
come back. Keys and buttons are let go of at the end, whatever ended it.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid4

from api.computer import OwnComputer
from api.settings import ModelSettings
from api.store import Chat, File, Store
from relay.computer.versions import TOOLSET, VERSIONS
from relay.desktops import Desktops
from relay.errors import DesktopError
from relay.limits import Limits

__all__ = ["AgentDesktop", "stored"]

Block = dict[str, Any]


class AgentDesktop:
    """The computer tool of one run of a chat; of one that is no agent's, none. `async with` closes
    the connection. Needs the extra `agent`."""

    def __init__(
        self, store: Store, desktops: Desktops, limits: Limits, chat: Chat, settings: ModelSettings
    ) -> None:
        # Which needs NumPy and Pillow: a server without agents need not have them.
        from relay.computer import Settings

        self._store = store
        self._is_agents = chat.mode == "computer_use"
        self._workspace_id = chat.workspace_id
        self._version = settings.computer
        settle = Settings(settings.quiet_s, settings.settle_limit_s)
        self._own = OwnComputer(desktops, limits, self._version, settle)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._own.aclose()

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
            if self._own.definition() is None:
                raise
        definition = self._own.definition()
        assert definition is not None
        return [definition]

    async def _connect(self) -> None:
        if self._own.connected:
            return
        workspace = None
        if self._workspace_id is not None:
            workspace = await self._store.workspace(self._workspace_id)
        if workspace is None:
            text = "the chat has no workspace"
            raise DesktopError(text, told=text)
        await self._own.connect(workspace.id, workspace.desktop, str(workspace.owner_id))

    def takes(self, call: Block) -> bool:
        """Whether a tool_use block is the tool's."""
        if not self._is_agents:
            return False
        key = "toolset_name" if self._version == TOOLSET else "name"
        return bool(call.get(key) == "computer")

    async def run(self, calls: Sequence[Block]) -> list[Block]:
        """One result for each of those calls of a turn that the tool `takes`."""
        return await self._own.run(calls) if calls else []


def stored(chat_id: UUID, block: Block, files: list[File]) -> Block:
    """`block` as it is kept: a picture's data goes to `files`, and its id in its place."""
    if block["type"] != "image":
        return block
    source = block["source"]
    files.append(File(uuid4(), chat_id, source["media_type"], b64decode(source["data"])))
    return {"type": "image", "source": {"type": "stored", "file_id": str(files[-1].id)}}
