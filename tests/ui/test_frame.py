"""The dashboard's frame in a real browser: each page opens, by keyboard and on a phone too, and a
gateway that restarts is shown as such."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.ui.conftest import ALPHA, BETA, Dashboard
from tests.whole.harness import Gateway

PAGES = ("models", "activity", "charts", "logs", "playground", "config")
#: What a page has when the gateway has answered it.
ANSWERED = {
    "models": "tbody.model",
    "charts": ".chart canvas",
    "config": "table.values tbody tr",
}
SIZES = {"wide": (1280, 800), "phone": (390, 844)}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_each_page_opens_without_an_error_and_does_not_scroll_sideways(
    gateway: Gateway, browser: Browser, scheme: str, size: str
) -> None:
    for name in (ALPHA, BETA):
        assert gateway.chat(name).status == 200
    gateway.ask("POST", "/models/load", {"model": "missing", "wait": True})
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    dashboard = Dashboard(context.new_page(), gateway)
    for name in PAGES:
        page = dashboard.opens(f"#/{name}")
        expect(page.locator("h1")).to_have_text(name.capitalize())
        assert page.title() == f"{name.capitalize()} – llamagw"
        page.wait_for_selector(ANSWERED.get(name, "h1"), state="attached")
        dashboard.shot(f"{name}-{size}-{scheme}")
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        assert not dashboard.scrolls_sideways(), name
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(map(int, back.strip("rgb()").split(","))) < 3 * 128
    assert dark is (scheme == "dark")
    context.close()
    assert dashboard.faults == []


def test_all_of_it_can_be_reached_by_keyboard(dashboard: Dashboard) -> None:
    page = dashboard.opens()
    page.keyboard.press("Tab")
    expect(page.locator("#skip")).to_be_focused()
    assert page.locator("#skip").bounding_box()["y"] >= 0  # type: ignore[index]
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.locator("#skip").focus()
    reached = []
    for _ in range(2 + len(PAGES)):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.getAttribute('href')"))
        assert outlined(page)
    assert reached[1:7] == [f"#/{name}" for name in PAGES]
    page.locator("nav a", has_text="Charts").focus()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Charts")
    expect(page.locator("#main")).to_be_focused()


def outlined(page: Page) -> bool:
    """Whether what has the focus is seen to have it."""
    return bool(page.evaluate("getComputedStyle(document.activeElement).outlineStyle !== 'none'"))


def test_nothing_moves_where_that_is_not_wanted(dashboard: Dashboard) -> None:
    page = dashboard.page
    page.emulate_media(reduced_motion="reduce")
    dashboard.opens()
    page.evaluate("document.querySelector('.chip').dataset.state = 'loading'")
    moves = "getComputedStyle(document.querySelector('.chip'), '::before').animationName"
    assert page.evaluate(moves) == "none"
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(moves) == "pulse"


def test_a_gateway_that_restarts_is_shown_as_such_and_comes_back_by_itself(
    gateway: Gateway, dashboard: Dashboard
) -> None:
    gateway.chat(ALPHA)
    page = dashboard.opens()
    alpha = page.locator("tbody.model", has_text=ALPHA)
    expect(alpha.locator(".chip")).to_have_text("loaded")
    gateway.terminate()
    assert gateway.wait() == 0
    expect(page.locator("#banner")).to_contain_text("does not answer. Trying again…")
    dashboard.shot("restart")
    gateway.start()
    expect(page.locator("#banner")).to_contain_text("The gateway is back.")
    expect(alpha.locator(".chip")).to_have_text("unloaded")
    expect(page.locator("#banner-text")).to_be_empty()
