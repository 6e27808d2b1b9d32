"""The `openai` Python SDK: what its users call most, blocking and asyncio."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import pytest

openai = pytest.importorskip("openai", reason="openai is not installed: run `make test-clients`")

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
ASK: dict[str, Any] = {"model": "smollm2", "max_tokens": 24, "temperature": 0}


@pytest.fixture
def client(gateway: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=gateway, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_lists_and_retrieves_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["smollm2", "embedder"]
    model = client.models.retrieve("smollm2")
    assert (model.id, model.object) == ("smollm2", "model")


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


def test_completion(client: Any) -> None:
    answer = client.completions.create(prompt="One, two, three, four,", **ASK)
    assert "five" in answer.choices[0].text
    assert answer.usage.prompt_tokens > 0


def test_completion_stream(client: Any) -> None:
    stream = client.completions.create(prompt="One, two, three, four,", stream=True, **ASK)
    pieces = [choice.text for chunk in stream for choice in chunk.choices if choice.text]
    assert len(pieces) > 1
    assert "five" in "".join(pieces)


def test_embeddings(client: Any) -> None:
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Taxes are due in May."]
    answer = client.embeddings.create(model="embedder", input=texts)
    assert [item.index for item in answer.data] == [0, 1, 2]
    cat, kitten, taxes = (item.embedding for item in answer.data)
    assert math.isclose(math.hypot(*cat), 1, abs_tol=1e-3)
    assert math.dist(cat, kitten) < math.dist(cat, taxes)


def test_many_at_once_with_asyncio(gateway: str) -> None:
    async def ask() -> list[Any]:
        client = openai.AsyncOpenAI(base_url=gateway, api_key="none", max_retries=0, timeout=60)
        async with client:
            chats = [client.chat.completions.create(messages=QUESTION, **ASK) for _ in range(6)]
            return await asyncio.gather(*chats)

    answers = asyncio.run(ask())
    assert ["Paris" in answer.choices[0].message.content for answer in answers] == [True] * 6
    assert len({answer.id for answer in answers}) == 6


def test_stream_with_asyncio(gateway: str) -> None:
    async def ask() -> str:
        client = openai.AsyncOpenAI(base_url=gateway, api_key="none", max_retries=0, timeout=60)
        async with client:
            stream = await client.chat.completions.create(messages=QUESTION, stream=True, **ASK)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert "Paris" in asyncio.run(ask())


def test_stream_that_is_left_early(client: Any) -> None:
    with client.chat.completions.create(
        messages=QUESTION, stream=True, **{**ASK, "max_tokens": 1500}
    ) as stream:
        assert next(iter(stream)).object == "chat.completion.chunk"
    answer = client.chat.completions.create(messages=QUESTION, **ASK)
    assert "Paris" in answer.choices[0].message.content


def test_unknown_model_is_not_found(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-9", messages=QUESTION)
    for name in ("gpt-9", "smollm2", "embedder"):
        assert name in caught.value.message
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_faults_of_the_engine_pass_through(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="exceeds the available context size"):
        client.completions.create(model="smollm2", prompt="word " * 4000)
