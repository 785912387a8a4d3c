"""The command line. Wrong input is one line on stderr and exit status 2."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

import trio
import typer

from api.budgets import BudgetSettings
from api.cli.agent import agent
from api.cli.demo import run_demo
from api.cli.mcp import mcp
from api.cli.options import (
    DesktopPasswordFile,
    Geometry,
    check_password_file,
    checked,
)
from api.http.logs import configure_logging
from api.privacy import be_private, forget
from api.routes.chats import check_title
from api.run import run_server
from api.services import Services
from api.settings import (
    ENV_PREFIX,
    DesktopSettings,
    Settings,
    SettingsProblem,
    check_address,
    check_desktop,
    load_settings,
    parse_limits,
)
from api.store import Chat, Store, StoreError, User
from relay.controls import escaped
from relay.errors import Direction
from relay.limits import Limits
from relay.recordings.file import RecordingError, read
from relay.recordings.inspection import Element, Inspection, report
from relay.rfb import describe, handshake

__all__ = ["app", "run"]

_T = TypeVar("_T")

NAME_CHARS: Final = 64

CHATS_AT_ONCE: Final = 500
"""Read from the store for a list of all."""

app = typer.Typer(
    help="Streams a workspace's desktop to a browser.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
_tokens = typer.Typer(help="Session tokens.")
_chats = typer.Typer(help="Chats.")
_workspaces = typer.Typer(help="Workspaces: where the desktops are.")
app.add_typer(_tokens, name="token")
app.add_typer(_chats, name="chat")
app.add_typer(_workspaces, name="workspace")
app.command()(agent)
app.command()(mcp)


def run(arguments: Sequence[str]) -> int:
    """Runs one command; returns the exit status."""
    try:
        # Typer's own report of an error is four lines in a box.
        status = app(list(arguments) or ["--help"], prog_name="deskrelay", standalone_mode=False)
    except (typer.TyperException, SettingsProblem, StoreError, RecordingError) as error:
        text = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        print(f"deskrelay: {escaped(' '.join(text.split()))}", file=sys.stderr)
        return 2
    return status if isinstance(status, int) else 0


def _check_name(text: str) -> None:
    if not text.isprintable() or not text.strip() or len(text) > NAME_CHARS:
        raise ValueError(f"a name is 1 to {NAME_CHARS} printable characters")


Config = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Settings; ./deskrelay.toml where there is one."),
]
UserName = Annotated[
    str, typer.Option("--user", metavar="NAME", parser=checked(_check_name), help="Whose.")
]
Desktop = Annotated[
    str,
    typer.Option(
        metavar="DESKTOP",
        parser=checked(check_desktop),
        help="pattern, xvnc, portabledesktop, tcp://HOST:PORT, unix:PATH, or a workspace agent "
        "at ws://HOST:PORT or wss://HOST:PORT.",
    ),
]


def _limits(texts: list[str]) -> Any:
    pairs = [text.partition("=") for text in texts]
    for (_, equals, _), text in zip(pairs, texts, strict=True):
        if not equals:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--limit")
    try:
        return parse_limits({name: value for name, _, value in pairs})
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--limit") from None


@app.command()
def demo(
    desktop: Annotated[
        str,
        typer.Option(
            metavar="DESKTOP",
            parser=checked(lambda text: text == "auto" or check_desktop(text)),
            help="auto, pattern, xvnc, portabledesktop, tcp://HOST:PORT or unix:PATH. "
            "auto is xvnc where it is installed, else pattern.",
        ),
    ] = "auto",
    bind: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            parser=checked(check_address),
            help="Where to listen. Port 0 takes a free one.",
        ),
    ] = "127.0.0.1:6080",
    geometry: Geometry = "1280x800",
    password_file: DesktopPasswordFile = None,
    limit: Annotated[
        list[str],
        typer.Option(metavar="NAME=VALUE", help="A field of relay.Limits; may be repeated."),
    ] = [],  # noqa: B006 - typer reads it, nobody changes it
    json: Annotated[
        bool, typer.Option("--json", help="One line of JSON on stdout when it serves.")
    ] = False,
) -> None:
    """Show a live desktop in the browser: a desktop, the relay, a user and a chat."""
    check_password_file(desktop, password_file)
    settings = Settings.model_construct(
        bind=[bind],
        limits=_limits(limit),
        desktop=DesktopSettings(geometry=geometry, password_file=password_file),
        budgets=BudgetSettings.of_one_user(),
    )
    be_private()
    configure_logging()
    trio.run(partial(run_demo, settings, desktop, as_json=json))


@app.command()
def inspect(
    capture: Annotated[
        Path, typer.Argument(metavar="CAPTURE", help="A recorded session, plain or as xz.")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Only what they add up to, as one line of JSON.")
    ] = False,
) -> None:
    """Show a recorded session message by message."""
    inspection = Inspection(Limits(), _ignore if as_json else _print_element)
    try:
        for record in read(capture):
            inspection.feed(record)
        if as_json:
            print(json.dumps(report(inspection)))
        else:
            _print_summary(inspection)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has seen enough. Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_SENDERS: Final = {Direction.UP: "client", Direction.DOWN: "server"}


def _ignore(_element: Element) -> None:
    pass


def _print_element(element: Element) -> None:
    indent = "  " * element.is_rectangle
    print(
        f"{element.t_us / 1e6:12.6f}  {_SENDERS[element.direction]}  {element.offset:9}  "
        f"{indent}{element.name}  {escaped(element.details)}".rstrip()
    )


def _print_summary(inspection: Inspection) -> None:
    version, security_type = inspection.version, inspection.security_type
    size = inspection.framebuffer
    print()
    print(f"version      {version or 'unknown'}")
    print(f"security     {handshake.name_of(security_type) if security_type else 'none chosen'}")
    print(f"framebuffer  {f'{size[0]}x{size[1]} at the end' if size else 'no session to read'}")
    for direction, sender in _SENDERS.items():
        names = {n: describe.message_name(direction, n) for n in inspection.messages(direction)}
        print(f"{sender}       {inspection.bytes_sent[direction]} bytes")
        _print_counts(names, inspection.messages(direction))
    rectangles = inspection.rectangles()
    if rectangles:
        print("rectangles")
        _print_counts({n: describe.encoding_name(n) for n in rectangles}, rectangles)
    fault = inspection.fault
    if fault is None:
        print("fault        none")
    else:
        print(f"fault        {_SENDERS[fault.direction]} at byte {fault.offset}: {fault.rule}")


def _print_counts(names: dict[int, str], counted: Counter[int]) -> None:
    for number in sorted(counted):
        print(f"{counted[number]:13}  {names[number]} ({number})")


@app.command()
def serve(config: Config = None) -> None:
    """Run the server: settings from a TOML file and DESKRELAY_... variables."""
    settings = load_settings(config)
    be_private()
    forget(name for name in list(os.environ) if name.upper().startswith(ENV_PREFIX))
    configure_logging()

    async def started(_services: Services, url: str) -> None:
        print(f"serving at {url}", file=sys.stderr)

    _with_store(settings, lambda store: run_server(settings, store, started))


def _with_store(settings: Settings, work: Callable[[Store], Awaitable[_T]]) -> _T:
    async def main() -> _T:
        store = await Store.open(
            settings.database_url,
            token_lifetime_s=settings.token_lifetime_s,
            token_max_age_s=settings.token_max_age_s,
        )
        try:
            return await work(store)
        finally:
            await store.aclose()

    return trio.run(main)


async def _existing_user(store: Store, name: str) -> User:
    user = await store.user(name)
    if user is None:
        raise typer.TyperException(
            f"there is no user {name!r}; deskrelay token create --user makes one"
        )
    return user


def _print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    lines = [head, *([escaped(str(cell)) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


@_tokens.command("create")
def token_create(
    user: UserName,
    link: Annotated[
        bool, typer.Option("--link", help="Print a one-time link for a browser instead.")
    ] = False,
    config: Config = None,
) -> None:
    """Make a token for a user, who is made too where there is none of that name."""
    settings = load_settings(config)

    async def work(store: Store) -> str:
        owner = await store.ensure_user(user)
        if not link:
            return await store.create_token(owner.id)
        base = settings.public_url or _own_url(settings.bind)
        return f"{base}/open/{await store.create_link(owner.id, '/')}"

    print(_with_store(settings, work))


def _own_url(binds: Sequence[str]) -> str:
    for bind in binds:
        if not bind.startswith("unix:") and not bind.endswith(":0"):
            return f"http://{bind}"
    raise typer.TyperException("for a link, set public_url to the address that people type")


@_tokens.command("list")
def token_list(config: Config = None) -> None:
    """List tokens; their secrets are not kept and can't be shown."""

    async def work(store: Store) -> list[tuple[str, ...]]:
        return [
            (t.id, t.user_name, *(f"{m:%Y-%m-%d %H:%M}" for m in moments))
            for t in await store.tokens()
            for moments in [(t.created_at, t.last_used_at, store.ends_at(t))]
        ]

    rows = _with_store(load_settings(config), work)
    _print_table(("ID", "USER", "CREATED", "LAST USED", "EXPIRES"), rows)


@_tokens.command("revoke")
def token_revoke(
    token_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="From `token list`.", show_default=False)
    ] = None,
    user: Annotated[
        str | None, typer.Option(metavar="NAME", help="All tokens of that user.")
    ] = None,
    config: Config = None,
) -> None:
    """Revoke a token, or all of a user: the next request is refused, live sessions end in 30 s."""
    if (token_id is None) == (user is None):
        raise typer.TyperException("give the ID of a token, or --user NAME for all of a user")

    async def work(store: Store) -> None:
        if user is not None:
            await store.revoke_tokens_of((await _existing_user(store, user)).id)
        elif not await store.revoke_token(token_id or ""):
            raise typer.TyperException("there is no token of that id; see deskrelay token list")

    _with_store(load_settings(config), work)


@_chats.command("create")
def chat_create(
    user: UserName,
    title: Annotated[str, typer.Option(metavar="TEXT", parser=checked(check_title))] = "",
    workspace: Annotated[
        str | None, typer.Option(metavar="NAME", help="The user's workspace to show.")
    ] = None,
    config: Config = None,
) -> None:
    """Create a chat; prints its id."""

    async def work(store: Store) -> UUID:
        owner = await _existing_user(store, user)
        workspace_id = None
        if workspace is not None:
            mine = {w.name: w.id for w, _ in await store.workspaces() if w.owner_id == owner.id}
            if workspace not in mine:
                raise typer.TyperException(f"{user} has no workspace {workspace!r}")
            workspace_id = mine[workspace]
        chat = await store.create_chat(owner.id, title=title, workspace_id=workspace_id)
        return chat.id

    print(_with_store(load_settings(config), work))


@_chats.command("list")
def chat_list(config: Config = None) -> None:
    """List everybody's chats, archived ones too."""

    async def work(store: Store) -> None:
        names = {user.id: escaped(user.name) for user in await store.users()}
        widest = max(map(len, ["USER", *names.values()]))
        # Printed as they are read: there may be any number.
        line = f"{{!s:36}}  {{:{widest}}}  {{:8}}  {{!s:36}}  {{}}"
        print(line.format("ID", "USER", "ARCHIVED", "WORKSPACE", "TITLE"))
        last: Chat | None = None
        while found := await store.chats(archived=True, after=last, limit=CHATS_AT_ONCE):
            for chat in found:
                # Made since the list of users was read: a new user's.
                owner = names.get(chat.owner_id, "-")
                archived = "yes" if chat.archived else "no"
                cells = (chat.id, owner, archived, chat.workspace_id or "-", escaped(chat.title))
                print(line.format(*cells).rstrip())
            last = found[-1]

    _with_store(load_settings(config), work)


@_workspaces.command("add")
def workspace_add(
    name: Annotated[str, typer.Argument(parser=checked(_check_name))],
    user: UserName,
    desktop: Desktop = "xvnc",
    config: Config = None,
) -> None:
    """Add a workspace; prints its id."""

    async def work(store: Store) -> UUID:
        owner = await _existing_user(store, user)
        try:
            return (await store.add_workspace(owner.id, name, desktop)).id
        except ValueError as error:
            raise typer.TyperException(str(error)) from None

    print(_with_store(load_settings(config), work))


@_workspaces.command("list")
def workspace_list(config: Config = None) -> None:
    """List everybody's workspaces."""
    pairs = _with_store(load_settings(config), lambda store: store.workspaces())
    _print_table(
        ("ID", "USER", "NAME", "DESKTOP"),
        ((workspace.id, owner, workspace.name, workspace.desktop) for workspace, owner in pairs),
    )
