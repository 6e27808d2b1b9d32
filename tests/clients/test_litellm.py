"""`litellm` as a client: the providers `openai/NAME` and `anthropic/NAME`, each with `api_base`."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any, Literal

import pytest

# Else it asks the network for a list of prices when it is imported.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
NEEDED = "litellm is not installed: run `make test-clients`"
litellm = pytest.importorskip("litellm", reason=NEEDED)
pydantic = pytest.importorskip("pydantic")  # which litellm brings

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a town.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"enum": ["Paris", "Rome"]}},
            "required": ["town"],
        },
    },
}


class Town(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    name: Literal["Paris", "Rome"]


@pytest.fixture
def ask(gateway: str) -> dict[str, Any]:
    return {
        "model": "openai/smollm2",
        "api_base": gateway,
        "api_key": "none",
        "temperature": 0,
        "max_tokens": 24,
        "num_retries": 0,
        "timeout": 60,
    }


def test_completion(ask: dict[str, Any]) -> None:
    answer = litellm.completion(messages=QUESTION, **ask)
    assert "Paris" in answer.choices[0].message.content
    assert 0 < answer.usage.completion_tokens <= 24


def test_stream(ask: dict[str, Any]) -> None:
    chunks = list(litellm.completion(messages=QUESTION, stream=True, **ask))
    pieces = [piece for chunk in chunks if (piece := chunk.choices[0].delta.content)]
    assert len(pieces) > 1
    assert "Paris" in "".join(pieces)
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


def test_tools(ask: dict[str, Any]) -> None:
    answer = litellm.completion(
        messages=QUESTION, tools=[WEATHER], tool_choice="required", **{**ask, "max_tokens": 80}
    )
    (call,) = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments)["town"] in ("Paris", "Rome")


def test_structured_output(ask: dict[str, Any]) -> None:
    answer = litellm.completion(messages=QUESTION, response_format=Town, **ask)
    assert Town.model_validate_json(answer.choices[0].message.content)


def test_text_completion(ask: dict[str, Any]) -> None:
    answer = litellm.text_completion(prompt="One, two, three, four,", **ask)
    assert "five" in answer.choices[0].text


def test_embedding(gateway: str) -> None:
    answer = litellm.embedding(
        model="openai/embedder", input=["one", "two"], api_base=gateway, api_key="none"
    )
    assert [len(item["embedding"]) for item in answer.data] == [576, 576]


def test_responses(gateway: str) -> None:
    response = litellm.responses(
        model="openai/smollm2", input=QUESTION, api_base=gateway, api_key="none", temperature=0
    )
    assert "Paris" in response.output[0].content[0].text


def test_with_asyncio(ask: dict[str, Any]) -> None:
    async def both() -> tuple[Any, str, Any]:
        whole = await litellm.acompletion(messages=QUESTION, **ask)
        stream = await litellm.acompletion(messages=QUESTION, stream=True, **ask)
        said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        vectors = await litellm.aembedding(
            model="openai/embedder", input=["one"], api_base=ask["api_base"], api_key="none"
        )
        return whole, said, vectors

    whole, said, vectors = asyncio.run(both())
    assert "Paris" in whole.choices[0].message.content
    assert "Paris" in said
    assert len(vectors.data[0]["embedding"]) == 576


def test_anthropic_provider(ask: dict[str, Any], root: str) -> None:
    ask = {**ask, "model": "anthropic/smollm2", "api_base": root}
    assert "Paris" in litellm.completion(messages=QUESTION, **ask).choices[0].message.content
    chunks = litellm.completion(messages=QUESTION, stream=True, **ask)
    assert "Paris" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_faults_are_its_own_exceptions(ask: dict[str, Any]) -> None:
    with pytest.raises(litellm.NotFoundError, match="smollm2"):
        litellm.completion(messages=QUESTION, **{**ask, "model": "openai/gpt-9"})
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(messages=[{"role": "user", "content": "word " * 4000}], **ask)
