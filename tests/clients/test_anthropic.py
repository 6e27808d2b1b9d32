"""The `anthropic` Python SDK: messages, streams, tools, counting, its exceptions; asyncio too.

The SDK (since 2.0) has no argument `temperature`; what it lacks goes in `extra_body`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

NEEDED = "anthropic is not installed: run `make test-clients`"
anthropic = pytest.importorskip("anthropic", reason=NEEDED)

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
ASK: dict[str, Any] = {
    "model": "smollm2",
    "max_tokens": 24,
    "messages": QUESTION,
    "extra_body": {"temperature": 0},
}
WEATHER = {
    "name": "get_weather",
    "description": "The weather in a town.",
    "input_schema": {
        "type": "object",
        "properties": {"town": {"enum": ["Paris", "Rome"]}, "days": {"enum": [1, 2, 3]}},
        "required": ["town", "days"],
    },
}
CALL = {**ASK, "max_tokens": 80, "tools": [WEATHER], "tool_choice": {"type": "any"}}


@pytest.fixture
def client(root: str) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=root, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_message(client: Any) -> None:
    message = client.messages.create(system="You are brief.", **ASK)
    assert "Paris" in message.content[0].text
    assert message.model == "smollm2"
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert 0 < message.usage.output_tokens <= 24


def test_models(client: Any) -> None:
    page = client.models.list(limit=1)
    assert not page.has_next_page()
    found = {model.id: model for model in page}
    assert {"smollm2", "embedder", "late"} <= set(found)
    assert (found["smollm2"].type, found["smollm2"].display_name) == ("model", "smollm2")
    assert found["smollm2"].created_at.year > 2000
    assert client.models.retrieve("smollm2") == found["smollm2"]


def test_stop_sequence(client: Any) -> None:
    message = client.messages.create(stop_sequences=["Paris"], **ASK)
    assert message.content[0].text.endswith("France is ")
    assert message.stop_sequence == "Paris"  # llama-server says "end_turn" as its reason


def test_stream_of_events(client: Any) -> None:
    kinds = [event.type for event in client.messages.create(stream=True, **ASK)]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert kinds.count("content_block_delta") > 1


def test_stream(client: Any) -> None:
    with client.messages.stream(**ASK) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
    assert len(pieces) > 1
    assert "Paris" in "".join(pieces)
    assert message.content[0].text == "".join(pieces)
    assert 0 < message.usage.output_tokens <= 24


def test_tools(client: Any) -> None:
    message = client.messages.create(**CALL)
    assert message.stop_reason == "tool_use"
    (call,) = message.content
    assert (call.type, call.name) == ("tool_use", "get_weather")
    assert call.input["days"] in (1, 2, 3)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny."}
    messages = [
        *QUESTION,
        {
            "role": "assistant",
            "content": [call.model_dump(include={"type", "id", "name", "input"})],
        },
        {"role": "user", "content": [result]},
    ]
    after = client.messages.create(**{**ASK, "messages": messages})
    assert after.content[0].text


def test_tools_stream(client: Any) -> None:
    with client.messages.stream(**CALL) as stream:
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        (call,) = stream.get_final_message().content
    assert len(parts) > 1
    assert call.input["town"] in ("Paris", "Rome")


def test_counts_tokens(client: Any) -> None:
    count = client.messages.count_tokens(model="smollm2", messages=QUESTION).input_tokens
    usage = client.messages.create(**ASK).usage
    assert count == usage.input_tokens + usage.cache_read_input_tokens


def test_lists_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["smollm2", "embedder", "late"]


def test_with_asyncio(root: str) -> None:
    async def ask() -> tuple[Any, list[str], Any, Any]:
        async with anthropic.AsyncAnthropic(base_url=root, api_key="none", timeout=60) as client:
            whole, call = await asyncio.gather(
                client.messages.create(**ASK), client.messages.create(**CALL)
            )
            async with client.messages.stream(**ASK) as stream:
                pieces = [piece async for piece in stream.text_stream]
            count = await client.messages.count_tokens(model="smollm2", messages=QUESTION)
            return whole, pieces, call, count

    whole, pieces, call, count = asyncio.run(ask())
    assert "Paris" in whole.content[0].text
    assert "Paris" in "".join(pieces)
    assert call.content[0].name == "get_weather"
    assert count.input_tokens > 0


def test_unknown_model_is_not_found_in_anthropics_envelope(client: Any) -> None:
    for call in (client.messages.create, client.messages.count_tokens):
        ask = {"model": "gpt-9", "messages": QUESTION}
        if call == client.messages.create:
            ask["max_tokens"] = 8
        with pytest.raises(anthropic.NotFoundError) as caught:
            call(**ask)
        assert caught.value.body["type"] == "error"
        assert caught.value.body["error"]["type"] == "not_found_error"
        assert "smollm2" in caught.value.body["error"]["message"]


def test_faults_of_the_engine_pass_through(client: Any) -> None:
    with pytest.raises(anthropic.BadRequestError, match="exceeds the available context size"):
        client.messages.create(**{**ASK, "messages": [{"role": "user", "content": "word " * 4000}]})
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        client.messages.create(**{**ASK, "extra_body": {"temperature": "hot"}})
