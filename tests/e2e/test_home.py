"""The list of chats in a browser, where there are more than one answer has."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect

from api.http.pages import LISTED_LIMIT
from tests.labs.e2e.commands import started
from tests.labs.e2e.pages import sign_in


def test_more_chats_than_one_answer_has(tmp_path: Path, page: Page) -> None:
    with started(tmp_path, "pattern") as demo:
        with demo.http() as http:
            for number in range(LISTED_LIMIT):
                http.post("/api/v2/chats", json={"title": f"Chat {number}"}).raise_for_status()
        sign_in(page, demo.viewer_url)
        page.goto(f"{demo.url}/")
        chats = page.locator("#chats li")
        more = page.get_by_role("button", name="More")
        expect(chats).to_have_count(LISTED_LIMIT)
        expect(chats.first).to_have_text(f"Chat {LISTED_LIMIT - 1}")
        more.click()
        # The demo's own, the oldest.
        expect(chats).to_have_count(LISTED_LIMIT + 1)
        expect(more).to_be_hidden()
        addresses = chats.locator("a").evaluate_all("links => links.map((link) => link.href)")
        assert len(set(addresses)) == LISTED_LIMIT + 1
        assert addresses[-1] == demo.page_url


def test_a_page_that_cannot_be_had_keeps_what_is_there(tmp_path: Path, page: Page) -> None:
    with started(tmp_path, "pattern") as demo:
        with demo.http() as http:
            for _ in range(LISTED_LIMIT):
                http.post("/api/v2/chats", json={}).raise_for_status()
        sign_in(page, demo.viewer_url)
        page.goto(f"{demo.url}/")
        more = page.get_by_role("button", name="More")
        expect(more).to_be_enabled()
        page.route("**/api/v2/chats*", lambda route: route.abort())
        more.click()
        expect(page.get_by_text("The server cannot be reached")).to_be_visible()
        expect(page.locator("#chats li")).to_have_count(LISTED_LIMIT)
        page.unroute("**/api/v2/chats*")
        more.click()
        expect(page.locator("#chats li")).to_have_count(LISTED_LIMIT + 1)
        expect(page.get_by_text("The server cannot be reached")).to_be_hidden()
