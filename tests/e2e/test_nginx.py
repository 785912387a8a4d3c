"""Behind a real nginx that ends TLS, with the text of docs/operations.md, and under a path."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.labs.certificates import Authority
from tests.labs.e2e.commands import run, server
from tests.labs.e2e.pages import connected, shows, sign_in
from tests.labs.missing import missing
from tests.labs.places import ROOT
from tests.labs.waiting import until

# conftest.py has the browser find this machine under the name.
NAME = "desk.example"

CONFIGURATION = """\
daemon off; pid {folder}/pid; error_log stderr; {user}
events {{}}
http {{
    access_log off;
    proxy_temp_path {folder}/proxy; client_body_temp_path {folder}/body;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{port} ssl http2;
        ssl_certificate {cert}; ssl_certificate_key {key};
{location}
    }}
}}
"""


def documented(bind: str, path: str) -> str:
    """The `location` of docs/operations.md, in front of `bind`; under a path, which it strips."""
    text = (ROOT / "docs/operations.md").read_text()
    found = re.search(r"^nginx:\n\n((?:    .*\n)+)", text, re.MULTILINE)
    assert found is not None
    location = found[1]
    assert "http://127.0.0.1:6080;" in location
    assert "location / {" in location
    slash = "/" if path else ""
    location = location.replace("http://127.0.0.1:6080;", f"http://{bind}{slash};")
    return location.replace("location / {", f"location {path}/ {{")


@contextmanager
def nginx(folder: Path, port: int, location: str) -> Iterator[None]:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        missing("nginx is not installed (see .ci/run for the packages)")
    shown = Authority(folder, "authority").vouch("nginx")
    configuration = folder / "nginx.conf"
    configuration.write_text(
        CONFIGURATION.format(
            folder=folder,
            user="user root;" if os.geteuid() == 0 else "",
            port=port,
            cert=shown.cert,
            key=shown.key,
            location=location,
        )
    )
    with subprocess.Popen([program, "-e", "stderr", "-c", str(configuration)]) as process:
        try:
            until(lambda: listens(port), "nginx")
            yield
        finally:
            process.terminate()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture(params=["", "/desk"], ids=["at the root", "under a path"])
def public_url(
    request: pytest.FixtureRequest, environment: dict[str, str], tmp_path: Path
) -> Iterator[str]:
    """Where people reach a server that runs behind nginx."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"https://{NAME}:{port}{request.param}"
    environment |= {"DESKRELAY_PUBLIC_URL": url, "DESKRELAY_TRUSTED_PROXY_HOPS": "1"}
    location = documented(environment["DESKRELAY_BIND"], request.param)
    with server(environment), nginx(tmp_path, port, location):
        yield url


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that does not ask who vouches for a certificate."""
    with browser.new_context(ignore_https_errors=True) as context:
        yield context.new_page()


def test_a_desktop_through_nginx(public_url: str, environment: dict[str, str], page: Page) -> None:
    path = urlsplit(public_url).path
    link = run(environment, "token", "create", "--user", "ann", "--link")
    assert link.startswith(f"{public_url}/open/")
    run(environment, "workspace", "add", "box", "--user", "ann", "--desktop", "pattern")
    run(environment, "chat", "create", "--user", "ann", "--title", "Work", "--workspace", "box")

    # A forged header opens nothing, and gives the scheme away to nobody.
    forged = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http"}
    page.context.set_extra_http_headers(forged)
    sign_in(page, link)
    expect(page).to_have_url(f"{public_url}/")
    (cookie,) = page.context.cookies()
    prefix = "__Secure-" if path else "__Host-"
    assert cookie["name"] == f"{prefix}coder_session_token"
    assert (cookie["domain"], cookie["path"]) == (NAME, f"{path}/")
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Lax")

    # What another host of the domain plants is behind the page's own.
    planted = run(environment, "token", "create", "--user", "mallory")
    for at in ("/", f"{path}/api"):
        page.context.add_cookies(
            [{"name": "coder_session_token", "value": planted, "domain": f".{NAME}", "path": at}]
        )
    page.goto(f"{public_url}/")
    page.get_by_role("link", name="Work").click()
    connected(page)
    assert page.url.startswith(f"{public_url}/chats/")

    home = page.context.new_page()
    answer = home.goto(f"{public_url}/")
    assert answer is not None
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    home.get_by_text("Where you are signed in").click()
    expect(home.get_by_text("A desktop is open at 127.0.0.1")).to_be_visible()
    home.get_by_role("button", name="Sign out", exact=True).click()
    until(
        lambda: cookie["name"] not in {left["name"] for left in page.context.cookies()},
        "the cookie's end",
    )
    shows(page, "You are signed out")
    users = [line.split()[1] for line in run(environment, "token", "list").splitlines()[1:]]
    assert users == ["mallory"]
