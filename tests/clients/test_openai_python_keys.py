"""The `openai` Python SDK with a key, where the gateway wants one.

How it waits where a key has limits is in test_rate_limits.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

openai = pytest.importorskip("openai", reason="openai is not installed: run `make test-clients`")

ASK: dict[str, Any] = {
    "model": "smollm2",
    "max_tokens": 24,
    "temperature": 0,
    "messages": [
        {"role": "user", "content": "What is the capital of France? Answer in one sentence."}
    ],
}
LONG = {
    **ASK,
    "max_tokens": 1500,
    "extra_body": {"ignore_eos": True},
    "messages": [{"role": "user", "content": "Write the numbers from 1 to 500, one a line."}],
}


@pytest.fixture
def client(guarded: dict[str, str]) -> Iterator[Any]:
    url = f"{guarded['url']}/v1"
    with openai.OpenAI(base_url=url, api_key=guarded["alice"], max_retries=0, timeout=60) as client:
        yield client


def test_chat_and_streams_with_a_key(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["smollm2"]
    answer = client.chat.completions.create(**ASK)
    assert "Paris" in answer.choices[0].message.content
    chunks = list(client.chat.completions.create(stream=True, **ASK))
    assert len(chunks) > 2
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "Paris" in "".join(pieces)


def test_a_wrong_key_is_an_authentication_error(client: Any, guarded: dict[str, str]) -> None:
    stranger = client.with_options(api_key=guarded["wrong"]).chat.completions
    with pytest.raises(openai.AuthenticationError) as caught:
        stranger.create(**ASK)
    assert (caught.value.status_code, caught.value.code) == (401, "invalid_api_key")
    with pytest.raises(openai.AuthenticationError):
        stranger.create(stream=True, **ASK)


def test_another_model_is_a_permission_denied_error(client: Any) -> None:
    for name in ("embedder", "there-is-none"):  # which of them exists is not told
        with pytest.raises(openai.PermissionDeniedError) as caught:
            client.chat.completions.create(**{**ASK, "model": name})
        assert (caught.value.status_code, caught.value.code) == (403, "not_permitted")
        assert name in str(caught.value)


def test_a_limit_is_a_rate_limit_error_after_the_retries(guarded: dict[str, str]) -> None:
    statuses: list[int] = []
    hooks = {"response": [lambda response: statuses.append(response.status_code)]}
    with (
        openai.OpenAI(
            base_url=f"{guarded['url']}/v1",
            api_key=guarded["openai"],
            max_retries=1,
            http_client=openai.DefaultHttpxClient(event_hooks=hooks),
        ) as client,
        client.chat.completions.create(stream=True, **LONG) as stream,
    ):
        next(stream)
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(**ASK)
    assert statuses == [200, 429, 429]
    assert caught.value.code == "rate_limit_exceeded"
