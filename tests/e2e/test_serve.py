"""The server for real use: settings, commands, store, and a browser that outlives it."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.labs.e2e.commands import run, server
from tests.labs.e2e.pages import connected, shows, sign_in


def test_a_browser_finds_its_desktop_again_after_a_restart(
    environment: dict[str, str], page: Page
) -> None:
    link = run(environment, "token", "create", "--user", "ann", "--link")
    run(environment, "workspace", "add", "box", "--user", "ann", "--desktop", "pattern")
    run(environment, "chat", "create", "--user", "ann", "--title", "Work", "--workspace", "box")
    with server(environment):
        sign_in(page, link)
        page.get_by_role("link", name="Work").click()
        connected(page)
        again = page.context.new_page()
        answer = again.goto(link)
        assert answer is not None
        assert answer.status == 410
        shows(again, "This link cannot be used")
        again.close()
    shows(page, "The server cannot be reached")
    with server(environment):
        connected(page)  # by itself


def test_one_desktop_too_many_is_called_that(environment: dict[str, str], page: Page) -> None:
    environment |= {"DESKRELAY_BUDGETS__SESSIONS_PER_USER": "1"}
    link = run(environment, "token", "create", "--user", "ann", "--link")
    run(environment, "workspace", "add", "box", "--user", "ann", "--desktop", "pattern")
    run(environment, "chat", "create", "--user", "ann", "--title", "Work", "--workspace", "box")
    with server(environment):
        sign_in(page, link)
        page.get_by_role("link", name="Work").click()
        connected(page)
        second = page.context.new_page()
        second.goto(page.url)
        shows(second, "The desktop could not be opened")
        expect(second.get_by_text("too many desktops may be open")).to_be_visible()
        page.close()
        connected(second)  # by itself


def test_long_names_fit_a_narrow_screen(environment: dict[str, str], page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    name, title = "w" * 64, "W" * 256
    link = run(environment, "token", "create", "--user", name, "--link")
    run(environment, "workspace", "add", "box", "--user", name, "--desktop", "pattern")
    run(environment, "chat", "create", "--user", name, "--title", title, "--workspace", "box")
    with server(environment):
        page.goto(link)
        shows(page, f"Sign in as {name}")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        sign_in(page, link)
        expect(page.get_by_role("link", name=title)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.get_by_role("link", name=title).click()
        connected(page)
    shows(page, "The server cannot be reached")
    state = page.locator(".state").evaluate("(it) => [it.clientWidth, it.scrollWidth]")
    assert state[0] >= state[1]  # its words are not over the buttons
