"""`llama-index-llms-openai-like`: completion, chat and both streamed."""

from __future__ import annotations

from typing import Any

import pytest

NEEDED = "llama-index-llms-openai-like is not installed: run `make test-clients`"
openai_like = pytest.importorskip("llama_index.llms.openai_like", reason=NEEDED)
core = pytest.importorskip("llama_index.core.llms", reason=NEEDED)

QUESTION = "What is the capital of France? Answer in one sentence."


def model(gateway: str, *, chat: bool) -> Any:
    return openai_like.OpenAILike(
        api_base=gateway,
        api_key="none",
        model="smollm2",
        is_chat_model=chat,
        context_window=2048,
        max_tokens=24,
        temperature=0,
        max_retries=0,
        timeout=60,
    )


def test_complete(gateway: str) -> None:
    assert "five" in model(gateway, chat=False).complete("One, two, three, four,").text


def test_chat(gateway: str) -> None:
    messages = [core.ChatMessage(role="user", content=QUESTION)]
    answer = model(gateway, chat=True).chat(messages)
    assert answer.message.role == "assistant"
    assert "Paris" in answer.message.content


def test_stream(gateway: str) -> None:
    completion = model(gateway, chat=False).stream_complete("One, two, three, four,")
    pieces = [piece.delta for piece in completion if piece.delta]
    assert len(pieces) > 1
    assert "five" in "".join(pieces)
    messages = [core.ChatMessage(role="user", content=QUESTION)]
    pieces = [piece.delta for piece in model(gateway, chat=True).stream_chat(messages)]
    assert len(pieces) > 1
    assert "Paris" in "".join(piece or "" for piece in pieces)
