"""`smolagents`: what its agents ask of a model. SmolLM2-135M is too small for an agent itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

NEEDED = "smolagents is not installed: run `make test-clients`"
smolagents = pytest.importorskip("smolagents", reason=NEEDED)

QUESTION = [
    {
        "role": "user",
        "content": [
            {
                "type": "text",
                "text": "What is the capital of France? Answer in one sentence.",
            }
        ],
    }
]
TOWN = {"type": "object", "properties": {"name": {"enum": ["Paris", "Rome"]}}, "required": ["name"]}


@pytest.fixture
def model(gateway: str) -> Any:
    return smolagents.OpenAIModel(
        model_id="smollm2", api_base=gateway, api_key="none", temperature=0, max_tokens=80
    )


def test_generate(model: Any) -> None:
    answer = model.generate(QUESTION)
    assert "Paris" in answer.content
    assert 0 < answer.token_usage.output_tokens <= 80


def test_stream(model: Any) -> None:
    pieces = [piece.content for piece in model.generate_stream(QUESTION) if piece.content]
    assert len(pieces) > 1
    assert "Paris" in "".join(pieces)


def test_structured_output(model: Any) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "town", "schema": TOWN}}
    answer = model.generate(QUESTION, response_format=wanted)
    assert json.loads(answer.content)["name"] in ("Paris", "Rome")


def test_tools(model: Any) -> None:
    def get_weather(days: int) -> str:
        """The weather of the next days.

        Args:
            days: how many
        """
        return f"Sunny, for {days} days."

    tools = [smolagents.tool(get_weather)]
    (call,) = model.generate(QUESTION, tools_to_call_from=tools).tool_calls
    assert call.function.name == "get_weather"
    assert isinstance(json.loads(call.function.arguments)["days"], int)
