"""The limits of a key, and what it has used, with the real engine and `llamagw usage`."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.whole.harness import CHAT, Gateway, Reply, model, wait_until

LLAMAGW = str(Path(sys.executable).with_name("llamagw"))
MOST = 5
STORY = "Tell me a long story."
TALK = [{"role": "user", "content": STORY}]


def key(name: str, *scopes: str, **limits: int) -> dict[str, Any]:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return {"name": name, "hash": f"sha256:{digest}", "scopes": [*scopes], "limits": limits}


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    keys = [key("alice", "infer", max_tokens=MOST, tokens_per_min=600), key("olga", "observe")]
    gateway = Gateway([model("smol")], keys=keys)
    try:
        begin(gateway)
        yield gateway
        gateway.stop()
    finally:
        gateway.clean_up()


def begin(gateway: Gateway) -> None:
    gateway.write_config()
    gateway.spawn(gateway.command("-n", "--pidfile="))
    wait_until(lambda: "listening on" in gateway.log, "it listens")


def ask(gateway: Gateway, path: str, **body: Any) -> Reply:
    return gateway.ask(
        "POST", path, {"model": "smol", "ignore_eos": True, **body}, headers={"x-api-key": "alice"}
    )


def usage(gateway: Gateway, who: str) -> dict[str, Any]:
    """The only row that `llamagw usage` prints."""
    done = subprocess.run(
        [LLAMAGW, "usage", "--json", "--url", f"http://127.0.0.1:{gateway.port}"],
        env={**os.environ, "LLAMAGW_API_KEY": who},
        capture_output=True,
        text=True,
        check=True,
    )
    [row] = json.loads(done.stdout)["data"]
    return {name: row[name] for name in ("key", "model", "requests", "completion_tokens")}


def test_answers_are_no_longer_than_the_key_allows_and_are_counted(gateway: Gateway) -> None:
    told = ask(gateway, CHAT, messages=TALK)
    assert told.json()["usage"]["completion_tokens"] == MOST
    assert told.headers["x-ratelimit-limit-tokens"] == "600"
    told = ask(gateway, "/v1/messages", messages=TALK, max_tokens=3)
    assert told.json()["usage"]["output_tokens"] == 3
    told = ask(gateway, "/v1/responses", input=STORY)
    assert told.json()["usage"]["output_tokens"] == MOST
    told = ask(gateway, "/completion", prompt=STORY)
    assert told.json()["tokens_predicted"] == MOST
    stream = ask(gateway, CHAT, messages=TALK, stream=True)
    assert stream.body.count(b'"content":"') <= MOST + 1
    refused = ask(gateway, CHAT, messages=TALK, max_completion_tokens=MOST + 1)
    assert (refused.status, refused.json()["error"]["param"]) == (400, "max_completion_tokens")
    row = {"key": "alice", "model": "smol", "requests": 5, "completion_tokens": 4 * MOST + 3}
    assert usage(gateway, "olga") == row
    assert usage(gateway, "alice") == row
    # The next gateway knows it.
    gateway.terminate()
    assert gateway.wait() == 0
    begin(gateway)
    assert usage(gateway, "olga") == row
