"""`langchain-openai`: its chat model, whole and streamed."""

from __future__ import annotations

from typing import Any

import pytest

langchain_openai = pytest.importorskip(
    "langchain_openai", reason="langchain-openai is not installed: run `make test-clients`"
)

QUESTION = "What is the capital of France? Answer in one sentence."


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


def test_embeddings(gateway: str) -> None:
    embeddings = langchain_openai.OpenAIEmbeddings(
        base_url=gateway,
        api_key="none",
        model="embedder",
        check_embedding_ctx_length=False,  # would want OpenAI's tokenizer from the network
    )
    assert [len(vector) for vector in embeddings.embed_documents(["one", "two"])] == [576, 576]
