"""Vercel's AI SDK on Node; vercel_js.mjs does the asking, this the judging."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="module")
def seen(node: Callable[[str, str], Any], gateway: str) -> Any:
    """What the script saw."""
    return node("vercel_js.mjs", gateway)


def test_text(seen: Any) -> None:
    assert "Paris" in seen["text"]["text"]
    assert 0 < seen["text"]["tokens"] <= 80


def test_stream(seen: Any) -> None:
    assert len(seen["stream"]) > 1
    assert "Paris" in "".join(seen["stream"])


def test_structured_output(seen: Any) -> None:
    assert seen["object"]["name"] in ("Paris", "Rome")
    assert seen["objectStream"]["name"] in ("Paris", "Rome")


def test_tools(seen: Any) -> None:
    assert seen["tools"] in (["Sunny in Paris."], ["Sunny in Rome."])


def test_tools_stream(seen: Any) -> None:
    assert seen["toolsStream"].count("tool-input-delta") >= 1
    assert "tool-result" in seen["toolsStream"]


def test_embedding(seen: Any) -> None:
    assert seen["embedding"] == 576


def test_an_unknown_model_is_told_in_the_gateway_s_words(seen: Any) -> None:
    assert (seen["unknownModel"]["error"], seen["unknownModel"]["status"]) == ("APICallError", 404)
    assert "smollm2" in seen["unknownModel"]["message"]
