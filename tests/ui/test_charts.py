"""The page Charts in a real browser: what the gateway has counted is drawn, and said."""

from __future__ import annotations

from playwright.sync_api import Route, expect

from tests.ui.conftest import ALPHA, Dashboard
from tests.whole.harness import Gateway

TITLES = ("Requests", "Tokens", "Time to first byte", "Queue", "Memory", "Models")


def test_what_has_happened_is_drawn_and_said(dashboard: Dashboard) -> None:
    """The figures are made up: a gateway has its first sample after ten seconds."""
    steps = 90
    ramp = [None] * 30 + [float(number) for number in range(60)]
    keys = (
        "requests tokens_per_sec prompt_tokens_per_sec first_byte_p50 first_byte_p95 in_flight "
        "waiting loaded memory_bytes swaps errors"
    )
    series = dict.fromkeys(keys.split(), ramp)
    answer = {
        "step": 10,
        "end": 1_800_000_000,
        "series": series,
        "models": {ALPHA: {"requests": [1.0] * steps, "tokens_per_sec": [2.0] * steps}},
    }

    def told(route: Route) -> None:
        route.fulfill(json=answer)

    dashboard.page.route("**/history?*", told)
    page = dashboard.opens("#/charts")
    for title in TITLES:
        chart = page.get_by_role("region", name=title, exact=True)
        expect(chart.locator("canvas")).to_be_visible()
        painted = chart.locator("canvas").evaluate(
            "it => it.getContext('2d').getImageData(0, 0, it.width, it.height).data.some(Boolean)"
        )
        assert painted, title
    expect(page.get_by_role("region", name="Tokens")).to_contain_text("generated 59")
    page.get_by_label("Requests and tokens of which model").select_option(ALPHA)
    expect(page.get_by_role("region", name="Requests")).to_contain_text("· alpha")
    expect(page.get_by_role("region", name="Requests")).to_contain_text("all 6.0")
    page.get_by_role("button", name="24 h").click()
    expect(page.get_by_role("button", name="24 h")).to_have_attribute("aria-pressed", "true")
    dashboard.shot("charts-made-up")
    page.reload()
    expect(page.get_by_role("button", name="24 h")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("region", name="Requests")).to_contain_text("· alpha")


def test_the_gateway_s_own_history_is_asked_for(gateway: Gateway, dashboard: Dashboard) -> None:
    with dashboard.page.expect_response("**/history?minutes=60") as found:
        dashboard.opens("#/charts?minutes=60")
    assert found.value.status == 200
    expect(dashboard.page.locator(".chart canvas")).to_have_count(len(TITLES))
