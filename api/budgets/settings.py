"""The budgets that an operator can set."""

from __future__ import annotations

from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["BudgetSettings"]

_Count = Annotated[int, Field(ge=1)]
_Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_UNBOUNDED: Final = 10**12


class BudgetSettings(BaseModel):
    """What one may have of what all share. Whatever is counted in memory is each server's own;
    what is stored is counted in the database, for all servers on it."""

    model_config = ConfigDict(extra="forbid")

    sessions_per_user: _Count = 50
    """Desktops open at once: more than anybody looks at, an eightieth of what a server takes."""

    sessions_per_desktop: _Count = 50
    """Viewers of one workspace's desktop, which sends its picture to each of them."""

    sessions_per_address: _Count = 1_000
    """Many people may be behind one address, but not all of a server's sessions."""

    streams_per_user: _Count = 50
    """Chats followed at once: one for each page that is open."""

    streams_per_chat: _Count = 50
    """Of one chat, each of whose messages is read and sent for each of them."""

    streams_per_address: _Count = 1_000
    """As for sessions."""

    chats_at_work: _Count = 100
    """Of all users. Each has a connection to a desktop, and its pictures in memory while it asks
    the model: 18 MB at most."""

    chats_at_work_per_user: _Count = 20
    """A chat and its agents, eight at most, twice; a fifth of the server's."""

    chats_per_user: _Count = 10_000
    """Archived ones and agents too: nothing deletes a chat."""

    waiting_messages_per_user: _Count = 500
    """What was said to chats that do not listen yet; one chat takes 100."""

    stored_bytes_per_user: _Count = 10 * 2**30
    """Messages and screenshots; an hour of an agent's work is some 100 MB."""

    requests_per_s_per_user: _Rate = 50
    """A page asks a few times a second, a program with many chats more often."""

    requests_at_once_per_user: _Count = 100
    """Less sessions and streams. A page of a list is a MiB, and as large in memory until its reader
    has taken it, which may be minutes."""

    requests_per_s_per_address: _Rate = 300
    """A page that loads is 70 requests, and many people may be behind one address."""

    requests_burst_s: _Rate = 4
    """So many seconds' worth of requests may come at once, where none came before. Those of one
    address, 1,200, keep the server busy for most of a second."""

    idle_connections_per_address: _Count = 200
    """Without a request that is being answered: browsers keep some open for the next one."""

    connections_per_address: _Count = 300
    """Those with one too, but for sessions and streams. Each request that is being answered keeps
    all others waiting for up to a millisecond."""

    @classmethod
    def of_one_user(cls) -> Self:
        """For a server with one user, who may have all of it; connections that do nothing are
        bounded all the same."""
        kept = {"chats_at_work", "idle_connections_per_address", "connections_per_address"}
        names = cls.model_fields.keys() - kept
        return cls.model_validate(dict.fromkeys(names, _UNBOUNDED))
