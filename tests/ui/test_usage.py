"""What keys have used, on the dashboard's page Usage, in a real browser. Who is told of whose
usage is tried by tests/api/test_usage.py."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from llamagw.gate import DAY
from llamagw.gate.usagefile import UsageFile
from tests.ui.conftest import ALPHA, BETA, ODD, Dashboard
from tests.ui.test_login import BOSS, PLAIN, SIZES, SOME, Locked, logs_in
from tests.whole.harness import CHAT, Gateway, question

#: Keys that are no longer there have used something all the same.
MANY = {f"key-{number:03}": number for number in range(1, 210)}


@pytest.fixture(scope="module")
def locked() -> Iterator[Locked]:
    gateway = Locked()
    try:
        gateway.give(PLAIN, limits={"requests_per_min": 60, "tokens_per_day": 100_000})
        today = int(time.time() // DAY)
        file = UsageFile(str(gateway.folder / "llamagw"))
        assert file.add({
            (today - 2, PLAIN, ALPHA): (3, 1000, 200),
            (today - 2, PLAIN, BETA): (1, 30, 4),
            (today - 20, PLAIN, ALPHA): (5, 50_000, 6_000),
            (today - 3, BOSS, ODD): (12_345, 12_345_678, 9_876_543),
            (today - 3, SOME, ALPHA): (2_000, 345_678, 98_765),
        })  # fmt: skip
        assert file.add({(today - 20, key, ALPHA): (1, 0, used) for key, used in MANY.items()})
        file.close()
        gateway.start()
        key = {"Authorization": f"Bearer {gateway.secrets[PLAIN]}"}
        assert gateway.ask("POST", CHAT, question(ALPHA, 8), headers=key).status == 200
        yield gateway
        gateway.stop()
    finally:
        gateway.clean_up()


def rows(page: Page, key: str) -> list[list[str]]:
    """What is shown of a key: its row, and those of its models."""
    body = page.locator("table.usage tbody", has=page.get_by_text(key, exact=True))
    lines = [line.locator("th, td").all_inner_texts() for line in body.locator("tr").all()]
    return [[" ".join(text.split()) for text in line] for line in lines]


def test_a_key_sees_what_it_has_used_by_model_and_what_it_may(
    locked: Locked, browser: Browser
) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    dashboard = Dashboard(context.new_page(), locked)
    page = dashboard.page
    logs_in(locked, page, PLAIN, "#/usage")
    expect(page.locator("table.usage tbody")).to_have_count(1)
    [[key, today, week]] = rows(page, PLAIN)
    prompt = int(today.split()[2])
    assert prompt > 0
    assert (key, today) == (PLAIN, f"1 request {prompt} + 8 tokens")
    assert week == f"5 requests {1030 + prompt:,} + 212 tokens"
    told = f"60 requests a minute · 100,000 tokens a day ({prompt + 8} used)"
    expect(page.get_by_text(f"{PLAIN} may use {told}")).to_be_visible()
    page.locator("summary").press("Enter")
    expect(page.locator("table.usage tbody tr")).to_have_count(3)
    assert rows(page, PLAIN)[1:] == [
        [ALPHA, f"1 request {prompt} + 8 tokens", f"4 requests {1000 + prompt:,} + 208 tokens"],
        [BETA, "none", "1 request 30 + 4 tokens"],
    ]
    dashboard.shot("usage-own")
    # The row is the same while it is looked at anew, and stays open.
    page.get_by_label("Days").select_option("Last 30 days")
    expect(page.locator("table.usage thead")).to_contain_text("Last 30 days")
    assert rows(page, PLAIN)[1][2] == f"9 requests {51_000 + prompt:,} + 6,208 tokens"
    page.reload()
    expect(page.locator("table.usage thead")).to_contain_text("Last 30 days")
    context.close()
    assert dashboard.faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_who_may_observe_sees_all_keys_the_greatest_use_first(
    locked: Locked, browser: Browser, scheme: str, size: str
) -> None:
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    dashboard = Dashboard(context.new_page(), locked)
    page = dashboard.page
    logs_in(locked, page, BOSS, "#/usage")
    expect(page.locator("table.usage tbody")).to_have_count(3)
    assert page.locator("summary").all_inner_texts() == [BOSS, SOME, PLAIN]
    expect(page.get_by_text(f"{BOSS} may use as much as it likes")).to_be_visible()
    for summary in page.locator("summary").all():
        summary.click()
    # A model's name is text.
    expect(page.get_by_text(ODD)).to_be_visible()
    dashboard.shot(f"usage-{size}-{scheme}")
    assert not dashboard.scrolls_sideways()
    page.get_by_label("Days").select_option("Last 30 days")
    expect(page.locator("table.usage tbody")).to_have_count(200)
    expect(page.get_by_text("and 12 more, which have used less")).to_be_visible()
    context.close()
    assert dashboard.faults == []


def test_where_there_are_no_keys_there_is_no_such_page(
    gateway: Gateway, dashboard: Dashboard
) -> None:
    page = dashboard.opens("#/usage")
    expect(page.locator(".note")).to_contain_text("There are no API keys here")
    expect(page.locator("#nav").get_by_role("link", name="Usage")).to_have_count(0)
