"""`haystack-ai`: its generator for chats, whole and streamed; tools, JSON, embeddings."""

from __future__ import annotations

import os
from typing import Any, Literal

import pytest

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")
NEEDED = "haystack-ai is not installed: run `make test-clients`"
generators = pytest.importorskip("haystack.components.generators.chat", reason=NEEDED)
embedders = pytest.importorskip("haystack.components.embedders", reason=NEEDED)
dataclasses = pytest.importorskip("haystack.dataclasses", reason=NEEDED)
tools = pytest.importorskip("haystack.tools", reason=NEEDED)
utils = pytest.importorskip("haystack.utils", reason=NEEDED)
pydantic = pytest.importorskip("pydantic")  # which it brings


class Town(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    name: Literal["Paris", "Rome"]


def ask(gateway: str, more: dict[str, Any] | None = None, **arguments: Any) -> Any:
    """The one reply."""
    generator = generators.OpenAIChatGenerator(
        api_key=utils.Secret.from_token("none"),
        model="smollm2",
        api_base_url=gateway,
        max_retries=0,
        generation_kwargs={"temperature": 0, "max_tokens": 80, **(more or {})},
        **arguments,
    )
    question = "What is the capital of France? Answer in one sentence."
    (reply,) = generator.run([dataclasses.ChatMessage.from_user(question)])["replies"]
    return reply


def test_chat(gateway: str) -> None:
    assert "Paris" in ask(gateway).text


def test_stream(gateway: str) -> None:
    pieces: list[str] = []
    reply = ask(gateway, streaming_callback=lambda chunk: pieces.append(chunk.content))
    assert len(pieces) > 3
    assert "Paris" in reply.text == "".join(pieces)


def test_structured_output(gateway: str) -> None:
    assert Town.model_validate_json(ask(gateway, {"response_format": Town}).text)


def test_tools(gateway: str) -> None:
    weather = tools.Tool(
        name="get_weather",
        description="The weather of the next days.",
        parameters={
            "type": "object",
            "properties": {"days": {"enum": [1, 2, 3]}},
            "required": ["days"],
        },
        function=lambda days: f"Sunny, for {days} days.",
    )
    (call,) = ask(gateway, {"tool_choice": "required"}, tools=[weather]).tool_calls
    assert call.tool_name == "get_weather"
    assert weather.invoke(**call.arguments).startswith("Sunny")


def test_embedding(gateway: str) -> None:
    embedder = embedders.OpenAITextEmbedder(
        api_key=utils.Secret.from_token("none"), model="embedder", api_base_url=gateway
    )
    assert len(embedder.run("hello")["embedding"]) == 576
