"""Who may use the server, and what they have there: users, tokens, login links, workspaces, chats.

Each method is one transaction (api/store/database.py).
"""

from __future__ import annotations

import hashlib
import secrets
import string
from collections.abc import Callable, Collection
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self
from uuid import UUID, uuid4

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    bindparam,
    delete,
    insert,
    literal,
    select,
    tuple_,
    update,
)

from api.store.cache import AccessCache
from api.store.database import Database
from api.store.records import Access, Chat, Page, Token, User, Workspace
from api.store.schema import chats, login_links, tokens, users, workspaces
from api.store.spent import CHATS, spend

__all__ = ["LINK_LIFETIME_S", "Clock", "Store", "hash_secret", "utc_now"]

LAST_USED_STEP: Final = timedelta(hours=1)
"""A token's use is written at most this often, so that reading stays reading."""

LINK_LIFETIME_S: Final = 600
"""A login link is for somebody who is waiting for it."""

ROWS_AT_ONCE: Final = 50
"""Read from the database for a page of chats or tokens. Each has 4 KiB at the most."""

_BASE62: Final = string.digits + string.ascii_letters
_TOKEN_ID_LENGTH: Final = 10
_TOKEN_SECRET_LENGTH: Final = 22  # 131 bits
_LINK_CODE_LENGTH: Final = 32

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The clock of a running server."""
    return datetime.now(UTC)


def hash_secret(secret: str) -> bytes:
    """SHA-256. Enough for random secrets, which nobody can enumerate; not for passwords."""
    return hashlib.sha256(secret.encode()).digest()


def _random_base62(length: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(length))


def _values(row: Row[Any]) -> dict[str, Any]:
    return dict(row._mapping)


_TOKEN_COLUMNS: Final = select(
    tokens, users.c.name.label("user_name"), users.c.status.label("user_status")
)
_TOKENS: Final = _TOKEN_COLUMNS.join(users)

# The token, and where one can be had the workspace; a chat that is not to be seen has none.
_ACCESS: Final = (
    _TOKEN_COLUMNS.add_columns(
        *(column.label(f"workspace_{column.name}") for column in workspaces.c)
    )
    .select_from(
        tokens.join(users)
        .outerjoin(
            chats,
            (chats.c.id == bindparam("chat_id"))
            & (chats.c.owner_id == tokens.c.user_id)
            & ~chats.c.archived,
        )
        .outerjoin(workspaces, workspaces.c.id == chats.c.workspace_id)
    )
    .where(tokens.c.id == bindparam("token_id"))
)


def _newest(query: Select[Any], table: Table, after: Chat | Token | None) -> Select[Any]:
    """The newest of a table's rows first, behind `after`."""
    query = query.order_by(table.c.created_at.desc(), table.c.id.desc())
    if after is None:
        return query
    # Of literals, so that they are written as the columns' types are.
    place = (literal(after.created_at, table.c.created_at.type), literal(after.id, table.c.id.type))
    return query.where(tuple_(table.c.created_at, table.c.id) < tuple_(*place))


def _chats(owner_id: UUID | None, archived: bool, after: Chat | None) -> Select[Any]:
    query = _newest(select(chats), chats, after)
    if owner_id is not None:
        query = query.where(chats.c.owner_id == owner_id)
    return query if archived else query.where(~chats.c.archived)


class Store:
    """See the module. Every method raises StoreError where the database fails."""

    def __init__(
        self, database: Database, *, clock: Clock, token_lifetime_s: int, token_max_age_s: int
    ) -> None:
        self.database = database
        self._clock = clock
        self._token_lifetime_s = token_lifetime_s
        self._token_max_age = timedelta(seconds=token_max_age_s)
        self._cache = AccessCache(database.version)

    @classmethod
    async def open(
        cls,
        database_url: str,
        *,
        clock: Clock = utc_now,
        token_lifetime_s: int = 7 * 86_400,
        token_max_age_s: int = 30 * 86_400,
    ) -> Self:
        """As `Database.open`."""
        database = await Database.open(database_url)
        return cls(
            database,
            clock=clock,
            token_lifetime_s=token_lifetime_s,
            token_max_age_s=token_max_age_s,
        )

    async def aclose(self) -> None:
        """As `Database.aclose`."""
        await self.database.aclose()

    # Users

    async def ensure_user(self, name: str) -> User:
        """The user of that name, made if there is none."""

        def work(connection: Connection) -> User:
            row = connection.execute(select(users).where(users.c.name == name)).one_or_none()
            if row is not None:
                return User(row.id, row.name, row.status)
            user = User(uuid4(), name, "active")
            connection.execute(
                insert(users).values(
                    id=user.id, name=name, status=user.status, created_at=self._clock()
                )
            )
            return user

        return await self.database.run(work, write=True)

    async def user(self, name: str) -> User | None:
        """The user of that name."""
        rows = await self.database.rows(select(users).where(users.c.name == name))
        return User(rows[0].id, rows[0].name, rows[0].status) if rows else None

    async def users(self) -> list[User]:
        """All users, by name."""
        rows = await self.database.rows(select(users).order_by(users.c.name))
        return [User(row.id, row.name, row.status) for row in rows]

    async def has_several_users(self) -> bool:
        """Whether there is more than one, suspended ones included."""
        return len(await self.database.rows(select(users.c.id).limit(2))) > 1

    async def set_user_status(self, user_id: UUID, status: str) -> None:
        """Suspends a user, or makes one active again."""
        await self.database.write(update(users).where(users.c.id == user_id).values(status=status))

    # Tokens

    async def create_token(self, user_id: UUID, *, lifetime_s: int | None = None) -> str:
        """A new token, `<10 chars>-<22 chars>`. Only its hash is kept: it can't be shown again."""
        return await self.database.run(
            lambda connection: self._insert_token(connection, user_id, lifetime_s), write=True
        )

    def _insert_token(
        self, connection: Connection, user_id: UUID, lifetime_s: int | None = None
    ) -> str:
        lifetime_s = self._token_lifetime_s if lifetime_s is None else lifetime_s
        token_id, secret = _random_base62(_TOKEN_ID_LENGTH), _random_base62(_TOKEN_SECRET_LENGTH)
        now = self._clock()
        connection.execute(
            insert(tokens).values(
                id=token_id,
                user_id=user_id,
                secret_hash=hash_secret(secret),
                lifetime_s=lifetime_s,
                created_at=now,
                last_used_at=now,
                expires_at=now + min(timedelta(seconds=lifetime_s), self._token_max_age),
            )
        )
        return f"{token_id}-{secret}"

    async def token(self, token_id: str) -> Token | None:
        """The token of that id, expired or not."""
        rows = await self.database.rows(_TOKENS.where(tokens.c.id == token_id))
        return Token(**_values(rows[0])) if rows else None

    async def access(self, token_id: str, chat_id: UUID) -> Access:
        """What a session on that chat's desktop starts with, in one look-up or none."""
        key = (token_id, chat_id)
        if (kept := self._cache.get(key)) is not None:
            return kept
        before, changes = self._cache.version(), self.database.changes
        row = await self.database.run(
            lambda connection: connection.execute(
                _ACCESS, {"token_id": token_id, "chat_id": chat_id}
            ).one_or_none()
        )
        if row is None:
            return Access(None, None, changes)
        values = _values(row)
        place = {column.name: values.pop(f"workspace_{column.name}") for column in workspaces.c}
        access = Access(
            Token(**values), None if place["id"] is None else Workspace(**place), changes
        )
        if access.workspace is not None:  # guesses push nothing out
            self._cache.keep(key, access, before)
        return access

    async def tokens(self) -> list[Token]:
        """All tokens, oldest first."""
        rows = await self.database.rows(_TOKENS.order_by(tokens.c.created_at, tokens.c.id))
        return [Token(**_values(row)) for row in rows]

    async def tokens_page(
        self,
        user_id: UUID,
        made: Callable[[Token], bytes],
        *,
        limit: int,
        after: Token | None = None,
    ) -> Page:
        """A user's tokens, newest first, behind `after`, as a page of what `made` makes of each, in
        a thread."""
        return await self.database.page(
            _newest(_TOKENS, tokens, after).where(tokens.c.user_id == user_id),
            lambda row: made(Token(**_values(row))),
            owner=user_id,
            limit=limit,
            rows_at_once=ROWS_AT_ONCE,
        )

    def now(self) -> datetime:
        """By the store's clock."""
        return self._clock()

    def expired(self, token: Token) -> bool:
        """Whether `token` is past its time, by the store's clock."""
        return self._clock() >= self.ends_at(token)

    def ends_at(self, token: Token) -> datetime:
        """When `token` ends if it is not used; its greatest age may have been set lower since."""
        return min(token.expires_at, token.created_at + self._token_max_age)

    async def touch_token(self, token: Token) -> datetime:
        """Extends a token that is in use; writes at most hourly. Returns when it expires."""
        now = self._clock()
        if now - token.last_used_at < LAST_USED_STEP:
            return self.ends_at(token)
        longest = token.created_at + self._token_max_age
        expires_at = min(now + timedelta(seconds=token.lifetime_s), longest)
        await self.database.write(
            update(tokens)
            .where(tokens.c.id == token.id)
            .values(last_used_at=now, expires_at=expires_at)
        )
        return expires_at

    async def revoke_token(self, token_id: str) -> bool:
        """Removes a token. False if there is none of that id."""
        return bool(await self.database.write(delete(tokens).where(tokens.c.id == token_id)))

    async def revoke_tokens_of(self, user_id: UUID, token_id: str | None = None) -> list[str]:
        """Removes a user's tokens, or the one of that id if it is the user's. The ids of those
        that there were."""
        own = delete(tokens).where(tokens.c.user_id == user_id).returning(tokens.c.id)
        if token_id is not None:
            own = own.where(tokens.c.id == token_id)
        return await self.database.run(lambda connection: list(connection.scalars(own)), write=True)

    # Login links

    async def create_link(
        self,
        user_id: UUID,
        path: str,
        *,
        lifetime_s: int = LINK_LIFETIME_S,
    ) -> str:
        """A code that logs `user_id` in, once, and leads to `path`."""
        code = _random_base62(_LINK_CODE_LENGTH)
        now = self._clock()

        def work(connection: Connection) -> None:
            connection.execute(delete(login_links).where(login_links.c.expires_at < now))
            connection.execute(
                insert(login_links).values(
                    code_hash=hash_secret(code),
                    user_id=user_id,
                    path=path,
                    created_at=now,
                    expires_at=now + timedelta(seconds=lifetime_s),
                )
            )

        await self.database.run(work, write=True)
        return code

    def _usable(self, code: str) -> ColumnElement[bool]:
        return (
            (login_links.c.code_hash == hash_secret(code))
            & (login_links.c.expires_at > self._clock())
            & login_links.c.used_at.is_(None)
        )

    async def link_user(self, code: str) -> User | None:
        """Whom a link's code would sign in. None if it is unknown, used or expired."""
        query = select(users).join(login_links).where(self._usable(code))
        rows = await self.database.rows(query)
        return User(rows[0].id, rows[0].name, rows[0].status) if rows else None

    async def redeem_link(
        self, code: str, *, replacing: str | None = None
    ) -> tuple[str, str] | None:
        """Exchanges a link's code for (a new token, the path to show), and revokes the token of
        the id `replacing`.

        None if the code is unknown, used or expired, or its user suspended, which spends nothing.
        Two that come at once: one wins.
        """

        def work(connection: Connection) -> tuple[str, str] | None:
            active = select(users.c.id).where(users.c.status == "active")
            claimed = connection.execute(
                update(login_links)
                .where(self._usable(code), login_links.c.user_id.in_(active))
                .values(used_at=self._clock())
                .returning(login_links.c.user_id, login_links.c.path)
            ).one_or_none()
            if claimed is None:
                return None
            if replacing is not None:
                connection.execute(delete(tokens).where(tokens.c.id == replacing))
            return self._insert_token(connection, claimed.user_id), claimed.path

        return await self.database.run(work, write=True)

    # Workspaces

    async def add_workspace(self, owner_id: UUID, name: str, desktop: str) -> Workspace:
        """A new workspace. Raises ValueError if its owner has one of that name."""
        workspace = Workspace(uuid4(), owner_id, name, desktop, self._clock())

        def work(connection: Connection) -> None:
            same = (workspaces.c.owner_id == owner_id) & (workspaces.c.name == name)
            if connection.execute(select(workspaces.c.id).where(same)).first():
                raise ValueError(f"there is a workspace {name!r} already")
            connection.execute(
                insert(workspaces).values(
                    id=workspace.id,
                    owner_id=owner_id,
                    name=name,
                    desktop=desktop,
                    created_at=workspace.created_at,
                )
            )

        await self.database.run(work, write=True)
        return workspace

    async def workspace(self, workspace_id: UUID) -> Workspace | None:
        """The workspace of that id."""
        rows = await self.database.rows(select(workspaces).where(workspaces.c.id == workspace_id))
        return Workspace(**_values(rows[0])) if rows else None

    async def workspaces(self) -> list[tuple[Workspace, str]]:
        """All workspaces with their owners' names, by these."""
        rows = await self.database.rows(
            select(workspaces, users.c.name.label("owner"))
            .join(users)
            .order_by(users.c.name, workspaces.c.name)
        )
        return [
            (Workspace(row.id, row.owner_id, row.name, row.desktop, row.created_at), row.owner)
            for row in rows
        ]

    # Chats

    async def create_chat(
        self,
        owner_id: UUID,
        *,
        title: str = "",
        workspace_id: UUID | None = None,
        limit: int | None = None,
    ) -> Chat:
        """A new chat. `workspace_id` must be one that exists. Raises OverBudget where the owner has
        `limit` already."""
        now = self._clock()
        chat = Chat(uuid4(), owner_id, workspace_id, title, False, now, now)

        def work(connection: Connection) -> Chat:
            spend(connection, owner_id, CHATS, 1, limit)
            connection.execute(insert(chats).values(**asdict(chat)))
            return chat

        return await self.database.run(work, write=True)

    async def chat(self, chat_id: UUID) -> Chat | None:
        """The chat of that id, whoever owns it."""
        rows = await self.database.rows(select(chats).where(chats.c.id == chat_id))
        return Chat(**_values(rows[0])) if rows else None

    async def chats(
        self,
        owner_id: UUID | None = None,
        *,
        archived: bool = False,
        after: Chat | None = None,
        limit: int | None = None,
    ) -> list[Chat]:
        """One owner's chats (None: everybody's), newest first, behind `after`; archived ones only
        if asked."""
        query = _chats(owner_id, archived, after).limit(limit)
        return [Chat(**_values(row)) for row in await self.database.rows(query)]

    async def chats_page(
        self,
        owner_id: UUID,
        made: Callable[[Chat], bytes],
        *,
        limit: int,
        archived: bool = False,
        after: Chat | None = None,
    ) -> Page:
        """The same of one owner's, as a page of what `made` makes of each, in a thread."""
        return await self.database.page(
            _chats(owner_id, archived, after),
            lambda row: made(Chat(**_values(row))),
            owner=owner_id,
            limit=limit,
            rows_at_once=ROWS_AT_ONCE,
        )

    async def set_archived(self, chat_id: UUID, archived: bool) -> bool:
        """Archives or unarchives a chat and those that it has spawned. False if the chat was so
        already: of two at once, one wins."""
        values = {"archived": archived, "updated_at": self._clock()}
        changing = update(chats).where(chats.c.archived != archived).values(values)

        def work(connection: Connection) -> bool:
            if not connection.execute(changing.where(chats.c.id == chat_id)).rowcount:
                return False
            # Behind the chat's own row, whose lock keeps others from spawning meanwhile.
            connection.execute(changing.where(chats.c.parent_id == chat_id))
            return True

        return await self.database.run(work, write=True)

    async def archived(self, chat_ids: Collection[UUID]) -> list[UUID]:
        """Which of those chats are archived."""
        query = select(chats.c.id).where(chats.c.id.in_(chat_ids), chats.c.archived)
        return [row.id for row in await self.database.rows(query)]
