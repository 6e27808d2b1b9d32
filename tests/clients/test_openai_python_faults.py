"""The `openai` Python SDK when things go wrong: exceptions, retries, timeouts, leaving early."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

openai = pytest.importorskip("openai", reason="openai is not installed: run `make test-clients`")

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
ASK: dict[str, Any] = {"model": "smollm2", "max_tokens": 24, "temperature": 0}
LONG: dict[str, Any] = {**ASK, "max_tokens": 1500, "extra_body": {"ignore_eos": True}}


@pytest.fixture
def client(gateway: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=gateway, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_unknown_model_is_not_found(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-9", messages=QUESTION)
    for name in ("gpt-9", "smollm2", "embedder"):
        assert name in caught.value.message
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_unknown_path_is_not_found(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="/v1/moderations"):
        client.moderations.create(model="smollm2", input="hello")


def test_faults_of_the_engine_pass_through(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="exceeds the available context size"):
        client.completions.create(model="smollm2", prompt="word " * 4000)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(messages=QUESTION, **{**ASK, "temperature": "hot"})
    with pytest.raises(openai.InternalServerError, match="does not support embeddings") as caught:
        client.embeddings.create(model="smollm2", input="hello")
    assert caught.value.status_code == 501


def test_transcription_by_a_model_without_ears(client: Any) -> None:
    with pytest.raises(openai.InternalServerError, match="does not support audio") as caught:
        client.audio.transcriptions.create(model="smollm2", file=("a.wav", b"RIFF" * 1000))
    assert caught.value.status_code == 501
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        client.audio.transcriptions.create(model="gpt-9", file=("a.wav", b"RIFF"))


def test_503_is_retried_until_the_model_is_there(
    gateway: str, late_arrives: Callable[[], None]
) -> None:
    seen: list[Any] = []

    def look(response: Any) -> None:
        if not seen:
            late_arrives()
        seen.append(response)

    http_client = openai.DefaultHttpxClient(event_hooks={"response": [look]})
    with openai.OpenAI(
        base_url=gateway, api_key="none", max_retries=3, timeout=60, http_client=http_client
    ) as client:
        answer = client.chat.completions.create(messages=QUESTION, **{**ASK, "model": "late"})
    assert answer.choices[0].message.content
    *refused, answered = [response.status_code for response in seen]
    assert (set(refused), answered) == ({503}, 200)
    assert int(seen[0].headers["retry-after"]) >= 1


def test_timeout_is_the_clients_own(client: Any) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3).chat.completions.create(
            messages=QUESTION, **{**LONG, "max_tokens": 80}
        )


def test_streams_left_early_free_their_slots(
    client: Any, slots_are_free: Callable[[], None]
) -> None:
    streams = [
        client.chat.completions.create(messages=QUESTION, stream=True, **LONG) for _ in range(4)
    ]
    for stream in streams:
        assert next(iter(stream)).object == "chat.completion.chunk"
    for stream in streams:
        stream.close()
    slots_are_free()
    answer = client.chat.completions.create(messages=QUESTION, **ASK)
    assert "Paris" in answer.choices[0].message.content


def test_cancelled_tasks_free_their_slots(gateway: str, slots_are_free: Callable[[], None]) -> None:
    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=gateway, api_key="none", timeout=60) as client:
            begun = asyncio.Event()

            async def stream() -> None:
                chunks = await client.chat.completions.create(
                    messages=QUESTION, stream=True, **LONG
                )
                async for _ in chunks:
                    begun.set()

            tasks = [asyncio.ensure_future(stream()) for _ in range(4)]
            await begun.wait()
            for task in tasks:
                task.cancel()
            return await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(result) for result in asyncio.run(ask())] == [asyncio.CancelledError] * 4
    slots_are_free()
