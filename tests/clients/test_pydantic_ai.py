"""`pydantic-ai`: its agents, whole and streamed; JSON schemas and tools."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest

NEEDED = "pydantic-ai is not installed: run `make test-clients`"
pydantic_ai = pytest.importorskip("pydantic_ai", reason=NEEDED)
openai_models = pytest.importorskip("pydantic_ai.models.openai", reason=NEEDED)
openai_providers = pytest.importorskip("pydantic_ai.providers.openai", reason=NEEDED)
pydantic = pytest.importorskip("pydantic")  # which it brings

QUESTION = "What is the capital of France? Answer in one sentence."


class Town(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    """A town and its rivers."""

    name: Literal["Paris", "Rome"]
    rivers: Literal[1, 2, 3]


def agent(gateway: str, output: Any = str) -> Any:
    provider = openai_providers.OpenAIProvider(base_url=gateway, api_key="none")
    return pydantic_ai.Agent(
        openai_models.OpenAIChatModel("smollm2", provider=provider),
        output_type=output,
        model_settings={"temperature": 0, "max_tokens": 80},
        retries=0,
    )


def test_run(gateway: str) -> None:
    result = agent(gateway).run_sync(QUESTION)
    assert "Paris" in result.output


def test_stream(gateway: str) -> None:
    async def ask() -> list[str]:
        async with agent(gateway).run_stream(QUESTION) as result:
            return [piece async for piece in result.stream_text(delta=True, debounce_by=None)]

    pieces = asyncio.run(ask())
    assert len(pieces) > 1
    assert "Paris" in "".join(pieces)


@pytest.mark.parametrize("output", ["NativeOutput", "ToolOutput"])
def test_structured_output(gateway: str, output: str) -> None:
    result = agent(gateway, getattr(pydantic_ai, output)(Town)).run_sync(QUESTION)
    assert result.output.rivers in (1, 2, 3)


def test_a_tool_is_called(gateway: str) -> None:
    asked = agent(gateway)
    days_asked: list[int] = []

    @asked.tool_plain
    def get_weather(days: Literal[1, 2, 3]) -> str:
        """The weather of the next days."""
        days_asked.append(days)
        return "Sunny."

    # The model calls it again and again, as the template taught it.
    with pytest.raises(pydantic_ai.UsageLimitExceeded):
        asked.run_sync(QUESTION, usage_limits=pydantic_ai.UsageLimits(request_limit=1))
    assert days_asked[0] in (1, 2, 3)
