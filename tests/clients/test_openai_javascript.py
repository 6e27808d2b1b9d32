"""The `openai` JavaScript SDK on Node; openai_js.mjs does the asking, this the judging."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="module")
def seen(node: Callable[[str, str], Any], gateway: str) -> Any:
    """What the script saw."""
    return node("openai_js.mjs", gateway)


def test_models(seen: Any) -> None:
    assert seen["models"] == {"models": ["smollm2", "embedder", "late"], "one": "smollm2"}


def test_chat(seen: Any) -> None:
    assert "Paris" in seen["chat"]


def test_chat_stream(seen: Any) -> None:
    stream = seen["chatStream"]
    assert len(stream["pieces"]) > 1
    assert "Paris" in "".join(stream["pieces"])
    assert stream["finish"] in ("stop", "length")
    assert 0 < stream["tokens"] <= 24
    assert "Paris" in seen["chatStreamHelper"]


def test_tools(seen: Any) -> None:
    (call,) = seen["tools"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"])["name"] in ("Paris", "Rome")


def test_tools_stream(seen: Any) -> None:
    parts = [part["function"] for part in seen["toolsStream"]]
    assert parts[0]["name"] == "get_weather"
    assert len(parts) > 1
    assert json.loads("".join(part["arguments"] for part in parts))["name"] in ("Paris", "Rome")


def test_json_schema(seen: Any) -> None:
    assert seen["jsonSchema"]["name"] in ("Paris", "Rome")


def test_logprobs(seen: Any) -> None:
    assert set(seen["logprobs"]) == {3}


def test_raw_response(seen: Any) -> None:
    assert seen["rawResponse"]["type"].startswith("application/json")
    assert seen["rawResponse"]["id"]


def test_completion(seen: Any) -> None:
    assert "five" in seen["completion"]["whole"]
    assert len(seen["completion"]["pieces"]) > 1
    assert "five" in "".join(seen["completion"]["pieces"])


def test_embeddings(seen: Any) -> None:
    assert len(seen["embeddings"]["floats"]) == 576
    assert seen["embeddings"]["base64"] == pytest.approx(seen["embeddings"]["floats"], abs=1e-5)


def test_responses(seen: Any) -> None:
    responses = seen["responses"]
    assert "Paris" in responses["whole"]
    assert responses["count"]["input_tokens"] == responses["used"]
    assert responses["kinds"][0] == "response.created"
    assert responses["kinds"][-1] == "response.completed"


def test_stream_left_early_frees_its_slot(seen: Any, slots_are_free: Callable[[], None]) -> None:
    assert seen["leftEarly"] == "chat.completion.chunk"
    slots_are_free()


def test_faults_are_its_own_exceptions(seen: Any) -> None:
    assert seen["timeout"]["error"] == "APIConnectionTimeoutError"
    assert (seen["unknownModel"]["error"], seen["unknownModel"]["status"]) == ("NotFoundError", 404)
    assert "smollm2" in seen["unknownModel"]["message"]
    assert (seen["badRequest"]["error"], seen["badRequest"]["status"]) == ("BadRequestError", 400)
    assert "temperature" in seen["badRequest"]["message"]
