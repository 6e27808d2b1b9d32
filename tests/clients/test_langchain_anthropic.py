"""`langchain-anthropic`: its chat model, whole, streamed and with asyncio; tools, JSON by tools."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest

NEEDED = "langchain-anthropic is not installed: run `make test-clients`"
langchain_anthropic = pytest.importorskip("langchain_anthropic", reason=NEEDED)
anthropic = pytest.importorskip("anthropic", reason=NEEDED)
pydantic = pytest.importorskip("pydantic")  # which LangChain brings

QUESTION = "What is the capital of France? Answer in one sentence."


class Town(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    """A town and its rivers."""

    name: Literal["Paris", "Rome"]
    rivers: Literal[1, 2, 3]


@pytest.fixture
def chat(root: str) -> Any:
    return langchain_anthropic.ChatAnthropic(
        base_url=root,
        api_key="none",
        model="smollm2",
        temperature=0,
        max_tokens=80,
        max_retries=0,
        timeout=60,
    )


def test_invoke(chat: Any) -> None:
    answer = chat.invoke(QUESTION)
    assert "Paris" in answer.content
    assert 0 < answer.usage_metadata["output_tokens"] <= 80


def test_stream(chat: Any) -> None:
    pieces = [piece.content for piece in chat.stream(QUESTION) if piece.content]
    assert len(pieces) > 1
    assert "Paris" in "".join(pieces)


def test_with_asyncio(chat: Any) -> None:
    assert "Paris" in asyncio.run(chat.ainvoke(QUESTION)).content


def test_tools(chat: Any) -> None:
    tools = chat.bind_tools([Town], tool_choice="any")
    (call,) = tools.invoke(QUESTION).tool_calls
    assert call["name"] == "Town"
    assert call["args"]["rivers"] in (1, 2, 3)
    assert len(list(tools.stream(QUESTION))) > 2


def test_structured_output(chat: Any) -> None:
    assert isinstance(chat.with_structured_output(Town).invoke(QUESTION), Town)


def test_unknown_model_is_not_found(chat: Any) -> None:
    with pytest.raises(anthropic.NotFoundError, match="smollm2"):
        chat.model_copy(update={"model": "gpt-9"}).invoke(QUESTION)
