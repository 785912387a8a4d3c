"""The command line: what it prints, and how it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

import api.settings
from api.cli.commands import run
from api.settings import load_settings
from api.store import Chat, Store
from relay import Password, PasswordFile
from relay.desktops import Separation

CONTROLS = ["\x07", "\n", "\x1b", "\x7f", "\x9b", "\u200e", "\u061c", "\u2028", "\u202e", "\u2067"]
COMMAND = [sys.executable, "-m", "api"]


def spoken(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = run(arguments)
    out, err = capsys.readouterr()
    return status, out, err


# Wrong input


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("demo --limit nope=1", "there is no limit 'nope'; the limits are dial_timeout_s, "),
        ("demo --limit read_bytes", "'read_bytes' is not NAME=VALUE"),
        ("demo --limit read_bytes=many", "limit read_bytes: 'many' is not a whole number"),
        ("demo --limit read_bytes=1.5", "limit read_bytes: '1.5' is not a whole number"),
        ("demo --limit dial_timeout_s=inf", "dial_timeout_s: 'inf' is not a number of seconds"),
        ("demo --limit read_bytes=0", "limit read_bytes: must be more than 0, not '0'"),
        ("demo --bind 6080", "'6080' is not HOST:PORT with a port from 0 to 65535"),
        ("demo --bind 127.0.0.1:65536", "is not HOST:PORT with a port from 0 to 65535"),
        ("demo --bind ::1:6080", "an IPv6 address goes in brackets, as in [::1]:6080"),
        ("demo --desktop windows", "'windows' is no desktop; use pattern, "),
        ("demo --desktop tcp://localhost", "is not an address; use tcp://HOST:PORT"),
        ("demo --geometry big", "'big' is not a geometry; use WIDTHxHEIGHT"),
        ("demo --password-file nowhere", "file 'nowhere' does not exist"),
        ("demo --desktop xvnc --password-file .", "'.' is a directory"),
        ("demo --desktop xvnc --password-file /etc/hostname", "the desktop xvnc has no password"),
        ("demo --nope", "No such option: --nope"),
        ("nope", "No such command 'nope'"),
        ("token create", "Missing option '--user'"),
        *(
            (f"{command} a{control}b", text)
            for control in CONTROLS
            for command, text in {
                "token create --user": "a name is 1 to 64 printable characters",
                "workspace add --user alice": "a name is 1 to 64 printable characters",
                "chat create --user alice --title": "A title has no control characters",
                "workspace add dev --user alice --desktop tcp://": "no control characters",
                "workspace add dev --user alice --desktop unix:/run/": "no control characters",
                "workspace add dev --user alice --desktop": "is no desktop; use pattern, ",
                "demo --desktop wss://": "an address has no control characters",
                "demo --bind": "is not HOST:PORT",
            }.items()
        ),
        (f"chat create --user alice --title {'x' * 257}", "A title has at most 256 characters."),
        ("token revoke 0123456789", "there is no token of that id"),
        ("token revoke", "give the ID of a token, or --user NAME for all of a user"),
        ("token revoke 0123456789 --user a", "give the ID of a token, or --user NAME for all"),
        ("token revoke --user bob", "there is no user 'bob'; deskrelay token create --user"),
        ("chat create --user bob", "there is no user 'bob'; deskrelay token create --user"),
        ("workspace add dev --user bob", "there is no user 'bob'; deskrelay token create --user"),
        ("workspace add dev --user bob --desktop x", "'x' is no desktop"),
        (
            "mcp --desktop wss://a:1",
            "'wss://a:1' is a workspace agent; here it has to be the desktop itself",
        ),
        ("serve --config nowhere.toml", "nowhere.toml: there is no such file"),
    ],
)
def test_wrong_input_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: str, text: str
) -> None:
    # Those that stand for a line's end must come through.
    words = arguments.replace("// ", "//").replace("/run/ ", "/run/").split(" ")
    status, out, err = spoken(capsys, *words)
    assert (status, out) == (2, "")
    assert err.startswith("deskrelay: ")
    assert text in err
    assert err.count("\n") == 1
    assert not any(control in err.removesuffix("\n") for control in CONTROLS)


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = spoken(capsys)
    assert (status, err) == (0, "")
    for command in ("demo", "serve", "inspect", "mcp", "token", "chat", "workspace"):
        assert re.search(rf"^  {command} ", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("nope = 1", "deskrelay.toml: nope: there is no such setting"),
        ("[desktop]\nsize = 1", "deskrelay.toml: desktop.size: there is no such setting"),
        (
            '[desktop]\npassword = "sesame"\npassword_file = "x"',
            "deskrelay.toml: desktop: password and password_file are both set; one is enough",
        ),
        ("[desktop]\npassword = 5", "deskrelay.toml: desktop.password: "),
        ("[limits]\nnope = 1", "deskrelay.toml: limits: there is no limit 'nope'"),
        ("[budgets]\nnope = 1", "deskrelay.toml: budgets.nope: there is no such setting"),
        (
            "[budgets]\nsessions_per_user = 0",
            "deskrelay.toml: budgets.sessions_per_user: Input should be greater than or equal to 1",
        ),
        (
            "[budgets]\nrequests_burst_s = inf",
            "deskrelay.toml: budgets.requests_burst_s: Input should be a finite number",
        ),
        ("[limits]\nread_bytes = true", "limits: limit read_bytes: True is not a whole number"),
        (
            'bind = ["unix:relay.sock"]',
            "deskrelay.toml: bind.0: 'unix:relay.sock': a socket's path is",
        ),
        ("risky_encodings = [7]", "deskrelay.toml: risky_encodings.0: 7 is none of the encodings"),
        ('bind = ["6080"]', "deskrelay.toml: bind.0: '6080' is not HOST:PORT"),
        ("bind = []", "deskrelay.toml: bind: "),
        ('public_url = "desk.example"', "public_url: 'desk.example' is not an address that"),
        ('public_url = ""', "public_url: '' is not an address that"),
        ('public_url = "ftp://desk.example"', "'ftp://desk.example' is not an origin"),
        ('public_url = "https://desk.example/x?y"', "write https://HOST, https://HOST:PORT or"),
        ('public_url = "https://desk.example/x#y"', "write https://HOST, https://HOST:PORT or"),
        ('public_url = "https://desk.example//x"', "write https://HOST, https://HOST:PORT or"),
        ('public_url = "https://desk.example/x//"', "write https://HOST, https://HOST:PORT or"),
        ('public_url = "https://desk.example/../x"', "write https://HOST, https://HOST:PORT or"),
        ('public_url = "https://me@desk.example"', "write https://HOST, https://HOST:PORT or"),
        ('public_url = "https://desk.example:99999"', "deskrelay.toml: public_url: Port out of"),
        (
            'public_url = "https://desk\\u001b[31m.example"',
            "'https://desk\\x1b[31m.example' is not",
        ),
        ('allowed_origins = ["https://desk.example/x"]', "is not an origin; write https://HOST"),
        ('allowed_origins = ["https://me@desk.example"]', "is not an origin; write https://HOST"),
        ('allowed_origins = ["https://desk.example?x"]', "is not an origin; write https://HOST"),
        (
            "token_max_age_s = 86400",
            "deskrelay.toml: token_max_age_s: 86400 is less than token_lifetime_s, 604800",
        ),
        ("token_lifetime_s = 5000000", "token_max_age_s: 2592000 is less than token_lifetime_s"),
        ("trusted_proxy_hops = -1", "deskrelay.toml: trusted_proxy_hops: "),
        ("token_lifetime_s = 1", "deskrelay.toml: token_lifetime_s: "),
        ('database_url = "oracle"', "cannot use the database: "),
        (
            'database_url = "mysql://a/b"',
            "MySQLdb is not installed; for postgresql+psycopg://, pip",
        ),
        ("budgets = 5", "deskrelay.toml: budgets: it has to be a table"),
        ("[desktop]\nhomes_dir = 5", "deskrelay.toml: desktop.homes_dir: it has to be a path, in"),
        ('[desktop]\nhomes_dir = ""', "desktop.homes_dir: '.' is no absolute path, as /var/lib/"),
        ('[desktop]\nhomes_dir = "homes"', "desktop.homes_dir: 'homes' is no absolute path, as "),
        ('database_url = "sqlite:////dev/null/x.db"', "unable to open database file"),
        ("not TOML", "deskrelay.toml: "),
    ],
)
def test_wrong_settings_are_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], file: str, text: str
) -> None:
    (folder / "deskrelay.toml").write_text(file)
    status, out, err = spoken(capsys, "chat", "list")
    assert (status, out) == (2, "")
    assert text in err
    assert err.splitlines()[-1].startswith("deskrelay: ")


def test_homes_that_cannot_be_had_end_the_start(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "homes"
    file.touch()
    monkeypatch.setattr(api.settings, "separation_for", lambda *_: Separation(homes=file))
    (folder / "deskrelay.toml").write_text(
        f'bind = ["127.0.0.1:0"]\n[desktop]\nhomes_dir = "{file}"\n'
    )
    status, _, err = spoken(capsys, "serve")
    assert status == 2
    assert err == f"deskrelay: settings: desktop.homes_dir: [Errno 17] File exists: '{file}'\n"


@pytest.mark.parametrize("setting", ["api_key", "api_key_file"])
def test_a_key_that_is_none_is_called_by_its_setting(
    folder: Path, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    (folder / "a key").write_text("a key\n")
    (folder / "deskrelay.toml").write_text(f'bind = ["127.0.0.1:0"]\nmodel.{setting} = "a key"\n')
    status, _, err = spoken(capsys, "serve")
    assert status == 2
    assert err == f"deskrelay: model.{setting}: a key is printable ASCII without spaces\n"


def test_environment_is_over_the_file(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "deskrelay.toml").write_text('public_url = "https://file.example"')
    assert spoken(capsys, "token", "create", "--user", "a", "--link")[1].startswith(
        "https://file.example/open/"
    )
    monkeypatch.setenv("DESKRELAY_PUBLIC_URL", "https://env.example")
    assert spoken(capsys, "token", "create", "--user", "a", "--link")[1].startswith(
        "https://env.example/open/"
    )
    monkeypatch.setenv("DESKRELAY_PUBLIC_URL", "https://env.example/desk/")
    assert spoken(capsys, "token", "create", "--user", "a", "--link")[1].startswith(
        "https://env.example/desk/open/"
    )
    monkeypatch.setenv("DESKRELAY_LIMITS__READ_BYTES", "few")
    assert "'few' is not a whole number" in spoken(capsys, "chat", "list")[2]
    monkeypatch.delenv("DESKRELAY_LIMITS__READ_BYTES")
    monkeypatch.setenv("DESKRELAY_NOPE", "1")
    assert spoken(capsys, "chat", "list")[2] == (
        "deskrelay: DESKRELAY_NOPE in the environment: there is no such setting\n"
    )


def test_a_link_needs_an_address(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = folder / "deskrelay.toml"
    for binds in ('"unix:/run/r.sock"', '"127.0.0.1:0"'):
        config.write_text(f"bind = [{binds}]")
        status, _, err = spoken(capsys, "token", "create", "--user", "a", "--link")
        assert (status, err) == (
            2,
            "deskrelay: for a link, set public_url to the address that people type\n",
        )
    config.write_text('bind = ["unix:/run/r.sock", "[::1]:6080"]')
    link = spoken(capsys, "token", "create", "--user", "a", "--link")[1]
    assert link.startswith("http://[::1]:6080/open/")


def test_without_the_servers_packages_it_says_what_to_install(folder: Path) -> None:
    # None in sys.modules: as if it were not there.
    code = "import sys; sys.modules['typer'] = None; from api.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("deskrelay: typer is not installed; ")
    assert done.stderr.endswith("pip install 'deskrelay[server]'\n")


def test_without_pictures_packages_the_workspace_agent_and_the_client_say_what_to_install(
    folder: Path,
) -> None:
    (folder / "secret").write_text("0123456789abcdef\n")
    without = "import sys; sys.modules['PIL'] = None; "
    served = "from api.cli.commands import run; sys.exit(run(['agent', '--secret-file', 'secret']))"
    for code, extras in ((served, "server,client"), ("import relay; relay.connect", "client")):
        command = [sys.executable, "-c", without + code]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode
        last = done.stderr.splitlines()[-1]
        assert "PIL" in last
        assert f"deskrelay[{extras}]" in last


INTERRUPTED = """
import sys

class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == "api.cli.commands":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from api.__main__ import main
main()
"""


def test_an_interrupt_while_it_loads_is_no_traceback() -> None:
    command = [sys.executable, "-c", INTERRUPTED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_password_of_desktops(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings().desktop.password_source is None
    (folder / "deskrelay.toml").write_text('[desktop]\npassword_file = "vnc"')
    assert load_settings().desktop.password_source == PasswordFile(Path("vnc"))
    monkeypatch.setenv("DESKRELAY_DESKTOP__PASSWORD", "sesame")
    status, _, err = spoken(capsys, "chat", "list")
    assert (status, "sesame" in err) == (2, False)
    assert "both set" in err
    (folder / "deskrelay.toml").unlink()
    settings = load_settings()
    assert "sesame" not in repr(settings) + str(settings) + settings.model_dump_json()
    source = settings.desktop.password_source
    assert isinstance(source, Password)
    assert source.reveal() == b"sesame"


# The store


def test_what_was_stored_before_steers_no_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "deskrelay.toml").write_text('database_url = "sqlite:///store.db"')

    async def store_it() -> None:
        store = await Store.open("sqlite:///store.db")
        user = await store.ensure_user("al\x1b[2Jice")
        await store.create_token(user.id)
        workspace = await store.add_workspace(user.id, "de\u202ev", "tcp://a\nb:1")
        await store.create_chat(user.id, title="\x9b2J\x7f\u2028", workspace_id=workspace.id)
        await store.aclose()

    trio.run(store_it)
    shown = ""
    for what in ("token", "chat", "workspace"):
        status, out, _ = spoken(capsys, what, "list")
        assert status == 0
        assert len(out.splitlines()) == 2
        shown += out
    assert shown.replace("\n", "").isprintable()
    for text in (r"al\x1b[2Jice", r"de\u202ev", r"tcp://a\nb:1", r"\x9b2J\x7f\u2028"):
        assert text in shown


def test_tokens_chats_and_workspaces(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def say(*arguments: str) -> str:
        status, out, err = spoken(capsys, *arguments)
        assert (status, err) == (0, ""), err
        return out

    token = say("token", "create", "--user", "alice").strip()
    assert re.fullmatch(r"[0-9A-Za-z]{10}-[0-9A-Za-z]{22}", token)
    workspace = say("workspace", "add", "dev", "--user", "alice", "--desktop", "pattern").strip()
    chat = say("chat", "create", "--user", "alice", "--title", "Hi", "--workspace", "dev").strip()

    assert say("workspace", "list").splitlines()[1].split() == [
        workspace, "alice", "dev", "pattern",
    ]  # fmt: skip
    assert say("chat", "list").splitlines()[1].split() == [chat, "alice", "no", workspace, "Hi"]
    listed = say("token", "list")
    assert listed.splitlines()[1].split()[:2] == [token[:10], "alice"]
    assert token[11:] not in listed

    assert spoken(capsys, "workspace", "add", "dev", "--user", "alice")[0] == 2
    assert spoken(capsys, "chat", "create", "--user", "alice", "--workspace", "x")[0] == 2
    assert say("token", "revoke", token[:10]) == ""
    assert len(say("token", "list").splitlines()) == 1
    for user in ("alice", "alice", "bob"):
        say("token", "create", "--user", user)
    assert say("token", "revoke", "--user", "alice") == ""
    assert [line.split()[1] for line in say("token", "list").splitlines()[1:]] == ["bob"]
    assert (folder / "deskrelay.db").exists()


def test_every_chat_is_listed_however_many(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once: list[int] = []
    chats = Store.chats

    async def few(store: Store, *given: Any, **more: Any) -> list[Chat]:
        found = await chats(store, *given, **more)
        at_once.append(len(found))
        return found

    monkeypatch.setattr(Store, "chats", few)
    monkeypatch.setattr("api.cli.commands.CHATS_AT_ONCE", 2)
    spoken(capsys, "token", "create", "--user", "a-rather-long-name")
    made = [
        spoken(capsys, "chat", "create", "--user", "a-rather-long-name", "--title", f"no. {n}")[1]
        for n in range(5)
    ]
    status, out, _ = spoken(capsys, "chat", "list")
    head, *lines = out.splitlines()
    assert status == 0
    assert at_once == [2, 2, 1, 0]
    assert sorted(line.split()[0] for line in lines) == sorted(chat.strip() for chat in made)
    assert {line.index("no. ") for line in lines} == {head.index("TITLE")}
