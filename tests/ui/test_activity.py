"""The page Activity in a real browser: requests that wait, are answered, end; and hundreds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.ui.conftest import ALPHA, BETA, ODD, Dashboard
from tests.whole.harness import CHAT, Gateway, in_threads, question

pytestmark = pytest.mark.usefixtures("nothing_loaded")


def rows(page: Page, model: str) -> Locator:
    cell = page.locator("td.model").get_by_text(model, exact=True)
    return page.locator("tr.request").filter(has=cell)


def test_a_request_is_seen_to_be_answered_and_cancelled_by_keyboard(
    gateway: Gateway, dashboard: Dashboard
) -> None:
    page = dashboard.opens("#/activity")
    stream = gateway.stream(ALPHA, 400)
    stream.read_events(2)
    live = rows(page, ALPHA).first
    expect(live.locator(".chip")).to_have_text("answering")
    live.get_by_role("button", name="Cancel").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("alpha")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(live.locator(".chip")).to_have_text("answering")
    page.keyboard.press("Enter")
    dialog.get_by_role("button", name="Cancel the request").click()
    expect(rows(page, ALPHA).first.locator(".chip")).to_have_text("cancelled")
    assert b"cancelled" in stream.rest()
    stream.leave()


def test_who_waits_is_seen_with_its_place_and_for_what(
    gateway: Gateway, dashboard: Dashboard
) -> None:
    page = dashboard.opens("#/activity")
    busy = [gateway.stream(name, 400) for name in (ALPHA, BETA)]
    for stream in busy:
        stream.read_events(2)
    third = gateway.stream(ODD, 4)
    waits = rows(page, ODD).first
    expect(waits.locator(".chip")).to_have_text("waiting · 1")
    expect(waits.locator(".what")).to_contain_text("room")
    waits.locator(".when button").click()
    expect(page.locator(".waterfall")).to_contain_text("queue")
    dashboard.shot("activity-waits")
    page.get_by_label("State").select_option("waiting")
    expect(page.locator("tr.request")).to_have_count(1)
    for stream in [*busy, third]:
        stream.leave()


def test_one_request_in_full_says_where_its_time_went(
    gateway: Gateway, dashboard: Dashboard
) -> None:
    body = question(ALPHA, 6, stream=True)
    reply = gateway.ask("POST", CHAT, body, headers={"X-Request-Id": "who/me:1"})
    assert reply.status == 200
    page = dashboard.opens("#/activity?text=who/me:1")
    page.locator("tr.request .when button").first.click()
    parts = page.locator(".waterfall li")
    expect(parts.locator("b")).to_have_text(["load", "prefill", "generation"])
    expect(parts.last).to_contain_text("6 tokens")
    expect(parts.last).to_contain_text("tokens/s")
    expect(page.locator(".facts")).to_contain_text("POST /v1/chat/completions, as a stream")
    expect(page.locator("tr.request")).to_have_count(1)
    page.locator("tr.request .when button[aria-expanded=true]").click()
    expect(page.locator(".detail")).to_have_count(0)


def test_what_was_asked_is_looked_at_and_repeated_in_the_playground(
    gateway: Gateway, dashboard: Dashboard
) -> None:
    said = [{"role": "system", "content": "Be <i>brief</i>."}, *question(ODD, 1)["messages"]]
    body = question(ODD, 3, messages=said, temperature=0.5, top_k=7)
    reply = gateway.ask("POST", CHAT, body, headers={"X-Request-Id": "kept/1"})
    page = dashboard.opens("#/activity?text=kept/1")
    page.locator("tr.request .when button").first.click()
    expect(page.get_by_label("Request", exact=True)).to_contain_text("Be <i>brief</i>.")
    expect(page.get_by_label("Answer", exact=True)).to_contain_text(reply.json()["id"])
    dashboard.shot("activity-captured")
    page.set_viewport_size({"width": 390, "height": 844})
    assert not dashboard.scrolls_sideways()
    page.get_by_role("link", name="Repeat").click()
    expect(page.get_by_label("Message")).to_have_value("Tell me a story about a river.")
    expect(page.get_by_label("System prompt")).to_have_value("Be <i>brief</i>.")
    expect(page.get_by_label("temperature")).to_have_value("0.5")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.get_by_role("button", name="Send").click()
    again = json.loads(sent.value.post_data or "")
    assert {key: again[key] for key in body} == body


def test_a_request_that_failed_says_why(gateway: Gateway, dashboard: Dashboard) -> None:
    gateway.chat("nobody")
    page = dashboard.opens("#/activity?state=wrong&text=nobody")
    failed = rows(page, "nobody").first
    expect(failed.locator(".chip")).to_have_text("refused · 404")
    expect(failed.locator(".what")).to_contain_text("does not exist")
    page.get_by_placeholder("Filter").fill("nothing that fits")
    expect(page.get_by_text("No request fits.")).to_be_visible()


def test_what_is_paused_stays_as_it_is(gateway: Gateway, dashboard: Dashboard) -> None:
    page = dashboard.opens("#/activity")
    before = rows(page, "not-yet").count()
    page.get_by_role("button", name="Pause").click()
    in_threads(*[lambda: gateway.chat("not-yet")] * 3)
    expect(page.get_by_text("3 more ended while paused")).to_be_visible()
    assert rows(page, "not-yet").count() == before
    page.get_by_role("button", name="Go on").click()
    expect(rows(page, "not-yet")).to_have_count(before + 3)


def test_a_thousand_requests_do_not_freeze_it(dashboard: Dashboard) -> None:
    def live(number: int) -> dict[str, Any]:
        return {**told(number), "state": "answering", "position": None, "elapsed_sec": 1.0}

    def told(number: int) -> dict[str, Any]:
        one = {"client": "127.0.0.1", "method": "POST", "path": CHAT, "stream": True}
        one |= {"model": ALPHA, "asked": ALPHA, "status": 200, "outcome": "ok", "total_sec": 1.0}
        return {**one, "id": f"r-{number}", "time": 1.7e9 + number, "bytes_out": 10}

    events: list[dict[str, Any]] = [
        {
            "event": "snapshot",
            "now": [live(number) for number in range(2000, 2200)],
            "last": [told(number) for number in range(1000)],
        },
        *({"event": "ended", "request": told(number)} for number in range(3000, 3500)),
    ]

    def answer(route: Route) -> None:
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        route.fulfill(body=body, content_type="text/event-stream")

    dashboard.page.route("**/activity/sse", answer)
    page = dashboard.opens("#/activity")
    expect(page.locator("tr.request")).to_have_count(400)
    page.get_by_role("button", name="Show 200 more").click()
    expect(page.locator("tr.request")).to_have_count(600)
    page.get_by_placeholder("Filter").fill("r-3499")
    expect(page.locator("tr.request")).to_have_count(1)
