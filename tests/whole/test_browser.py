"""The pages as a real browser shows them: models are loaded and unloaded by their buttons."""

from __future__ import annotations

import json
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.support.parts import part
from tests.whole.harness import DEADLINE, Gateway, model, wait_until

BROWSER = part("chromium", "apt-get install chromium", "chromium-browser", "google-chrome")

NAME = "<b>a</b> 'b'/c"


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    small = {"parallel": 1, "context_size": 256}
    gateway = Gateway(
        [model(NAME, **small), model("missing", model_path="none.gguf")], max_loaded_models=1
    )
    try:
        gateway.start()
        yield gateway
        gateway.stop()
    finally:
        gateway.clean_up()


class Tab:
    """
    A page of a browser without a window, driven by Chromium's DevTools protocol.

    :ivar told: the errors that it logged, by its security policy among them
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        self.told: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self._do(f"{domain}.enable")

    def _do(self, method: str, **params: Any) -> Any:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv(timeout=DEADLINE))
            if answer.get("id") == self._number:
                return answer.get("result", {})
            if answer.get("method") == "Runtime.exceptionThrown":
                self.told.append(json.dumps(answer["params"]))
            elif answer.get("method") == "Log.entryAdded":
                entry = answer["params"]["entry"]
                # That an answer was an error is logged as well, and may be meant.
                if entry["level"] == "error" and entry["source"] != "network":
                    self.told.append(entry["text"])

    def goes_to(self, url: str) -> None:
        self._do("Page.navigate", url=url)

    def says(self, expression: str) -> Any:
        """The value of an expression of JavaScript; None where it fails, as on a page's way."""
        return self._do("Runtime.evaluate", expression=expression).get("result", {}).get("value")

    def clicks(self, selector: str) -> None:
        self.says(f"document.querySelector({json.dumps(selector)}).click()")

    def waits_for(self, words: str, selector: str = "body") -> None:
        text = f"document.querySelector({json.dumps(selector)})?.innerText"
        wait_until(lambda: words in str(self.says(text)), f"{words!r} in {selector}")


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    # Its profile is still written to while its last processes end.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [BROWSER, *options, "--remote-debugging-port=0", f"--user-data-dir={folder}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = wait_until(lambda: _port(Path(folder)), "the browser listens")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=DEADLINE) as pages:
                [page] = [page for page in json.load(pages) if page["type"] == "page"]
            address = page["webSocketDebuggerUrl"]
            with connect(address, open_timeout=DEADLINE, max_size=None) as socket:
                yield Tab(socket)
        finally:
            process.terminate()
            process.wait(DEADLINE)


def _port(folder: Path) -> str | None:
    path = folder / "DevToolsActivePort"
    lines = path.read_text().splitlines() if path.exists() else []
    return lines[0] if len(lines) > 1 else None


def test_a_model_is_loaded_and_unloaded_by_its_button(gateway: Gateway, tab: Tab) -> None:
    tab.goes_to(f"http://127.0.0.1:{gateway.port}/")
    tab.waits_for(NAME, ".model .name")
    tab.clicks(".model button")
    tab.waits_for("loaded", "[data-state=loaded] .state")
    assert gateway.report(NAME)["status"] == "loaded"
    tab.clicks(".model button")
    tab.waits_for("unloaded", "[data-state=unloaded] .state")
    wait_until(lambda: gateway.report(NAME) is None, "it is unloaded")
    assert tab.told == []


def test_the_curl_on_the_page_is_one(gateway: Gateway, tab: Tab) -> None:
    tab.goes_to(f"http://127.0.0.1:{gateway.port}/")
    tab.waits_for("curl", "#curl")
    command = tab.says("document.querySelector('#curl').innerText")
    result = gateway.run(["sh", "-c", command.replace("curl ", "curl -s ", 1)])
    assert json.loads(result.stdout)["model"] == NAME


def test_what_cannot_be_loaded_says_why(gateway: Gateway, tab: Tab) -> None:
    tab.goes_to(f"http://127.0.0.1:{gateway.port}/")
    tab.waits_for(NAME)
    tab.clicks(".model:nth-child(2) button")
    tab.waits_for("there is no file", ".model:nth-child(2) .why")
    assert tab.told == []


def test_an_engine_s_page_comes_when_the_offer_to_load_it_is_taken_and_not_after_it_is_gone(
    gateway: Gateway, tab: Tab
) -> None:
    gateway.ask("POST", "/models/unload", {"model": NAME})
    tab.goes_to(f"http://127.0.0.1:{gateway.port}/")
    tab.waits_for(NAME)
    for _ in range(2):
        tab.says("location = document.querySelector('.model a').href")
        tab.waits_for("Load it", "#load:not([hidden])")
        assert tab.says("document.querySelector('h1').innerText") == NAME
        tab.clicks("#load")
        wait_until(lambda: tab.says("document.title") == "llama-ui", "the engine's page")
        gateway.ask("POST", "/models/unload", {"model": NAME})
        tab.goes_to(f"http://127.0.0.1:{gateway.port}/")
        tab.waits_for(NAME)
