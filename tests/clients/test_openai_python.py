"""The `openai` Python SDK: chat, completions, embeddings and models, blocking and asyncio.

What goes wrong is in test_openai_python_faults.py, the Responses API in
test_openai_python_responses.py.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import struct
from collections.abc import Iterator
from typing import Any, Literal

import pytest

openai = pytest.importorskip("openai", reason="openai is not installed: run `make test-clients`")
pydantic = pytest.importorskip("pydantic")  # which openai brings

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
ASK: dict[str, Any] = {"model": "smollm2", "max_tokens": 24, "temperature": 0}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a town.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"enum": ["Paris", "Rome"]}, "days": {"enum": [1, 2, 3]}},
            "required": ["town", "days"],
        },
    },
}
CALL: dict[str, Any] = {**ASK, "max_tokens": 80, "tools": [WEATHER], "tool_choice": "required"}


class Town(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    name: Literal["Paris", "Rome"]
    rivers: Literal[1, 2, 3]


@pytest.fixture
def client(gateway: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=gateway, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def asynchronous(gateway: str) -> Any:
    return openai.AsyncOpenAI(base_url=gateway, api_key="none", max_retries=0, timeout=60)


def test_lists_and_retrieves_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["smollm2", "embedder", "late"]
    model = client.models.retrieve("smollm2")
    assert (model.id, model.object) == ("smollm2", "model")


# Chat


def test_chat(client: Any) -> None:
    answer = client.chat.completions.create(messages=QUESTION, **ASK)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert 0 < answer.usage.completion_tokens <= 24


def test_chat_stream(client: Any) -> None:
    stream = client.chat.completions.create(
        messages=QUESTION, stream=True, stream_options={"include_usage": True}, **ASK
    )
    chunks = list(stream)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    pieces = [choice.delta.content for choice in choices if choice.delta.content]
    assert len(pieces) > 1
    assert "Paris" in "".join(pieces)
    assert choices[-1].finish_reason in ("stop", "length")
    assert 0 < chunks[-1].usage.completion_tokens <= 24


def test_chat_stream_helper(client: Any) -> None:
    with client.chat.completions.stream(messages=QUESTION, **ASK) as stream:
        kinds = {event.type for event in stream}
        whole = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert "Paris" in whole.choices[0].message.content


def test_tools(client: Any) -> None:
    answer = client.chat.completions.create(messages=QUESTION, **CALL)
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["town"] in ("Paris", "Rome")
    result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny."}
    messages = [*QUESTION, answer.choices[0].message, result]
    after = client.chat.completions.create(messages=messages, **{**CALL, "tool_choice": "none"})
    assert after.choices[0].message.content
    assert after.choices[0].message.tool_calls is None


def test_tools_stream(client: Any) -> None:
    stream = client.chat.completions.create(messages=QUESTION, stream=True, **CALL)
    choices = [choice for chunk in stream for choice in chunk.choices]
    parts = [part.function for choice in choices for part in choice.delta.tool_calls or ()]
    assert parts[0].name == "get_weather"
    assert len(parts) > 1
    assert json.loads("".join(part.arguments for part in parts))["days"] in (1, 2, 3)
    assert choices[-1].finish_reason == "tool_calls"


def test_json_schema(client: Any) -> None:
    answer = client.chat.completions.parse(
        messages=QUESTION, response_format=Town, **{**ASK, "max_tokens": 80}
    )
    assert answer.choices[0].message.parsed.rivers in (1, 2, 3)


def test_json_schema_stream(client: Any) -> None:
    with client.chat.completions.stream(
        messages=QUESTION, response_format=Town, **{**ASK, "max_tokens": 80}
    ) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        parsed = stream.get_final_completion().choices[0].message.parsed
    assert parsed == Town.model_validate_json("".join(pieces))


def test_json_object(client: Any) -> None:
    # llama-server holds the model to JSON only when it is told what to write.
    shape = {"type": "json_object", "schema": Town.model_json_schema()}
    answer = client.chat.completions.create(
        messages=QUESTION, response_format=shape, **{**ASK, "max_tokens": 80}
    )
    assert Town.model_validate_json(answer.choices[0].message.content).rivers in (1, 2, 3)


def test_logprobs(client: Any) -> None:
    answer = client.chat.completions.create(
        messages=QUESTION, logprobs=True, top_logprobs=3, **{**ASK, "max_tokens": 4}
    )
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content
    assert [len(token.top_logprobs) for token in tokens] == [3] * 4
    assert all(token.logprob == token.top_logprobs[0].logprob <= 0 for token in tokens)


def test_logprobs_stream(client: Any) -> None:
    stream = client.chat.completions.create(
        messages=QUESTION, logprobs=True, stream=True, **{**ASK, "max_tokens": 4}
    )
    choices = [choice for chunk in stream for choice in chunk.choices if choice.delta.content]
    said = [token.token for choice in choices for token in choice.logprobs.content]
    assert said == [choice.delta.content for choice in choices]


def test_several_choices(client: Any) -> None:
    answer = client.chat.completions.create(messages=QUESTION, n=2, **ASK)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert ["Paris" in choice.message.content for choice in answer.choices] == [True, True]


def test_stop(client: Any) -> None:
    answer = client.chat.completions.create(messages=QUESTION, stop=["Paris"], **ASK)
    assert answer.choices[0].message.content.endswith("France is ")
    assert answer.choices[0].finish_reason == "stop"


def test_seed(client: Any) -> None:
    def say(seed: int) -> str:
        answer = client.chat.completions.create(
            messages=QUESTION,
            seed=seed,
            extra_body={"cache_prompt": False},  # llama-server's own keys pass as well
            **{**ASK, "max_tokens": 8, "temperature": 1.5},
        )
        return str(answer.choices[0].message.content)

    assert say(7) == say(7)
    assert len({say(seed) for seed in range(6)}) > 1


def test_raw_response(client: Any) -> None:
    raw = client.chat.completions.with_raw_response.create(messages=QUESTION, **ASK)
    assert raw.headers["content-type"].startswith("application/json")
    assert json.loads(raw.text)["id"] == raw.parse().id


def test_streaming_response(client: Any) -> None:
    with client.chat.completions.with_streaming_response.create(
        messages=QUESTION, stream=True, **ASK
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"


# Completions


def test_completion(client: Any) -> None:
    answer = client.completions.create(prompt="One, two, three, four,", **ASK)
    assert "five" in answer.choices[0].text
    assert answer.usage.prompt_tokens > 0


def test_completions_of_several_prompts(client: Any) -> None:
    prompts = ["Five, six, seven, eight,", "One, two, three, four,"]
    answer = client.completions.create(prompt=prompts, **ASK)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert "five" in answer.choices[1].text


def test_completion_logprobs(client: Any) -> None:
    answer = client.completions.create(prompt="One, two,", logprobs=2, **{**ASK, "max_tokens": 4})
    tokens = answer.choices[0].logprobs.content  # llama-server gives them as for chat
    assert "".join(token["token"] for token in tokens) == answer.choices[0].text
    assert [len(token["top_logprobs"]) for token in tokens] == [2] * 4


def test_completion_stream(client: Any) -> None:
    stream = client.completions.create(prompt="One, two, three, four,", stream=True, **ASK)
    pieces = [choice.text for chunk in stream for choice in chunk.choices if choice.text]
    assert len(pieces) > 1
    assert "five" in "".join(pieces)


# Embeddings


def test_embeddings(client: Any) -> None:
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Taxes are due in May."]
    answer = client.embeddings.create(model="embedder", input=texts)
    assert [item.index for item in answer.data] == [0, 1, 2]
    cat, kitten, taxes = (item.embedding for item in answer.data)
    assert math.isclose(math.hypot(*cat), 1, abs_tol=1e-3)
    assert math.dist(cat, kitten) < math.dist(cat, taxes)


def test_embeddings_as_floats_and_in_base64(client: Any) -> None:
    ask = {"model": "embedder", "input": "hello"}
    floats = client.embeddings.create(encoding_format="float", **ask).data[0].embedding
    packed = base64.b64decode(
        client.embeddings.create(encoding_format="base64", **ask).data[0].embedding
    )
    assert struct.unpack(f"<{len(packed) // 4}f", packed) == pytest.approx(floats, abs=1e-5)


# asyncio


def test_many_at_once_with_asyncio(gateway: str) -> None:
    async def ask() -> list[Any]:
        async with asynchronous(gateway) as client:
            chats = [client.chat.completions.create(messages=QUESTION, **ASK) for _ in range(6)]
            return await asyncio.gather(*chats)

    answers = asyncio.run(ask())
    assert ["Paris" in answer.choices[0].message.content for answer in answers] == [True] * 6
    assert len({answer.id for answer in answers}) == 6


def test_streams_with_asyncio(gateway: str) -> None:
    async def ask() -> tuple[str, str, Any]:
        async with asynchronous(gateway) as client:
            chat = await client.chat.completions.create(messages=QUESTION, stream=True, **ASK)
            said = [chunk.choices[0].delta.content or "" async for chunk in chat]
            plain = await client.completions.create(
                prompt="One, two, three, four,", stream=True, **ASK
            )
            counted = [chunk.choices[0].text async for chunk in plain]
            async with client.chat.completions.stream(
                messages=QUESTION, response_format=Town, **{**ASK, "max_tokens": 80}
            ) as stream:
                town = (await stream.get_final_completion()).choices[0].message.parsed
            return "".join(said), "".join(counted), town

    said, counted, town = asyncio.run(ask())
    assert "Paris" in said
    assert "five" in counted
    assert town.name in ("Paris", "Rome")


def test_everything_else_with_asyncio(gateway: str) -> None:
    async def ask() -> tuple[list[str], Any, Any, Any]:
        async with asynchronous(gateway) as client:
            models = [model.id async for model in client.models.list()]
            return (
                models,
                await client.chat.completions.create(messages=QUESTION, **CALL),
                await client.completions.create(prompt="One, two, three, four,", **ASK),
                await client.embeddings.create(model="embedder", input=["one", "two"]),
            )

    models, chat, completion, embeddings = asyncio.run(ask())
    assert models == ["smollm2", "embedder", "late"]
    assert chat.choices[0].message.tool_calls[0].function.name == "get_weather"
    assert "five" in completion.choices[0].text
    assert [len(item.embedding) for item in embeddings.data] == [576, 576]
