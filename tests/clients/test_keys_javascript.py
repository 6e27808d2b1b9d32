"""The JavaScript SDKs of OpenAI and Anthropic with a key; keys_js.mjs does the asking."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

SDKS = pytest.mark.parametrize("sdk", ["openai", "anthropic"])


@pytest.fixture(scope="module")
def seen(node: Callable[[str, str], Any], guarded: dict[str, str]) -> Any:
    """What the script saw."""
    return node("keys_js.mjs", json.dumps(guarded))


@SDKS
def test_chat_and_streams_with_a_key(seen: Any, sdk: str) -> None:
    assert "Paris" in seen[f"{sdk}Chat"]
    assert len(seen[f"{sdk}Stream"]) > 1
    assert "Paris" in "".join(seen[f"{sdk}Stream"])


@SDKS
def test_a_wrong_key_is_an_authentication_error(seen: Any, sdk: str) -> None:
    told = seen[f"{sdk}Wrong"]
    assert (told["error"], told["status"]) == ("AuthenticationError", 401)


@SDKS
def test_another_model_is_a_permission_denied_error(seen: Any, sdk: str) -> None:
    told = seen[f"{sdk}Other"]
    assert (told["error"], told["status"]) == ("PermissionDeniedError", 403)
    assert "embedder" in told["message"]


@SDKS
def test_a_limit_is_waited_for_as_told_or_is_a_rate_limit_error(seen: Any, sdk: str) -> None:
    told = seen["limits"][sdk]
    assert (told["error"]["error"], told["error"]["status"]) == ("RateLimitError", 429)
    assert "Paris" in told["answer"]
    # Of the one under way; of the one that gave up; of the one that got in when it came again.
    assert told["statuses"] == [200, 429, 429, 429, 200]
    assert told["seconds"] >= 1  # `Retry-After`; by itself it would have come after half of that
