"""The page Logs in a real browser, on what real engines print."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from tests.ui.conftest import ALPHA, BETA, Dashboard
from tests.whole.harness import Gateway

pytestmark = pytest.mark.usefixtures("nothing_loaded")


def test_the_log_of_a_model_is_followed_and_searched(
    gateway: Gateway, dashboard: Dashboard
) -> None:
    page = dashboard.opens(f"#/logs?model={ALPHA}")
    lines = page.locator(".lines li")
    gateway.chat(ALPHA)
    found = lines.filter(has_text="llama_server: listening")
    expect(found.last).to_be_attached()
    total, fitting = lines.count(), found.count()
    page.get_by_placeholder("Search").fill("LLAMA_server: listen")
    expect(lines).to_have_count(fitting)
    expect(lines.locator("mark").first).to_have_text("llama_server: listen")
    dashboard.shot("logs-search")
    page.get_by_placeholder("Search").fill("")
    assert lines.count() >= total > fitting
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download").click()
    assert saved.value.suggested_filename == "alpha.log"
    assert "llama_server: listening" in Path(saved.value.path()).read_text()


def test_all_logs_come_in_one_stream_each_line_with_its_model(
    gateway: Gateway, dashboard: Dashboard
) -> None:
    gateway.chat(ALPHA)
    page = dashboard.opens("#/logs")
    names = page.locator(".lines li b")
    expect(names.get_by_text(ALPHA).last).to_be_attached()
    page.get_by_role("button", name="Pause").click()
    before = names.get_by_text(BETA).count()
    gateway.chat(BETA)
    expect(page.get_by_role("status").filter(has_text="more have come")).to_be_visible()
    assert names.get_by_text(BETA).count() == before
    page.get_by_role("button", name="Go on").click()
    expect(names.get_by_text(BETA).nth(before)).to_be_attached()


def test_a_stream_that_was_lost_goes_on_without_doubles(dashboard: Dashboard) -> None:
    bodies = [
        "".join(f"line {number}\n" for number in range(first, first + 200))
        for first in (1, 101, 2000)
    ]

    def answer(route: Route) -> None:
        body = bodies.pop(0) if len(bodies) > 1 else bodies[0]
        route.fulfill(body=body, content_type="text/plain")

    dashboard.page.route("**/models/logs?*", answer)
    page = dashboard.opens(f"#/logs?model={ALPHA}")
    lines = page.locator(".lines li")
    expect(lines).to_have_count(501)
    expect(lines.nth(200)).to_have_text("line 201")
    expect(lines.nth(299)).to_have_text("line 300")
    expect(lines.nth(300)).to_contain_text("may be missing")
    expect(lines.nth(301)).to_have_text("line 2000")
