"""The `openai` Python SDK: the Responses API, as far as llama-server has it.

It keeps no responses, so that each request brings its whole conversation.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

openai = pytest.importorskip("openai", reason="openai is not installed: run `make test-clients`")

QUESTION = "What is the capital of France? Answer in one sentence."
ASK: dict[str, Any] = {"model": "smollm2", "max_output_tokens": 24, "temperature": 0}
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a town.",
    "parameters": {
        "type": "object",
        "properties": {"town": {"enum": ["Paris", "Rome"]}},
        "required": ["town"],
    },
}
CALL: dict[str, Any] = {
    **ASK,
    "max_output_tokens": 80,
    "tools": [WEATHER],
    "tool_choice": "required",
}


@pytest.fixture
def client(gateway: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=gateway, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_response(client: Any) -> None:
    response = client.responses.create(input=QUESTION, **ASK)
    assert "Paris" in response.output_text
    assert (response.object, response.status) == ("response", "completed")
    assert 0 < response.usage.output_tokens <= 24


def test_instructions_and_a_conversation(client: Any) -> None:
    conversation = [
        {"role": "user", "content": "What is the capital of Italy?"},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "The capital of Italy is Rome."}],
        },
        {"role": "user", "content": [{"type": "input_text", "text": "And that of France?"}]},
    ]
    response = client.responses.create(input=conversation, instructions="Be brief.", **ASK)
    assert "Paris" in response.output_text


def test_stream(client: Any) -> None:
    events = list(client.responses.create(input=QUESTION, stream=True, **ASK))
    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(pieces) > 1
    assert "Paris" in "".join(pieces)
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "".join(pieces)


def test_tools(client: Any) -> None:
    response = client.responses.create(input=QUESTION, **CALL)
    (call,) = [item for item in response.output if item.type == "function_call"]
    assert call.name == "get_weather"
    assert json.loads(call.arguments)["town"] in ("Paris", "Rome")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}
    after = client.responses.create(
        input=[{"role": "user", "content": QUESTION}, call.model_dump(exclude_none=True), result],
        **{**CALL, "tool_choice": "none"},
    )
    assert after.output_text


def test_tools_stream(client: Any) -> None:
    events = list(client.responses.create(input=QUESTION, stream=True, **CALL))
    (call,) = events[-1].response.output
    parts = [event.delta for event in events if event.type.endswith("arguments.delta")]
    assert json.loads("".join(parts)) == json.loads(call.arguments)


def test_counts_input_tokens(client: Any) -> None:
    count = client.responses.input_tokens.count(model="smollm2", input=QUESTION)
    assert count.input_tokens == client.responses.create(input=QUESTION, **ASK).usage.input_tokens


def test_with_asyncio(gateway: str) -> None:
    async def ask() -> tuple[Any, str, Any]:
        async with openai.AsyncOpenAI(base_url=gateway, api_key="none", timeout=60) as client:
            whole = await client.responses.create(input=QUESTION, **ASK)
            stream = await client.responses.create(input=QUESTION, stream=True, **ASK)
            said = [e.delta async for e in stream if e.type == "response.output_text.delta"]
            count = await client.responses.input_tokens.count(model="smollm2", input=QUESTION)
            return whole, "".join(said), count

    whole, said, count = asyncio.run(ask())
    assert "Paris" in whole.output_text
    assert "Paris" in said
    assert count.input_tokens == whole.usage.input_tokens


def test_what_the_engine_does_not_keep_is_said(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        client.responses.create(input=QUESTION, previous_response_id="resp_1", **ASK)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_1")


def test_unknown_model_is_not_found(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="smollm2"):
        client.responses.create(model="gpt-9", input=QUESTION)
