"""The page Models in a real browser, on real engines: by clicks and by keyboard."""

from __future__ import annotations

import json
import os
import re
import signal

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.ui.conftest import ALPHA, BETA, MISSING, ODD, Dashboard
from tests.whole.harness import Gateway, wait_until

pytestmark = pytest.mark.usefixtures("nothing_loaded")


def row(page: Page, name: str) -> Locator:
    return page.locator("tbody.model").filter(has=page.get_by_text(name, exact=True))


def says(model: Locator, state: str) -> None:
    expect(model.locator(".chip")).to_have_text(state)


def test_a_model_is_loaded_and_unloaded_by_its_button(
    gateway: Gateway, dashboard: Dashboard
) -> None:
    page = dashboard.opens()
    odd = row(page, ODD)
    says(odd, "unloaded")
    odd.get_by_role("button", name="Load").click()
    says(odd, "loaded")
    assert gateway.report(ODD)["status"] == "loaded"
    expect(odd.locator("[data-label=Memory]")).to_contain_text("MiB")
    expect(page.locator("#summary")).to_contain_text("1 of 4 loaded")
    odd.get_by_role("button", name="Unload").click()
    says(odd, "unloaded")
    wait_until(lambda: gateway.report(ODD) is None, "it is unloaded")


def test_an_unload_that_interrupts_somebody_asks_first(
    gateway: Gateway, dashboard: Dashboard
) -> None:
    page = dashboard.opens()
    stream = gateway.stream(ALPHA, 400)
    stream.read_events(2)
    alpha = row(page, ALPHA)
    expect(alpha.locator("[data-label=Running]")).to_have_text("1")
    unload = alpha.get_by_role("button", name="Unload")
    unload.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("alpha is answering 1 request.")
    dashboard.shot("unload")
    for _ in range(4):
        page.keyboard.press("Tab")
        assert page.evaluate("!document.activeElement.closest('main')"), "focus left the dialog"
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(unload).to_be_focused()
    assert gateway.report(ALPHA)["in_flight"] == 1
    page.keyboard.press("Enter")
    dialog.get_by_role("button", name="Break off").click()
    says(alpha, "unloaded")
    assert b"error" in stream.rest()
    stream.leave()


def test_an_unload_may_wait_for_the_answers(gateway: Gateway, dashboard: Dashboard) -> None:
    page = dashboard.opens()
    stream = gateway.stream(ALPHA, 60)
    stream.read_events(2)
    alpha = row(page, ALPHA)
    expect(alpha.locator("[data-label=Running]")).to_have_text("1")
    alpha.get_by_role("button", name="Unload").click()
    page.get_by_role("button", name="Unload when answered").click()
    assert b"[DONE]" in stream.rest()
    says(alpha, "unloaded")
    stream.leave()


def test_a_model_is_pinned_and_the_idle_timeout_is_counted_down(
    gateway: Gateway, dashboard: Dashboard
) -> None:
    gateway.chat(ALPHA)
    page = dashboard.opens()
    alpha = row(page, ALPHA)
    expect(alpha.locator(".used")).to_contain_text(re.compile(r"unloads in (10|9) min"))
    alpha.get_by_role("button", name="Pin").click()
    expect(alpha.get_by_role("button", name="Unpin")).to_be_visible()
    expect(alpha.get_by_text("· pinned")).to_be_visible()
    assert gateway.report(ALPHA)["pinned"]
    alpha.get_by_role("button", name="Unpin").click()
    expect(alpha.get_by_text("· pinned")).to_be_hidden()
    assert not gateway.report(ALPHA).get("pinned")


def test_a_load_is_told_with_how_long_it_usually_takes(
    gateway: Gateway, dashboard: Dashboard
) -> None:
    """The engine is held up, as a big model would hold it up."""
    for _ in range(2):
        gateway.ask("POST", "/models/load", {"model": BETA, "wait": True})
        gateway.ask("POST", "/models/unload", {"model": BETA})
    page = dashboard.opens()
    beta = row(page, BETA)
    beta.get_by_role("button", name="Load").click()
    [engine] = wait_until(gateway.backends, "its engine runs")
    engine.suspend()
    try:
        expect(beta.locator(".progress")).to_contain_text("usually takes")
        expect(beta.get_by_role("progressbar")).to_be_visible()
        dashboard.shot("loading")
    finally:
        engine.resume()
    says(beta, "loaded")


def test_why_a_model_cannot_be_loaded_is_told(dashboard: Dashboard) -> None:
    page = dashboard.opens()
    missing = row(page, MISSING)
    missing.get_by_role("button", name="Load").click()
    expect(missing.locator(".why")).to_contain_text("there is no file")


def test_a_crash_is_shown(gateway: Gateway, dashboard: Dashboard) -> None:
    gateway.chat(BETA)
    page = dashboard.opens()
    beta = row(page, BETA)
    says(beta, "loaded")
    os.kill(gateway.backend().pid, signal.SIGKILL)
    expect(beta.locator(".why")).to_contain_text("SIGKILL")
    dashboard.shot("crash")


def test_who_waits_is_told_for_what(gateway: Gateway, dashboard: Dashboard) -> None:
    page = dashboard.opens()
    busy = [gateway.stream(name, 400) for name in (ALPHA, BETA)]
    for stream in busy:
        stream.read_events(2)
    third = gateway.stream(ODD, 4)
    expect(row(page, ODD).locator(".note")).to_contain_text("1 request waits")
    dashboard.shot("waits")
    for stream in [*busy, third]:
        stream.leave()


def test_the_curl_on_the_page_is_one(gateway: Gateway, dashboard: Dashboard) -> None:
    page = dashboard.opens()
    page.get_by_text("Use them from a program").click()
    page.get_by_label("Model of the request").select_option(ODD)
    command = page.locator("#curl").inner_text()
    result = gateway.run(["sh", "-c", command.replace("curl ", "curl -s ", 1)])
    assert json.loads(result.stdout)["model"] == ODD
    page.get_by_text("All endpoints").click()
    expect(page.get_by_role("cell", name="/v1/messages", exact=True)).to_be_visible()


def test_five_thousand_models_do_not_freeze_it(dashboard: Dashboard) -> None:
    entry = {"size": 1, "context_size": 1, "status": {"value": "unloaded"}}
    data = [{"id": f"model-{n}", **entry} for n in range(5000)]

    def many(route: Route) -> None:
        route.fulfill(json={"data": data})

    dashboard.page.route("**/models", many)
    page = dashboard.opens()
    expect(page.locator("tbody.model")).to_have_count(200)
    expect(page.get_by_text("and 4,800 more")).to_be_visible()
    page.get_by_placeholder("Filter").fill("model-4999")
    expect(page.locator("tbody.model")).to_have_count(1)


def test_an_engine_s_page_comes_when_the_offer_to_load_it_is_taken_and_not_after_it_is_gone(
    gateway: Gateway, dashboard: Dashboard
) -> None:
    page = dashboard.opens()
    for _ in range(2):
        row(page, ODD).get_by_role("link", name="Engine's page").click()
        expect(page.locator("h1")).to_have_text(ODD)
        assert dashboard.faults == []
        page.get_by_role("button", name="Load it").click()
        expect(page).to_have_title("llama-ui")
        dashboard.faults.clear()  # the engine's own page misses its service worker
        gateway.ask("POST", "/models/unload", {"model": ODD})
        page = dashboard.opens()
        dashboard.faults.clear()
