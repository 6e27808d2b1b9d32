"""The page Config in a real browser: where values come from, faults at their lines, a reload."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.ui.conftest import ALPHA, Dashboard
from tests.whole.harness import Gateway


@pytest.fixture
def written(gateway: Gateway) -> Iterator[None]:
    """The file is as it was at the end."""
    yield
    gateway.write_config()
    gateway.ask("POST", "/config/reload", {})


def test_each_value_is_told_with_where_it_comes_from(dashboard: Dashboard) -> None:
    page = dashboard.opens("#/config")
    values = page.locator("table.values tbody tr")
    expect(values.filter(has_text="max_loaded_models")).to_contain_text("line 1")
    expect(values.filter(has_text="queue_timeout_sec")).to_contain_text("default")
    page.get_by_placeholder("Filter").fill("idle_unload")
    expect(values.filter(has_text=ALPHA)).to_contain_text("600")
    page.get_by_label("Values from where").select_option("default")
    expect(values.filter(has_text=ALPHA)).to_have_count(0)


def test_a_changed_text_is_checked_and_its_faults_are_shown_at_their_lines(
    gateway: Gateway, dashboard: Dashboard
) -> None:
    page = dashboard.opens("#/config")
    text = page.get_by_label("Text of the configuration")
    expect(text).to_have_value(json.dumps(gateway.config))
    pretty = json.dumps(gateway.config, indent=1)
    text.fill(pretty.replace('"max_loaded_models": 2', '"max_loaded_models": "many"'))
    page.get_by_role("button", name="Check").click()
    faults = page.locator("#faults")
    expect(faults).to_contain_text("max_loaded_models")
    line = 1 + pretty[: pretty.index("max_loaded_models")].count("\n")
    dashboard.shot("config-faults")
    faults.get_by_role("button", name=f"Line {line}").click()
    expect(text).to_be_focused()
    chosen = text.evaluate("one => one.value.slice(one.selectionStart, one.selectionEnd)")
    assert chosen.strip(" ,") == '"max_loaded_models": "many"'
    text.fill(pretty)
    page.get_by_role("button", name="Check").click()
    expect(faults).to_contain_text("No fault.")
    assert gateway.get("/config")["text"] == json.dumps(gateway.config)


@pytest.mark.usefixtures("written")
def test_a_reload_tells_what_it_has_changed_or_every_fault(
    gateway: Gateway, dashboard: Dashboard
) -> None:
    page = dashboard.opens("#/config")
    path = gateway.folder / "config.yaml"
    path.write_text(json.dumps({**gateway.config, "max_queue": "x", "swap_after_sec": "y"}))
    page.get_by_role("button", name="Reload the file").click()
    page.get_by_role("button", name="Reload", exact=True).click()
    expect(page.locator("#faults")).to_contain_text("2 faults; what was in force goes on")
    path.write_text(json.dumps({**gateway.config, "max_loaded_models": 1}))
    page.get_by_role("button", name="Reload the file").click()
    page.get_by_role("button", name="Reload", exact=True).click()
    expect(page.locator("#toasts")).to_contain_text("Reloaded")
    assert gateway.health()["max_loaded_models"] == 1
