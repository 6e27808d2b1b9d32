"""`instructor`: answers as Pydantic models, whole, in parts and with asyncio."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest

NEEDED = "instructor is not installed: run `make test-clients`"
instructor = pytest.importorskip("instructor", reason=NEEDED)
openai = pytest.importorskip("openai", reason=NEEDED)
pydantic = pytest.importorskip("pydantic")  # which instructor brings


class Town(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    """A town and its rivers."""

    name: Literal["Paris", "Rome"]
    rivers: Literal[1, 2, 3]


ASK: dict[str, Any] = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "response_model": Town,
    "max_retries": 0,
    "max_tokens": 80,
    "temperature": 0,
}


def completions(gateway: str, mode: str, client: str = "OpenAI") -> Any:
    sdk = getattr(openai, client)(base_url=gateway, api_key="none", max_retries=0, timeout=60)
    return instructor.from_openai(sdk, mode=instructor.Mode[mode]).chat.completions


@pytest.mark.parametrize("mode", ["JSON_SCHEMA", "TOOLS"])
def test_structured_output(gateway: str, mode: str) -> None:
    assert completions(gateway, mode).create(**ASK).name in ("Paris", "Rome")


def test_parts_of_it_while_it_comes(gateway: str) -> None:
    *parts, town = completions(gateway, "JSON_SCHEMA").create_partial(**ASK)
    assert parts
    assert town.rivers in (1, 2, 3)


def test_with_asyncio(gateway: str) -> None:
    town = completions(gateway, "JSON_SCHEMA", "AsyncOpenAI").create(**ASK)
    assert asyncio.run(town).rivers in (1, 2, 3)
