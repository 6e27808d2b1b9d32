"""The `anthropic` Python SDK with a key, where the gateway wants one.

How it waits where a key has limits is in test_rate_limits.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

NEEDED = "anthropic is not installed: run `make test-clients`"
anthropic = pytest.importorskip("anthropic", reason=NEEDED)

ASK: dict[str, Any] = {
    "model": "smollm2",
    "max_tokens": 24,
    "messages": [
        {"role": "user", "content": "What is the capital of France? Answer in one sentence."}
    ],
    "extra_body": {"temperature": 0},
}
#: Takes long whatever the slot has cached. The engine's Messages API has no `ignore_eos`.
LONG = {
    **ASK,
    "max_tokens": 1500,
    "messages": [{"role": "user", "content": "Write the numbers from 1 to 500, one a line."}],
}


@pytest.fixture
def client(guarded: dict[str, str]) -> Iterator[Any]:
    with anthropic.Anthropic(
        base_url=guarded["url"], api_key=guarded["alice"], max_retries=0, timeout=60
    ) as client:
        yield client


def test_messages_and_streams_with_a_key(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["smollm2"]
    assert "Paris" in client.messages.create(**ASK).content[0].text
    with client.messages.stream(**ASK) as stream:
        pieces = list(stream.text_stream)
    assert len(pieces) > 1
    assert "Paris" in "".join(pieces)


def test_the_key_as_a_token_of_authorization(guarded: dict[str, str]) -> None:
    with anthropic.Anthropic(base_url=guarded["url"], auth_token=guarded["alice"]) as client:
        assert "Paris" in client.messages.create(**ASK).content[0].text


def test_a_wrong_key_is_an_authentication_error(client: Any, guarded: dict[str, str]) -> None:
    with pytest.raises(anthropic.AuthenticationError) as caught:
        client.with_options(api_key=guarded["wrong"]).messages.create(**ASK)
    assert caught.value.status_code == 401
    assert caught.value.body["error"]["type"] == "authentication_error"


def test_another_model_is_a_permission_denied_error(client: Any) -> None:
    with pytest.raises(anthropic.PermissionDeniedError) as caught:
        client.messages.create(**{**ASK, "model": "embedder"})
    assert caught.value.status_code == 403
    assert caught.value.body["error"]["type"] == "permission_error"


def test_a_limit_is_a_rate_limit_error_after_the_retries(guarded: dict[str, str]) -> None:
    statuses: list[int] = []
    hooks = {"response": [lambda response: statuses.append(response.status_code)]}
    with (
        anthropic.Anthropic(
            base_url=guarded["url"],
            api_key=guarded["anthropic"],
            max_retries=1,
            http_client=anthropic.DefaultHttpxClient(event_hooks=hooks),
        ) as client,
        client.messages.create(stream=True, **LONG) as stream,
    ):
        next(stream)
        with pytest.raises(anthropic.RateLimitError) as caught:
            client.messages.create(**ASK)
    assert statuses == [200, 429, 429]
    assert caught.value.body["error"]["type"] == "rate_limit_error"
