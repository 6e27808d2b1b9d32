"""What the tests of the dashboard share: one gateway with real engines, one real browser.

Playwright drives Debian's Chromium. While it runs, asyncio is in use in this thread: both end with
this package. Screenshots are kept in .screenshots/, to be looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.support.parts import part
from tests.whole.harness import DEADLINE, ROOT, Gateway, model

#: The models: two fit into memory at a time, and the last one can never be loaded.
ALPHA, BETA, MISSING = "alpha", "beta", "missing"
ODD = "<b>odd</b> 'n'/a-name-as-long-as-some-have-Qwen3-30B-A3B-Instruct-2507-UD-Q4_K_XL"

SHOTS = ROOT / ".screenshots"

#: That an answer was an error is logged as well, and may be meant.
ANSWER = re.compile(r"Failed to load resource: ")

expect.set_options(timeout=DEADLINE / 2 * 1000)


class Dashboard:
    """
    A page of the browser with the dashboard.

    :ivar faults: errors of scripts, and what the security policy has refused
    """

    def __init__(self, page: Page, gateway: Gateway) -> None:
        self.page = page
        self.faults: list[str] = []
        self._base = f"http://127.0.0.1:{gateway.port}"
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.faults.append(str(error)))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not ANSWER.match(message.text):
            self.faults.append(message.text)

    def opens(self, where: str = "#/models") -> Page:
        """Go to a page of the dashboard, and wait until it has asked the gateway."""
        self.page.goto(f"{self._base}/ui/{where}")
        expect(self.page.locator("#summary")).to_contain_text("loaded")
        return self.page

    def shot(self, name: str) -> Path:
        """Keep what is seen as a PNG of that name."""
        SHOTS.mkdir(exist_ok=True)
        path = SHOTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path

    def scrolls_sideways(self) -> bool:
        """Whether the page is wider than the window."""
        return bool(
            self.page.evaluate("document.scrollingElement.scrollWidth > document.body.clientWidth")
        )


@pytest.fixture(scope="package")
def gateway() -> Iterator[Gateway]:
    small = {"parallel": 2, "context_size": 512}
    gateway = Gateway(
        [
            model(ALPHA, idle_unload_sec=600, **small),
            model(BETA, **small),
            model(ODD, **small),
            model(MISSING, model_path="none.gguf"),
        ],
        max_loaded_models=2,
        capture={"models": [ODD], "requests": 5},
    )
    try:
        gateway.start()
        yield gateway
        gateway.stop()
    finally:
        gateway.clean_up()


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    path = part("chromium", "apt-get install chromium", "chromium-browser", "google-chrome")
    # Its sandbox is not for root, nor for most containers.
    options = ["--disable-gpu", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=options, chromium_sandbox=os.geteuid() != 0
        )
        yield browser
        browser.close()


@pytest.fixture
def dashboard(gateway: Gateway, browser: Browser) -> Iterator[Dashboard]:
    """In a window of its own; no script may fail in it, and the policy refuse nothing."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    dashboard = Dashboard(context.new_page(), gateway)
    yield dashboard
    context.close()
    assert dashboard.faults == []


@pytest.fixture
def nothing_loaded(gateway: Gateway) -> None:
    """No model is in memory, and none has failed."""
    for name in (ALPHA, BETA, ODD, MISSING):
        gateway.ask("POST", "/models/unload", {"model": name, "force": True})
