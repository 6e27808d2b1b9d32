"""Logging in to the dashboard in a real browser, where keys are wanted: by hand, out again, what a
key sees that may not do all. What is refused at all is tried by tests/api/test_login.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from llamagw.gate import digest_of, new_secret
from tests.ui.conftest import ALPHA, BETA, Dashboard
from tests.whole.harness import Gateway, model, wait_until

BOSS, SOME, PLAIN = "boss", "some-of-the-office-on-the-second-floor", "plain"
SIZES = {"wide": (1280, 800), "phone": (390, 844)}


class Locked(Gateway):
    """
    A gateway that wants keys.

    :ivar secrets: of its keys, by their names
    """

    def __init__(self) -> None:
        small = {"parallel": 2, "context_size": 512}
        super().__init__(
            [model(ALPHA, **small), model(BETA, **small)],
            max_loaded_models=2,
            keys_file="keys.yaml",
        )
        self.secrets = {name: new_secret() for name in (BOSS, SOME, PLAIN)}
        self.entries: dict[str, dict[str, Any]] = {}
        self.give(BOSS, scopes=["infer", "observe", "manage"])
        self.give(SOME, scopes=["infer", "observe"], models=[ALPHA])
        self.give(PLAIN)

    @property
    def keys_file(self) -> Path:
        return self.folder / "keys.yaml"

    def give(self, name: str, **more: Any) -> None:
        """Write a key to the file, which a gateway that runs reads within seconds."""
        own = {"name": name, "hash": digest_of(self.secrets[name].encode()), **more}
        self.entries[name] = own
        self._write()

    def take(self, name: str) -> None:
        """Remove a key from the file."""
        del self.entries[name]
        self._write()

    def _write(self) -> None:
        new = self.folder / "keys.new"
        new.touch(mode=0o600)
        new.write_text(json.dumps({"keys": [*self.entries.values()]}))
        new.replace(self.keys_file)

    def knows(self, name: str) -> bool:
        """Whether a key is valid."""
        key = {"Authorization": f"Bearer {self.secrets[name]}"}
        return self.ask("GET", "/models", headers=key).status == 200


@pytest.fixture(scope="module")
def locked() -> Iterator[Locked]:
    gateway = Locked()
    try:
        gateway.start()
        yield gateway
        gateway.stop()
    finally:
        gateway.clean_up()


@pytest.fixture(scope="module")
def gateway(locked: Locked) -> Locked:
    """The one that the dashboard is of."""
    return locked


def goes(locked: Locked, page: Page, where: str = "#/models") -> None:
    """Go to a page of the dashboard, where nobody is logged in."""
    page.goto(f"http://127.0.0.1:{locked.port}/ui/{where}")
    expect(page.get_by_label("API key")).to_be_focused()


def logs_in(locked: Locked, page: Page, name: str, where: str = "#/models") -> None:
    goes(locked, page, where)
    page.keyboard.type(locked.secrets[name])
    page.keyboard.press("Enter")
    expect(page.locator("#who b")).to_have_text(name)


def pages(page: Page) -> list[str]:
    return page.locator("#nav a").all_text_contents()


def turns(page: Page, title: str) -> None:
    page.locator("#nav").get_by_role("link", name=title).click()


def test_who_logs_in_by_keyboard_gets_the_page_that_was_asked_for_and_may_use_it(
    locked: Locked, dashboard: Dashboard
) -> None:
    page = dashboard.page
    goes(locked, page, "#/config")
    assert page.locator("#main").inner_text() == ""
    for _ in range(2):
        page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_label("API key").fill("lgw_typo")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("mistyped or cut")
    page.get_by_label("API key").fill(locked.secrets[BOSS])
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Config")
    expect(page.locator("table.values tbody tr").first).to_be_visible()
    assert page.url.endswith("/ui/#/config")
    [cookie] = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert page.evaluate("document.cookie") == ""
    # What changes something goes with the token, a chat too.
    turns(page, "Models")
    alpha = page.locator("tbody.model", has_text=ALPHA)
    alpha.get_by_role("button", name="Load").click()
    expect(alpha.locator(".chip")).to_have_text("loaded")
    turns(page, "Playground")
    page.get_by_label("Message").fill("Say hello.")
    page.keyboard.press("Enter")
    expect(page.locator(".play")).to_contain_text("tokens/s")
    turns(page, "Activity")
    expect(page.locator("tr.request").first).to_contain_text(ALPHA)
    turns(page, "Charts")
    expect(page.locator(".chart canvas").first).to_be_visible()
    page.reload()
    expect(page.locator("#who b")).to_have_text(BOSS)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("API key")).to_be_focused()
    assert page.context.cookies() == []


def test_a_key_that_is_taken_away_ends_the_session_and_what_was_written_stays(
    locked: Locked, dashboard: Dashboard
) -> None:
    page = dashboard.page
    logs_in(locked, page, PLAIN, "#/playground")
    page.get_by_label("Message").fill("A long text")
    locked.take(PLAIN)
    expect(page.get_by_role("alert")).to_contain_text("log in again")
    dashboard.shot("login-ended")
    locked.give(PLAIN)
    wait_until(lambda: locked.knows(PLAIN), "the file of keys is read again")
    page.get_by_label("API key").fill(locked.secrets[PLAIN])
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_label("Message")).to_have_value("A long text")
    expect(page.locator("#summary")).to_contain_text("of 2 loaded")


def test_a_key_sees_what_it_may_and_is_told_what_it_may_not(
    locked: Locked, dashboard: Dashboard
) -> None:
    page = dashboard.page
    logs_in(locked, page, SOME)
    assert pages(page) == ["Models", "Activity", "Charts", "Logs", "Playground", "Usage", "Config"]
    expect(page.locator("tbody.model")).to_have_count(1)
    expect(page.locator("tbody.model .actions button")).to_have_count(0)
    for name in ("charts", "config"):
        page.goto(f"http://127.0.0.1:{locked.port}/ui/#/{name}")
        expect(page.locator(".note")).to_contain_text(f"is for {ALPHA}")
    turns(page, "Logs")
    expect(page.get_by_label("Model")).to_have_value(ALPHA)
    turns(page, "Activity")
    expect(page.locator("[role=status].quiet")).to_contain_text("ended ones only")
    assert page.locator("#banner-text").inner_text() == ""


def test_a_key_for_models_alone_has_their_list_and_the_playground(
    locked: Locked, dashboard: Dashboard
) -> None:
    page = dashboard.page
    logs_in(locked, page, PLAIN)
    expect(page.locator("tbody.model")).to_have_count(2)
    assert pages(page) == ["Models", "Playground", "Usage"]
    page.goto(f"http://127.0.0.1:{locked.port}/ui/#/logs")
    expect(page.locator(".note")).to_contain_text("has not the right to observe")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_fits_in_a_window_and_on_a_phone_dark_and_light(
    locked: Locked, browser: Browser, scheme: str, size: str
) -> None:
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    dashboard = Dashboard(context.new_page(), locked)
    page = dashboard.page
    goes(locked, page)
    dashboard.shot(f"login-{size}-{scheme}")
    assert not dashboard.scrolls_sideways()
    page.get_by_label("API key").fill("sk-1")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("lgw_")
    dashboard.shot(f"login-wrong-{size}-{scheme}")
    page.get_by_label("API key").fill(locked.secrets[SOME])
    page.keyboard.press("Enter")
    expect(page.locator("#summary")).to_contain_text("loaded")
    dashboard.shot(f"logged-in-{size}-{scheme}")
    assert not dashboard.scrolls_sideways()
    context.close()
    assert dashboard.faults == []
