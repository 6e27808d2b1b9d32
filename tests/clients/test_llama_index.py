"""`llama-index-llms-openai-like`: completion and chat, streamed, with asyncio; tools, JSON."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest

NEEDED = "llama-index-llms-openai-like is not installed: run `make test-clients`"
openai_like = pytest.importorskip("llama_index.llms.openai_like", reason=NEEDED)
core = pytest.importorskip("llama_index.core.llms", reason=NEEDED)
tools = pytest.importorskip("llama_index.core.tools", reason=NEEDED)
pydantic = pytest.importorskip("pydantic")  # which LlamaIndex brings

QUESTION = "What is the capital of France? Answer in one sentence."


class Town(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    """A town and its rivers."""

    name: Literal["Paris", "Rome"]
    rivers: Literal[1, 2, 3]


def model(gateway: str, *, chat: bool, **more: Any) -> Any:
    return openai_like.OpenAILike(
        api_base=gateway,
        api_key="none",
        model="smollm2",
        is_chat_model=chat,
        context_window=2048,
        temperature=0,
        max_retries=0,
        timeout=60,
        **{"max_tokens": 24, **more},
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


def test_with_asyncio(gateway: str) -> None:
    llm = model(gateway, chat=True)
    messages = [core.ChatMessage(role="user", content=QUESTION)]

    async def ask() -> tuple[Any, str, Any]:
        whole = await llm.achat(messages)
        said = [piece.delta or "" async for piece in await llm.astream_chat(messages)]
        return whole, "".join(said), await llm.acomplete(QUESTION)

    whole, said, completion = asyncio.run(ask())
    assert "Paris" in whole.message.content
    assert "Paris" in said
    assert "Paris" in completion.text


def test_tools(gateway: str) -> None:
    def get_weather(days: int) -> str:
        """The weather of the next days."""
        return f"Sunny, for {days} days."

    llm = model(gateway, chat=True, max_tokens=80, is_function_calling_model=True)
    weather = tools.FunctionTool.from_defaults(get_weather)
    answer = llm.chat_with_tools([weather], user_msg=QUESTION, tool_required=True)
    (call,) = llm.get_tool_calls_from_response(answer)
    assert call.tool_name == "get_weather"
    assert weather(**call.tool_kwargs).raw_output.startswith("Sunny")


@pytest.mark.parametrize("how", ["should_use_structured_outputs", "is_function_calling_model"])
def test_structured_output(gateway: str, how: str) -> None:
    llm = model(gateway, chat=True, max_tokens=80, **{how: True})
    town = llm.as_structured_llm(Town).complete(QUESTION).raw
    assert isinstance(town, Town)
