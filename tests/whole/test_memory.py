"""Models whose memory is counted: the real engine, twice."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.whole.harness import Gateway, model, wait_until

#: Bytes that SmolLM2 takes with a context of 2048, as /proc says, and its buffer to compute with:
#: 45 MiB of KV cache, 9 to compute with, 23 of the process.
LEAST, MOST = 60 * 2**20, 100 * 2**20


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    gateway = Gateway([model("smol", prompt_cache_mb=0)], memory="auto")
    try:
        yield gateway.start()
        gateway.stop()
    finally:
        gateway.clean_up()


def told(gateway: Gateway) -> dict[str, Any]:
    """What `llamagw check` says of the model's memory."""
    check = [sys.executable, "-c", "from llamagw.cli.main import main; main()", "check", "--json"]
    found: dict[str, Any] = json.loads(gateway.run(check).stdout)["models"][0]["memory"]
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="what is the engine's own is told on Linux")
def test_a_second_load_is_counted_with_what_the_first_has_taken(gateway: Gateway) -> None:
    assert told(gateway)["from"] == "estimate"
    assert gateway.chat("smol", 2).status == 200
    found = told(gateway)
    assert found["from"] == "learned"
    assert LEAST < found["devices"]["host"]["given"] < MOST
    assert "buffer size" not in gateway.log


def test_an_idle_engine_forgets_and_answers_all_the_same() -> None:
    gateway = Gateway([model("smol", idle_shrink_sec=1)], memory="auto")
    try:
        gateway.start()
        assert gateway.chat("smol", 2).status == 200
        wait_until(lambda: "tokens of prompts are erased" in gateway.log, "its slots are erased")
        assert gateway.chat("smol", 2).status == 200
        gateway.stop()
    finally:
        gateway.clean_up()
