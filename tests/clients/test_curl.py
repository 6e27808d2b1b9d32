"""curl, as the README uses it."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

CURL = shutil.which("curl")
pytestmark = pytest.mark.skipif(
    CURL is None, reason="curl is not installed: `make test-clients` needs it"
)


def curl(url: str, body: object, *flags: str) -> str:
    """What curl prints, its faults included."""
    command = [
        CURL or "curl", "-sS", "--fail-with-body", "--max-time", "60", *flags, url,
        "-H", "Content-Type: application/json", "-d", json.dumps(body),
    ]  # fmt: skip
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout


def chat(**more: object) -> dict[str, object]:
    messages = [
        {"role": "user", "content": "What is the capital of France? Answer in one sentence."}
    ]
    return {"model": "smollm2", "messages": messages, "max_tokens": 24, "temperature": 0, **more}


def test_chat(gateway: str) -> None:
    answer = json.loads(curl(f"{gateway}/chat/completions", chat()))
    assert "Paris" in answer["choices"][0]["message"]["content"]


def test_stream_ends_with_done(gateway: str) -> None:
    said = curl(f"{gateway}/chat/completions", chat(stream=True), "-N")
    *events, last = [line.removeprefix("data: ") for line in said.splitlines() if line]
    assert last == "[DONE]"
    assert len(events) > 3
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
    assert "Paris" in "".join(delta.get("content") or "" for delta in deltas)


def test_a_key_as_the_documentation_sends_it(guarded: dict[str, str]) -> None:
    url = f"{guarded['url']}/v1/chat/completions"
    said = curl(url, chat(stream=True), "-N", "-H", f"Authorization: Bearer {guarded['alice']}")
    assert said.endswith("data: [DONE]\n\n")
    for name in ("x-api-key", "api-key"):
        answer = json.loads(curl(url, chat(), "-H", f"{name}: {guarded['alice']}"))
        assert "Paris" in answer["choices"][0]["message"]["content"]


def test_without_the_right_key_it_is_a_401_and_a_403(guarded: dict[str, str]) -> None:
    url = f"{guarded['url']}/v1/chat/completions"
    right, wrong = (["-H", f"x-api-key: {guarded[name]}"] for name in ("alice", "wrong"))
    for flags, model, status, code in (
        ([], "smollm2", 401, "invalid_api_key"),
        (wrong, "smollm2", 401, "invalid_api_key"),
        (right, "embedder", 403, "not_permitted"),
    ):
        with pytest.raises(subprocess.CalledProcessError) as caught:
            curl(url, chat(model=model), *flags, "-w", "\n%{http_code}")
        body, told = caught.value.stdout.rsplit("\n", 1)
        assert (int(told), json.loads(body)["error"]["code"]) == (status, code)


def test_unknown_model_is_a_404_in_json(gateway: str) -> None:
    url = f"{gateway}/chat/completions"
    with pytest.raises(subprocess.CalledProcessError) as caught:
        curl(url, chat(model="gpt-9"), "-w", "\n%{http_code} %{content_type}")
    body, status = caught.value.stdout.rsplit("\n", 1)
    assert status.startswith("404 application/json")
    assert "smollm2" in json.loads(body)["error"]["message"]
