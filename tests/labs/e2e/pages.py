"""The viewer's page in a browser: what it shows, and where the demo's terminal is on it."""

from __future__ import annotations

from playwright.sync_api import Page, expect

# Pixels: the desktop and the browser's page have the same size.
INSIDE_THE_TERMINAL = (400, 300)
TERMINAL_COLOUR = b"\x1f\x16\x10"  # blue, green, red


def sign_in(page: Page, link: str) -> None:
    """By a one-time link, and the button of its page."""
    page.goto(link)
    page.get_by_role("button", name="Sign in").click()
    expect(page).not_to_have_url(link)


def shows(page: Page, title: str) -> None:
    expect(page.get_by_role("heading", level=1, name=title)).to_be_visible()


def connected(page: Page) -> None:
    expect(page.get_by_role("status").filter(has_text="Connected")).to_be_visible()
    expect(page.locator("#overlay")).to_be_hidden()
