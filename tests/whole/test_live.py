"""The live table and cancels, with the real engine: three models in the room of one."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.whole.harness import CHAT, DEADLINE, Gateway, Stream, model, question, wait_until

TOKENS = 100_000  # more than anybody waits for


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    one = {"parallel": 2, "context_size": 2048}
    gateway = Gateway(
        [model(name, **one) for name in ("first", "second", "third")],
        max_loaded_models=1,
        capture={"models": ["third"], "requests": 2, "max_kb": 1},
    )
    try:
        gateway.start()
        yield gateway
        gateway.stop()
    finally:
        gateway.clean_up()


class Watcher:
    """Somebody who follows GET /activity/sse."""

    def __init__(self, gateway: Gateway) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=DEADLINE)
        self._connection.request("GET", "/activity/sse")
        self._answer = self._connection.getresponse()

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next event like that."""
        while True:
            line = self._answer.readline()
            assert line, "the stream has ended"
            if line.startswith(b"data: "):
                told: dict[str, Any] = json.loads(line[6:])
                if wanted(told):
                    return told

    def leave(self) -> None:
        self._connection.close()


def of(what: str, name: str, **values: object) -> Callable[[dict[str, Any]], bool]:
    """Whether an event is of this kind, about a request for this model, with these values."""

    def fits(told: dict[str, Any]) -> bool:
        request = told.get("request", {})
        return bool(
            told["event"] == what
            and request.get("asked") == name
            and all(request[key] == value for key, value in values.items())
        )

    return fits


def cancel(gateway: Gateway, request_id: str) -> Any:
    return gateway.ask("POST", f"/activity/{request_id}/cancel").json()


def test_requests_are_seen_in_every_state_and_cancelled_in_each(gateway: Gateway) -> None:
    watcher = Watcher(gateway)
    busy = gateway.stream("first", TOKENS)
    answering = watcher.until(of("moved", "first", state="answering"))
    assert answering["request"]["bytes_out"] > 0
    stays = gateway.stream("second", TOKENS)
    ahead = watcher.until(of("begun", "second", position=1))["request"]
    leaves = gateway.stream("second", TOKENS)
    last = watcher.until(of("begun", "second", position=2))["request"]
    assert (last["state"], last["waiting_for"]) == ("waiting", "room: `first` is busy")

    # In the queue.
    assert cancel(gateway, last["id"]) == {"success": True, "cancelled": 1}
    assert watcher.until(of("ended", "second"))["request"]["error"] == "cancelled"
    assert leaves.read_until(b"}").startswith(b"HTTP/1.1 499 Cancelled\r\n")

    # In the middle of its answer: the one that waits has its room.
    assert cancel(gateway, answering["request"]["id"])["success"]
    assert b'"code":"cancelled"' in busy.rest()
    assert b"[DONE]" not in busy.raw
    [entry] = gateway.get("/activity?limit=1")["data"]
    told = entry["asked"], entry["status"], entry["outcome"], entry["error"]
    assert told == ("first", 200, "refused", "cancelled")
    watcher.until(of("moved", "second", state="answering"))

    # Its slot is free when that is cancelled too.
    assert gateway.busy_slots("second") == 1
    assert cancel(gateway, ahead["id"])["success"]
    assert b'"code":"cancelled"' in stays.rest()
    wait_until(lambda: gateway.busy_slots("second") == 0, "the slot is free")
    watcher.leave()


def test_a_long_prompt_is_being_processed_until_the_first_token(gateway: Gateway) -> None:
    watcher = Watcher(gateway)
    words = " ".join(f"word{number}" for number in range(300))
    stream = Stream(
        gateway.port,
        CHAT,
        {**question("third", 3, stream=True), "messages": [{"role": "user", "content": words}]},
    )
    watcher.until(lambda told: told.get("request", {}).get("state") == "processing")
    stream.rest()
    ended = watcher.until(of("ended", "third"))["request"]
    assert ended["first_byte_sec"] >= ended["prompt_sec"] > 0.1
    watcher.leave()
    told = gateway.get(f"/activity/{ended['id']}")
    assert told["captured"] is True
    assert (len(told["request"]["body"]), told["request"]["truncated"]) == (1024, True)
    assert told["response"]["body"].startswith("data: {")
