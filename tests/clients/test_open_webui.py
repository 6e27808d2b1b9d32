"""Open WebUI: `open-webui serve` pointed at the gateway, driven by its own HTTP API.

Large, so that only `make test-open-webui` runs it: OPEN_WEBUI says where its command is.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

OPEN_WEBUI = os.environ.get("OPEN_WEBUI")  # an absolute path
pytestmark = pytest.mark.skipif(OPEN_WEBUI is None, reason="only `make test-open-webui` runs it")
START, DEADLINE = 180.0, 60.0
ASK: dict[str, Any] = {
    "model": "smollm2",
    "max_tokens": 24,
    "temperature": 0,
    "messages": [
        {"role": "user", "content": "What is the capital of France? Answer in one sentence."}
    ],
}


def settings(gateway: str, key: str, rag_key: str, folder: Path) -> dict[str, str]:
    return {
        "OPENAI_API_BASE_URL": gateway,
        "OPENAI_API_KEY": key,
        # Documents are embedded by the gateway too, so that no model is wanted from the network.
        "RAG_EMBEDDING_ENGINE": "openai",
        "RAG_EMBEDDING_MODEL": "embedder",
        "RAG_OPENAI_API_BASE_URL": gateway,
        "RAG_OPENAI_API_KEY": rag_key,
        "ENABLE_OLLAMA_API": "false",
        "OFFLINE_MODE": "true",
        "ANONYMIZED_TELEMETRY": "false",
        "DATA_DIR": str(folder),
        "WEBUI_SECRET_KEY": "for this test only",
    }


class Session:
    """One user of an Open WebUI."""

    def __init__(self, url: str) -> None:
        self.url, self.token = url, ""

    def open(self, path: str, body: object = None) -> Any:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        return urllib.request.urlopen(request, timeout=DEADLINE)

    def ask(self, path: str, body: object = None) -> Any:
        with self.open(path, body) as response:
            return json.load(response)


@pytest.fixture(scope="module")
def webui(gateway: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """An Open WebUI of its own, whose first user has signed up."""
    with serve(gateway, "none", "none", tmp_path_factory.mktemp("open-webui")) as session:
        yield session


@contextlib.contextmanager
def serve(gateway: str, key: str, rag_key: str, folder: Path) -> Iterator[Session]:
    """An Open WebUI with keys for chat and for documents, whose first user has signed up."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(OPEN_WEBUI), "serve", "--host", "127.0.0.1", "--port", port],
            env={**os.environ, **settings(gateway, key, rag_key, folder)},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        session = Session(f"http://127.0.0.1:{port}")
        wait_for(session, process, folder / "log")
        user = {"name": "One", "email": "one@example.com", "password": "Correct-horse-1"}
        session.token = session.ask("/api/v1/auths/signup", user)["token"]
        yield session
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE)
        finally:
            process.kill()
            process.wait()


def wait_for(session: Session, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it answers, or has ended without ever answering."""
    end = time.monotonic() + START
    while True:
        try:
            session.ask("/health")
            return
        except OSError:
            assert time.monotonic() < end, log.read_text()
        try:
            code = process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"open-webui ended with {code}:\n{log.read_text()}")


def test_lists_the_models(webui: Session) -> None:
    models = webui.ask("/api/models")["data"]
    assert {"smollm2", "embedder", "late"} <= {model["id"] for model in models}


def test_chat(webui: Session) -> None:
    answer = webui.ask("/api/chat/completions", ASK)
    assert "Paris" in answer["choices"][0]["message"]["content"]


def test_chat_stream(webui: Session) -> None:
    pieces = streamed(webui)
    assert len(pieces) > 1
    assert "Paris" in "".join(pieces)


def streamed(webui: Session) -> list[str]:
    """The pieces of a streamed answer."""
    with webui.open("/api/chat/completions", {**ASK, "stream": True}) as response:
        lines = [line.decode().strip() for line in response if line.strip()]
    *events, last = [line.removeprefix("data: ") for line in lines]
    assert last == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
    return [delta["content"] for delta in deltas if delta.get("content")]


def test_stream_left_early_frees_its_slot(
    webui: Session, slots_are_free: Callable[[], None]
) -> None:
    long = {**ASK, "stream": True, "max_tokens": 1500, "ignore_eos": True}
    with webui.open("/api/chat/completions", long) as response:
        assert response.readline().startswith(b"data: ")
    slots_are_free()


def test_faults_of_the_engine_pass_through(webui: Session) -> None:
    too_long = {**ASK, "messages": [{"role": "user", "content": "word " * 4000}]}
    with pytest.raises(urllib.error.HTTPError) as caught:
        webui.ask("/api/chat/completions", too_long)
    assert caught.value.code == 400
    assert b"exceeds the available context size" in caught.value.read()


def test_documents_are_embedded_by_the_gateway(webui: Session) -> None:
    embeds(webui)


def embeds(webui: Session) -> None:
    text = {"name": "rivers", "content": "The Seine flows through Paris.", "collection_name": "one"}
    assert webui.ask("/api/v1/retrieval/process/text", text)["status"] is True
    query = {"collection_name": "one", "query": "Which river flows through Paris?", "k": 1}
    found = webui.ask("/api/v1/retrieval/query/doc", query)
    assert found["documents"] == [["The Seine flows through Paris."]]


def test_where_the_gateway_wants_a_key(guarded: dict[str, str], tmp_path: Path) -> None:
    url = f"{guarded['url']}/v1"
    with serve(url, guarded["alice"], guarded["openai"], tmp_path) as webui:
        models = {model["id"] for model in webui.ask("/api/models")["data"]}
        assert "smollm2" in models
        assert "embedder" not in models
        answer = webui.ask("/api/chat/completions", ASK)
        assert "Paris" in answer["choices"][0]["message"]["content"]
        assert "Paris" in "".join(streamed(webui))
        embeds(webui)
        # What the button beside a connection of the admin panel asks.
        assert webui.ask("/openai/verify", {"url": url, "key": guarded["alice"]})["data"]
        with pytest.raises(urllib.error.HTTPError) as caught:
            webui.ask("/openai/verify", {"url": url, "key": guarded["wrong"]})
        assert caught.value.code == 401
        assert b"check sum is wrong" in caught.value.read()
