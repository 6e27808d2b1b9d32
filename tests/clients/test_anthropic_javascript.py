"""The Anthropic JavaScript SDK on Node; anthropic_js.mjs does the asking, this the judging."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="module")
def seen(node: Callable[[str, str], Any], gateway: str) -> Any:
    """What the script saw."""
    return node("anthropic_js.mjs", gateway)


def test_message(seen: Any) -> None:
    message = seen["message"]
    assert "Paris" in message["content"][0]["text"]
    assert message["model"] == "smollm2"
    assert 0 < message["usage"]["output_tokens"] <= 24


def test_stream_of_events(seen: Any) -> None:
    kinds = seen["streamOfEvents"]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert kinds.count("content_block_delta") > 1


def test_stream(seen: Any) -> None:
    stream = seen["stream"]
    assert len(stream["pieces"]) > 1
    assert "Paris" in "".join(stream["pieces"]) == stream["message"]["content"][0]["text"]


def test_tools(seen: Any) -> None:
    (call,) = seen["tools"]
    assert (call["type"], call["name"]) == ("tool_use", "get_weather")
    assert call["input"]["name"] in ("Paris", "Rome")


def test_tools_stream(seen: Any) -> None:
    (call,) = seen["toolsStream"]["content"]
    assert call["input"]["name"] in ("Paris", "Rome")
    assert seen["toolsStream"]["parts"] > 1


def test_counts_tokens(seen: Any) -> None:
    usage = seen["message"]["usage"]
    used = usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert seen["count"]["input_tokens"] == used


def test_lists_models(seen: Any) -> None:
    assert seen["models"] == {"models": ["smollm2", "embedder", "late"], "one": "smollm2"}


def test_stream_left_early_frees_its_slot(seen: Any, slots_are_free: Callable[[], None]) -> None:
    assert seen["leftEarly"] == "content_block_delta"
    slots_are_free()


def test_faults_are_its_own_exceptions(seen: Any) -> None:
    assert (seen["unknownModel"]["error"], seen["unknownModel"]["status"]) == ("NotFoundError", 404)
    assert "smollm2" in seen["unknownModel"]["message"]
    assert (seen["tooLong"]["error"], seen["tooLong"]["status"]) == ("BadRequestError", 400)
    assert "exceeds the available context size" in seen["tooLong"]["message"]
