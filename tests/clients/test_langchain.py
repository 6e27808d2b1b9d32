"""`langchain-openai`: its chat model, whole, streamed and with asyncio; tools, JSON, embeddings."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest

langchain_openai = pytest.importorskip(
    "langchain_openai", reason="langchain-openai is not installed: run `make test-clients`"
)
pydantic = pytest.importorskip("pydantic")  # which LangChain brings

QUESTION = "What is the capital of France? Answer in one sentence."


class Town(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    """A town and its rivers."""

    name: Literal["Paris", "Rome"]
    rivers: Literal[1, 2, 3]


@pytest.fixture
def chat(gateway: str) -> Any:
    return langchain_openai.ChatOpenAI(
        base_url=gateway,
        api_key="none",
        model="smollm2",
        temperature=0,
        max_tokens=24,
        max_retries=0,
        timeout=60,
    )


def test_invoke(chat: Any) -> None:
    answer = chat.invoke(QUESTION)
    assert "Paris" in answer.content
    assert answer.response_metadata["model_name"] == "smollm2"
    assert 0 < answer.usage_metadata["output_tokens"] <= 24


def test_stream(chat: Any) -> None:
    pieces = [piece.content for piece in chat.stream(QUESTION) if piece.content]
    assert len(pieces) > 1
    assert "Paris" in "".join(pieces)


def test_stream_counts_tokens(chat: Any) -> None:
    pieces = chat.model_copy(update={"stream_usage": True}).stream(QUESTION)
    (usage,) = [piece.usage_metadata for piece in pieces if piece.usage_metadata]
    assert 0 < usage["output_tokens"] <= 24


def test_batch(chat: Any) -> None:
    answers = chat.batch([QUESTION] * 3)
    assert ["Paris" in answer.content for answer in answers] == [True] * 3


def test_with_asyncio(chat: Any) -> None:
    async def ask() -> tuple[Any, str]:
        whole = await chat.ainvoke(QUESTION)
        return whole, "".join([piece.content async for piece in chat.astream(QUESTION)])

    whole, said = asyncio.run(ask())
    assert "Paris" in whole.content
    assert "Paris" in said


def test_tools(chat: Any) -> None:
    tools = chat.model_copy(update={"max_tokens": 80}).bind_tools([Town], tool_choice="required")
    (call,) = tools.invoke(QUESTION).tool_calls
    assert call["name"] == "Town"
    assert call["args"]["rivers"] in (1, 2, 3)
    pieces = [piece for piece in tools.stream(QUESTION) if piece.tool_call_chunks]
    assert len(pieces) > 1
    assert Town.model_validate_json("".join(p.tool_call_chunks[0]["args"] or "" for p in pieces))


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(chat: Any, method: str) -> None:
    chat = chat.model_copy(update={"max_tokens": 80})
    town = chat.with_structured_output(Town, method=method).invoke(QUESTION)
    assert isinstance(town, Town)


def test_responses_api(chat: Any) -> None:
    answer = chat.model_copy(update={"use_responses_api": True}).invoke(QUESTION)
    assert "Paris" in answer.text


def test_unknown_model_is_not_found(chat: Any) -> None:
    openai = pytest.importorskip("openai")
    with pytest.raises(openai.NotFoundError, match="smollm2"):
        chat.model_copy(update={"model_name": "gpt-9"}).invoke(QUESTION)


def test_embeddings(gateway: str) -> None:
    embeddings = langchain_openai.OpenAIEmbeddings(
        base_url=gateway,
        api_key="none",
        model="embedder",
        check_embedding_ctx_length=False,  # would want OpenAI's tokenizer from the network
    )
    assert [len(vector) for vector in embeddings.embed_documents(["one", "two"])] == [576, 576]
    assert len(asyncio.run(embeddings.aembed_query("one"))) == 576
