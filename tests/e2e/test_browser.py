"""From the one-time link to a live desktop in a browser, and every way it ends."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from relay import CloseCode
from tests.labs.e2e.commands import Demo, XServer, run, server, started
from tests.labs.e2e.pages import INSIDE_THE_TERMINAL, TERMINAL_COLOUR, connected, shows, sign_in
from tests.labs.e2e.xdisplay import Picture, XDisplay
from tests.labs.waiting import until

FIRST_LINE_OF_THE_TERMINAL = (120, 92)
LINE_OF_THE_TERMINAL_PX = 13

RETRIED = {
    CloseCode.GOING_AWAY,
    CloseCode.INTERNAL,
    CloseCode.TRY_LATER,
    CloseCode.TIMEOUT,
    CloseCode.DESKTOP_GONE,
}


@pytest.fixture
def desktop(demo: Demo, page: Page) -> XServer:
    """The demo, opened in the browser through its link, with its terminal on the screen."""
    sign_in(page, demo.viewer_url)
    connected(page)
    x_server = demo.x_server()
    with x_server.look() as display:
        until(lambda: has_terminal(display.picture()), "the terminal's window")
    return x_server


@pytest.fixture
def display(desktop: XServer) -> Iterator[XDisplay]:
    with desktop.look() as display:
        yield display


def has_terminal(picture: Picture) -> bool:
    x, y = INSIDE_THE_TERMINAL
    start = 4 * (y * picture.width + x)
    return picture.pixels[start : start + 3] == TERMINAL_COLOUR


def press(page: Page, name: str, *, at: int = 640) -> None:
    """A button of the toolbar, which comes when the mouse is in the middle of the upper edge."""
    page.mouse.move(at, 4)
    page.get_by_role("toolbar").get_by_role("button", name=name).click()


def type_line(page: Page, line: str) -> None:
    page.mouse.click(*INSIDE_THE_TERMINAL)  # gives the window the keyboard
    page.keyboard.type(line + "\n", delay=5)


def differing_pixels(page: Page, picture: Picture) -> int:
    """How many pixels in the browser differ visibly from the display's (JPEG is not exact)."""
    count: int = page.evaluate(
        """([width, height, base64]) => {
            const canvas = document.querySelector("#screen canvas");
            if (canvas.width !== width || canvas.height !== height) return width * height;
            const shown = canvas.getContext("2d").getImageData(0, 0, width, height).data;
            const bgrx = atob(base64);
            let different = 0;
            for (let at = 0; at < shown.length; at += 4)
                for (const channel of [0, 1, 2])
                    if (Math.abs(shown[at + channel] - bgrx.charCodeAt(at + 2 - channel)) > 48) {
                        different += 1;
                        break;
                    }
            return different;
        }""",
        [picture.width, picture.height, base64.b64encode(picture.pixels).decode()],
    )
    return count


def test_the_browser_shows_what_the_display_shows(page: Page, display: XDisplay) -> None:
    assert display.picture().colours() > 16
    until(
        lambda: differing_pixels(page, display.picture()) < 100,
        "the display's picture in the browser",
    )


def test_a_typed_line_arrives(page: Page, display: XDisplay, tmp_path: Path) -> None:
    before = display.picture()
    file = tmp_path / "line"
    type_line(page, f"clear; echo relay-$((6*7)) | tee '{file}'")
    until(lambda: file.exists() and file.read_text() == "relay-42\n", "the file")
    until(lambda: display.picture().changed(before) > 200, "the letters on the display")
    until(lambda: differing_pixels(page, display.picture()) < 100, "the letters in the browser")


def test_the_mouse_arrives(page: Page, display: XDisplay) -> None:
    for place in ((15, 700), (1200, 90), (640, 400)):
        page.mouse.move(*place)
        until(lambda place=place: display.pointer() == place, f"the pointer at {place}")  # type: ignore[misc]


def test_the_desktop_takes_the_windows_size(page: Page, desktop: XServer) -> None:
    page.set_viewport_size({"width": 1000, "height": 700})
    press(page, "Fit to window", at=500)

    def size() -> tuple[int, int]:
        with desktop.look() as display:
            return display.width, display.height

    until(lambda: size() == (1000, 700), "the display's new size")
    expect(page.locator("#screen canvas")).to_have_attribute("width", "1000")


def test_the_clipboard_goes_both_ways(page: Page, display: XDisplay, tmp_path: Path) -> None:
    file = tmp_path / "pasted"
    press(page, "Clipboard")
    text = page.get_by_role("textbox", name="Clipboard")
    text.fill(f"echo from-the-browser > '{file}'\n")
    expect(page.get_by_text("Sent to the desktop")).to_be_visible()
    page.get_by_role("button", name="Close the clipboard").click()
    page.mouse.click(*INSIDE_THE_TERMINAL, button="middle")  # xterm's paste
    until(file.exists, "the pasted command's file")

    # What is typed changes the picture as well, so a file says when the digits are out.
    printed = tmp_path / "printed"
    type_line(page, f"clear; printf '%0400d' 7; touch '{printed}'")
    until(printed.exists, "the digits")
    # Dragged, not clicked three times: on a busy machine these are too far apart for xterm.
    x, y = FIRST_LINE_OF_THE_TERMINAL
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y + 2 * LINE_OF_THE_TERMINAL_PX, steps=5)
    page.mouse.up()
    press(page, "Clipboard")
    expect(text).to_have_value(re.compile("0{90,}"))


def test_archiving_ends_the_session_in_words(demo: Demo, page: Page, desktop: XServer) -> None:
    with demo.http() as http:
        assert http.post(f"/api/v2/chats/{demo.chat}/archive").status_code == 204
        shows(page, "This chat is archived")
        expect(page.get_by_text("was archived, so its desktop was closed")).to_be_visible()
        page.get_by_role("button", name="Reconnect").last.click()
        expect(page.locator("body")).to_have_attribute("data-phase", "ended")
        expect(page.get_by_text("The desktop of an archived chat")).to_be_visible()
        assert http.post(f"/api/v2/chats/{demo.chat}/unarchive").status_code == 204
    page.get_by_role("button", name="Reconnect").last.click()
    connected(page)


def test_the_101_takes_no_compression(demo: Demo, page: Page) -> None:
    offered: list[dict[str, str]] = []
    answered: list[dict[str, str]] = []
    protocol = page.context.new_cdp_session(page)
    protocol.on(
        "Network.webSocketWillSendHandshakeRequest",
        lambda event: offered.append(event["request"]["headers"]),
    )
    protocol.on(
        "Network.webSocketHandshakeResponseReceived",
        lambda event: answered.append(event["response"]["headers"]),
    )
    protocol.send("Network.enable")
    sign_in(page, demo.viewer_url)
    connected(page)
    (offer,), (answer,) = offered, answered
    assert "permessage-deflate" in offer["Sec-WebSocket-Extensions"]
    assert "sec-websocket-extensions" not in {name.lower() for name in answer}


def test_the_token_stays_out_of_addresses(demo: Demo, page: Page, desktop: XServer) -> None:
    history = page.context.new_cdp_session(page).send("Page.getNavigationHistory")
    addresses = [page.url, *(entry["url"] for entry in history["entries"])]
    (cookie,) = page.context.cookies()
    assert page.url == demo.page_url
    for secret in (demo.token, cookie["value"]):
        assert not [address for address in addresses if secret in address]
    # The way back leads to the link's page, and its code is good for nothing any more.
    code = demo.viewer_url.rpartition("/")[2]
    assert {address for address in addresses if code in address} <= {demo.viewer_url}
    assert page.request.get(demo.viewer_url).status == 410
    assert (cookie["name"], cookie["httpOnly"]) == ("coder_session_token", True)
    assert cookie["sameSite"] == "Lax"
    assert page.evaluate("document.cookie") == ""


def test_a_wrong_link_says_so_and_signs_nobody_in(demo: Demo, page: Page) -> None:
    answer = page.goto(demo.viewer_url[:-1])
    assert answer is not None
    assert answer.status == 410
    shows(page, "This link cannot be used")
    assert page.context.cookies() == []
    page.goto(demo.page_url)
    shows(page, "You are signed out")


def test_the_list_leads_to_the_desktop(demo: Demo, page: Page, desktop: XServer) -> None:
    page.goto(demo.url)
    page.get_by_role("listitem").get_by_role("link").click()
    expect(page).to_have_url(demo.page_url)
    connected(page)


def test_an_unknown_chat_says_so(demo: Demo, page: Page, desktop: XServer) -> None:
    page.goto(demo.page_url.replace(demo.chat, "00000000-0000-4000-8000-000000000000"))
    shows(page, "This desktop cannot be opened")
    expect(page.get_by_text("Resource not found")).to_be_visible()


def test_a_desktop_that_cannot_be_opened_says_why(tmp_path: Path, page: Page) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with started(tmp_path, f"tcp://127.0.0.1:{port}") as demo:
        sign_in(page, demo.viewer_url)
        shows(page, "The desktop could not be opened")
        expect(
            page.get_by_text("cannot connect to the desktop: Connection refused")
        ).to_be_visible()
        # Where it is, is for the log.
        expect(page.locator("body")).not_to_contain_text(str(port))
        expect(page.locator("body")).to_have_attribute("data-phase", "waiting")


def test_a_killed_desktop_comes_back(demo: Demo, page: Page, desktop: XServer) -> None:
    os.kill(desktop.pid, signal.SIGKILL)
    shows(page, "The desktop went away")
    connected(page)
    assert demo.x_server().pid != desktop.pid


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_server_is_waited_for(
    demo: Demo, page: Page, desktop: XServer, how: signal.Signals
) -> None:
    demo.process.send_signal(how)
    demo.process.wait()
    shows(page, "The server cannot be reached")
    expect(page.get_by_text(re.compile(r"Trying again in \d+ s \(\d+ of 10\)"))).to_be_visible()
    expect(page.get_by_role("button", name="Try now")).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="Reconnecting…")).to_be_visible()


def test_a_server_that_stays_away_is_given_up_in_the_end(demo: Demo, page: Page) -> None:
    page.clock.install()
    page.route("**/api/v2/**", lambda route: route.abort())
    page.goto(demo.page_url)
    for number, wait_s in enumerate((1, 2, 4, 8, 16, 30, 30, 30, 30, 30), start=1):
        attempt = page.locator("#attempt")
        expect(attempt).to_contain_text(f"({number} of 10)")
        shown = re.search(r"in (\d+) s", attempt.inner_text())
        assert shown is not None
        assert wait_s <= int(shown[1]) <= wait_s * 1.25 + 1
        page.clock.run_for(int(shown[1]) * 1000)
    expect(page.locator("body")).to_have_attribute("data-phase", "ended")
    shows(page, "The server cannot be reached")


# Playwright's own stand-in lacks what noVNC looks for in a WebSocket.
CLOSING_SOCKET = """
window.WebSocket = class extends EventTarget {
    static OPEN = 1;
    readyState = 1; protocol = ""; binaryType = "blob";
    onopen = null; onmessage = null; onerror = null; onclose = null;
    send() {}
    close() {}
    constructor() {
        super();
        setTimeout(() => {
            const event = new CloseEvent("close", JSON.parse(sessionStorage.ending));
            this.dispatchEvent(new Event("open"));
            this.dispatchEvent(event);
            this.onclose(event); // last: it is set last
        });
    }
};
"""


def test_every_end_is_explained_and_retried_where_that_helps(demo: Demo, page: Page) -> None:
    sign_in(page, demo.viewer_url)
    connected(page)
    page.add_init_script(CLOSING_SOCKET)
    reason = "<img src=x onerror=alert(1)>"
    for code in CloseCode:
        ending = json.dumps({"code": code, "reason": reason})
        page.evaluate("ending => { sessionStorage.ending = ending }", ending)
        page.reload()
        phase = "waiting" if code in RETRIED else "ended"
        expect(page.locator("body"), code.name).to_have_attribute("data-phase", phase)
        expect(page.get_by_text(reason), code.name).to_be_visible()
        expect(page.locator("#overlay img")).to_have_count(0)


def test_the_toolbar_gets_out_of_the_way(page: Page, desktop: XServer) -> None:
    toolbar = page.get_by_role("toolbar")
    page.mouse.move(*INSIDE_THE_TERMINAL)
    expect(toolbar).not_to_be_in_viewport()
    page.mouse.move(640, 4)
    expect(toolbar).to_be_in_viewport()


def test_two_viewers_do_not_disturb_each_other(
    demo: Demo, page: Page, display: XDisplay, tmp_path: Path
) -> None:
    second = page.context.new_page()
    second.goto(demo.page_url)
    connected(second)
    until(lambda: differing_pixels(second, display.picture()) < 100, "the second viewer's picture")
    second.close()
    file = tmp_path / "line"
    type_line(page, f"echo still here > '{file}'")
    until(file.exists, "a line typed by the viewer that stayed")


def test_disconnecting_and_coming_back(page: Page, desktop: XServer) -> None:
    press(page, "Disconnect")
    shows(page, "Disconnected")
    page.get_by_role("button", name="Reconnect").last.click()
    connected(page)


def test_a_link_asks_first_and_tells_whom_it_replaces(
    environment: dict[str, str], page: Page
) -> None:
    first = run(environment, "token", "create", "--user", "ann", "--link")
    second = run(environment, "token", "create", "--user", "<b>bob</b>", "--link")
    with server(environment):
        for _ in range(2):  # looking spends nothing
            page.goto(first)
            shows(page, "Sign in as ann")
            assert page.context.cookies() == []
        sign_in(page, first)
        shows(page, "Your desktops")
        page.goto(second)
        shows(page, "Sign in as <b>bob</b>")
        expect(page.get_by_text("This browser is signed in as ann")).to_be_visible()
        sign_in(page, second)
        shows(page, "Your desktops")
        users = [line.split()[1] for line in run(environment, "token", "list").splitlines()[1:]]
        assert users == ["<b>bob</b>"]


def test_another_sites_page_presses_no_button(environment: dict[str, str], page: Page) -> None:
    link = run(environment, "token", "create", "--user", "ann", "--link")
    with server(environment):
        # A page of another origin, whose form is sent by itself.
        evil = (
            f"<form method=post action='{link}'></form><script>document.forms[0].submit()</script>"
        )
        page.route(
            "http://evil.example/", lambda route: route.fulfill(body=evil, content_type="text/html")
        )
        page.goto("http://evil.example/")
        shows(page, "Nobody was signed in")
        assert page.context.cookies() == []
        sign_in(page, link)
        shows(page, "Your desktops")


def test_signing_out_ends_the_desktop_of_another_tab(
    demo: Demo, page: Page, desktop: XServer
) -> None:
    home = page.context.new_page()
    # Of a list in pages all are shown.
    home.route(
        "**/api/v2/tokens", lambda route: route.continue_(url=f"{route.request.url}?limit=1")
    )
    home.goto(demo.url)
    home.get_by_text("Where you are signed in").click()
    expect(home.get_by_text("This browser")).to_be_visible()
    expect(home.get_by_text("A desktop is open at 127.0.0.1")).to_be_visible()
    # The demo's own token, as the demo's --json prints it.
    home.get_by_role("button", name="Revoke").click()
    expect(home.get_by_role("button", name="Revoke")).to_have_count(0)
    home.get_by_role("button", name="Sign out", exact=True).click()
    shows(home, "You are signed out")
    shows(page, "You are signed out")
    expect(page.locator("body")).to_have_attribute("data-phase", "ended")
    assert page.context.cookies() == []
    with demo.http() as http:
        assert http.get("/api/v2/chats").status_code == 401
