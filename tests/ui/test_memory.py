"""The page Models where bytes are counted: who has what of each device, and a load all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import FloatRect, Locator, Page, expect

from tests.ui.conftest import Dashboard
from tests.whole.harness import Gateway, model

GIB = 2**30

#: The first one is pinned; then there is no room for the second, which alone would fit.
PINNED, WIDE = "pinned", "wide"


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    keys: dict[str, Any] = {"parallel": 1, "prompt_cache_mb": 0, "extra_args": ["--no-mmap"]}
    models = [
        model(PINNED, **keys, context_size=512),
        model(WIDE, **keys, context_size=16384),
    ]
    gateway = Gateway(models, memory={"host": "800MiB"})
    try:
        gateway.start()
        gateway.ask("POST", "/models/load", {"model": PINNED, "wait": True})
        gateway.ask("POST", "/models/pin", {"model": PINNED})
        yield gateway
        gateway.stop()
    finally:
        gateway.clean_up()


def row(page: Page, name: str) -> Locator:
    return page.locator("tbody.model").filter(has=page.get_by_text(name, exact=True))


def box(part: Locator) -> FloatRect:
    found = part.bounding_box()
    assert found is not None
    return found


def test_a_load_that_is_refused_for_want_of_memory_may_be_tried_all_the_same(
    gateway: Gateway, dashboard: Dashboard
) -> None:
    page = dashboard.opens()
    bar = page.get_by_role("region", name="Memory of host")
    expect(bar).to_contain_text("800 MiB may be used by models")
    expect(bar.get_by_role("listitem").filter(has_text=PINNED)).to_contain_text("MiB")
    expect(row(page, PINNED).locator("[data-label=Memory]")).to_contain_text("MiB, estimated")
    wide = row(page, WIDE)
    load = wide.get_by_role("button", name="Load")
    load.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("of which pinned are pinned")
    cancel = dialog.get_by_role("button", name="Cancel")
    expect(cancel).to_be_focused()
    dashboard.shot("load-anyway")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(load).to_be_focused()
    expect(wide.locator(".why")).to_contain_text("does not fit into memory")
    assert gateway.report(WIDE) is None
    page.keyboard.press("Enter")
    expect(cancel).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(wide.locator(".chip")).to_have_text("loaded")
    expect(wide.locator(".why")).to_be_hidden()
    expect(bar.get_by_role("listitem").filter(has_text=WIDE)).to_contain_text("MiB")


def account(device: str, total: int, ours: float, others: float) -> dict[str, Any]:
    """Of a device of so many GiB, with a reserve of 1; `free` as the gateway tells it."""
    free = max(total - 1 - max(others - 1, 0) - ours, 0)
    told = {"total": total, "budget": total - 1, "reserve": 1, "ours": ours, "others": others}
    sizes = {key: int(size * GIB) for key, size in {**told, "free": free}.items()}
    return {"device": device, **sizes}


def test_who_has_what_of_each_device_is_told_in_a_bar_and_in_words(dashboard: Dashboard) -> None:
    charges: dict[str, dict[str, Any]] = {
        f"model-{n}": {
            "charge": {"host": GIB, "CUDA0": (20 - n) * GIB // 4},
            "charge_from": "config",
        }
        for n in range(8)
    }
    health = {
        "status": "ok",
        "uptime_sec": 1,
        "max_loaded_models": None,
        "devices": [],
        "models": [{"id": name, "status": "loaded", **charge} for name, charge in charges.items()],
        # They share a file on the host; others have more of the GPU than is theirs.
        "memory": {"host": account("host", 16, 6, 0.5), "CUDA0": account("CUDA0", 40, 33.5, 8)},
    }
    entry = {"size": 1, "context_size": 1, "status": {"value": "loaded"}}
    data = [{"id": name, **entry, **charge} for name, charge in charges.items()]
    dashboard.page.route("**/health", lambda route: route.fulfill(json=health))
    dashboard.page.route("**/models", lambda route: route.fulfill(json={"data": data}))
    page = dashboard.opens()
    host = page.get_by_role("region", name="Memory of host").get_by_role("listitem")
    expect(host).to_have_text(
        [
            *(f"1.0 GiB model-{n}" for n in range(6)),
            "2.0 GiB 2 more",
            "9.0 GiB free",
            "512 MiB left to others",
            "512 MiB held by others",
            "15.0 GiB may be used by models",
            "2.0 GiB of files that models share, counted once",
        ]
    )
    gpu = page.get_by_role("region", name="Memory of CUDA0")
    expect(gpu.get_by_role("listitem").nth(0)).to_have_text("5.0 GiB model-0")
    expect(gpu.get_by_role("listitem").last).to_have_text(
        "1.5 GiB too much, nothing more is loaded"
    )
    expect(row(page, "model-0").locator("[data-label=Memory]")).to_have_text(
        "counted 1.0 GiB + 5.0 GiB on CUDA0, configured"
    )
    # The models have 6 of 16 GiB, and the mark stands before the reserve.
    parts = page.get_by_role("region", name="Memory of host").locator(".bar > span")
    begin, free, reserve = (box(parts.nth(number))["x"] for number in (0, 7, 8))
    width = box(page.locator(".bar").first)["width"]
    assert free - begin == pytest.approx(width * 6 / 16, abs=6)
    assert box(page.locator(".mark").first)["x"] == pytest.approx(reserve, abs=6)
    colours = parts.evaluate_all("all => all.map((one) => getComputedStyle(one).backgroundColor)")
    assert len(set(colours[:7])) == 7
    page.set_viewport_size({"width": 390, "height": 800})
    assert not dashboard.scrolls_sideways()
