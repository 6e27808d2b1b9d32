"""Every route, through the gateway and at the engine itself: the same answer, byte for byte.

Each request is sent to the model's own backend and to the gateway. What may differ is what differs
between any two answers of the engine: ids, times, and what it counts. A model's slot is warmed up
first, so that both find the same prompt cache.
"""

from __future__ import annotations

import gzip
import http.client
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llamagw.dialects import ROUTES, Where
from tests.whole.harness import DEADLINE, Gateway, model, wait_until

HELLO = [{"role": "user", "content": "Hello!"}]
EXACT = {"temperature": 0, "seed": 1}
TEXT = {"prompt": "One, two,", "n_predict": 6, "max_tokens": 6, **EXACT}
CHAT = {"messages": HELLO, "max_tokens": 6, **EXACT}
RESPONSE = {"input": "Hello!", "max_output_tokens": 6, **EXACT}
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
GAP = {"input_prefix": "def f(", "input_suffix": "return 1", "n_predict": 4}
DOCUMENTS = {"query": "river", "documents": ["a river", "a mountain", "the sea"]}
FORM = (
    b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
    b"Content-Type: audio/wav\r\n\r\nRIFF" + bytes(range(256)) * 200 + b"\r\n"
    b'--xyz\r\nContent-Disposition: form-data; name="model"\r\n\r\nchat\r\n--xyz--\r\n'
)


class Ask(NamedTuple):
    """One request: what is added to the path, what is sent, and of whom it is asked."""

    body: Any = None
    query: str = ""
    model: str = "chat"


#: What is asked at each path; where a path takes GET and POST, the method stands before it.
ASKS: dict[str, list[Ask]] = {
    "/v1/chat/completions": [
        Ask(CHAT),
        Ask({**CHAT, "stream": True}),
        Ask({**CHAT, "stream": True, "stream_options": {"include_usage": True}}),
        Ask({**CHAT, "logprobs": True, "top_logprobs": 2, "n": 1}),
        Ask({**CHAT, "response_format": {"type": "json_object"}}),
        Ask({**CHAT, "max_tokens": 20, "tools": [TOOL], "tool_choice": "required"}),
        Ask({"messages": "no list"}),
        Ask({**CHAT, "messages": []}),
    ],
    "/chat/completions": [Ask(CHAT), Ask({**CHAT, "stream": True})],
    "/v1/completions": [Ask(TEXT), Ask({**TEXT, "stream": True}), Ask({"prompt": 1.5})],
    "/completions": [Ask(TEXT)],
    "/completion": [Ask(TEXT), Ask({**TEXT, "stream": True}), Ask({})],
    "/v1/embeddings": [
        Ask({"input": ["one", "two"]}, model="embedder"),
        Ask({"input": "one", "encoding_format": "base64"}, model="embedder"),
        Ask({"input": "one"}),
    ],
    "/embeddings": [Ask({"input": "one"}, model="embedder")],
    "/embedding": [Ask({"content": "one"}, model="embedder")],
    "/v1/responses": [Ask(RESPONSE), Ask({**RESPONSE, "stream": True}), Ask({})],
    "/responses": [Ask(RESPONSE)],
    "/v1/messages": [Ask(CHAT), Ask({**CHAT, "stream": True}), Ask({"max_tokens": 1})],
    "/v1/messages/count_tokens": [Ask({"messages": HELLO})],
    "/v1/chat/completions/input_tokens": [Ask({"messages": HELLO})],
    "/chat/completions/input_tokens": [Ask({"messages": HELLO})],
    "/v1/responses/input_tokens": [Ask({"input": "Hello!"})],
    "/responses/input_tokens": [Ask({"input": "Hello!"})],
    "/v1/chat/completions/control": [Ask({"id": "chatcmpl-none", "action": "none"})],
    "/infill": [Ask(GAP)],
    "/v1/rerank": [Ask(DOCUMENTS, model="reranker"), Ask(DOCUMENTS)],
    "/v1/reranking": [Ask(DOCUMENTS, model="reranker")],
    "/rerank": [Ask(DOCUMENTS, model="reranker")],
    "/reranking": [Ask(DOCUMENTS, model="reranker")],
    "/tokenize": [Ask({"content": "Hello, wörld", "with_pieces": True})],
    "/detokenize": [Ask({"tokens": [1, 2, 300]})],
    "/apply-template": [Ask({"messages": HELLO})],
    "POST /props": [Ask({})],
    "GET /props": [Ask()],
    "/slots": [Ask()],
    "/metrics": [Ask()],
    "GET /lora-adapters": [Ask()],
    "POST /lora-adapters": [Ask([])],
    "/slots/{id}": [
        Ask({"filename": "slot.bin"}, "action=save"),
        Ask({"filename": "slot.bin"}, "action=restore"),
        Ask({}, "action=erase"),
        Ask({}, "action=nothing"),
    ],
    "/v1/audio/transcriptions": [Ask(FORM)],
    "/audio/transcriptions": [Ask(FORM)],
    "/v1/audio/speech": [Ask({"input": "Hello!"})],
    "/v1/audio/voices": [Ask()],
    "/v1/images/generations": [Ask({"prompt": "a river"})],
    "/v1/images/edits": [Ask(FORM)],
}

#: What of the engine serves otherwise, asked by path.
BY_PATH = [
    ("GET", "/health"),
    ("HEAD", "/health"),
    ("GET", "/v1/models"),
    ("GET", "/"),
    ("GET", "/nothing?a=b%20c"),
    ("DELETE", "/v1/stream/none"),
    ("PUT", "/props"),
]


def calls() -> Iterator[tuple[str, str, Ask]]:
    for route in ROUTES:
        if route.where is Where.PATH:
            continue
        for method in route.methods:
            for path in route.paths:
                for ask in ASKS.get(path) or ASKS[f"{method} {path}"]:
                    yield method, path, ask


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    slots = str(tmp_path_factory.mktemp("slots"))
    one = {"parallel": 1, "context_size": 512}
    models = [
        model("chat", extra_args=["--metrics", "--props", "--slot-save-path", slots], **one),
        model("embedder", extra_args=["--embeddings", "--pooling", "mean"], **one),
        model("reranker", extra_args=["--reranking"], **one),
    ]
    gateway = Gateway(models, max_loaded_models=3).start()
    try:
        for name in ("chat", "embedder", "reranker"):
            gateway.ask("POST", "/tokenize", {"model": name, "content": "load"})
        yield gateway
    finally:
        gateway.stop()


#: Headers of one hop, and those that the gateway adds.
_NOT_COMPARED = (
    "connection",
    "keep-alive",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "x-request-id",
    "server-timing",
)


class Heard(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def hear(
    port: int, method: str, target: str, body: Any, key: Mapping[str, str] | None = None
) -> Heard:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    # The engine's page comes in no other way.
    headers = {"Accept-Encoding": "gzip", **(key or {})}
    if isinstance(body, bytes):
        headers["Content-Type"] = "multipart/form-data; boundary=xyz"
    elif body is not None:
        body, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
    connection.request(method, target, body, headers)
    answer = connection.getresponse()
    kept = {
        name.lower(): value
        for name, value in answer.getheaders()
        if name.lower() not in _NOT_COMPARED
    }
    heard = Heard(answer.status, kept, answer.read())
    connection.close()
    return heard


def settled(heard: Heard) -> Heard:
    """Without what differs between any two answers of the engine."""
    body = re.sub(rb"\b(chatcmpl|resp|msg|rs|fc|call)([-_])\w{8,}", rb"\1\2ID", heard.body)
    body = re.sub(rb'"(id|media_marker)":"\w{32}|<__media_\w+__>', b"ID", body)
    body = re.sub(rb'("(?:created|created_at|completed_at|id_task)":)\d+', rb"\1 0", body)
    body = re.sub(rb'("\w+_(?:ms|second|n_total)":)[\d.e+-]+', rb"\1 0", body)
    if body.startswith(b"# HELP"):
        body = re.sub(rb"(?m)^(llamacpp\S+) \S+$", rb"\1 0", body)
    headers = dict(heard.headers)
    if len(body) != len(heard.body):
        headers.pop("content-length", None)
    return Heard(heard.status, headers, body)


def test_there_is_something_to_ask_at_every_path() -> None:
    known = {path for route in ROUTES if route.where is not Where.PATH for path in route.paths}
    assert {path.split()[-1] for path in ASKS} == known


@pytest.mark.parametrize(("method", "path", "ask"), [*calls()])
def test_a_route_answers_as_the_engine_itself(
    gateway: Gateway, method: str, path: str, ask: Ask
) -> None:
    body, where = ask.body, next(r.where for r in ROUTES if path in r.paths and method in r.methods)
    if where is Where.BODY:
        body = {"model": ask.model, **body}
    named = f"model={ask.model}" if where is Where.QUERY else ""
    query = "&".join(filter(None, (ask.query, named)))
    target = path.replace("{id}", "0") + ("?" + query if query else "")
    backend = gateway.report(ask.model)["port"]
    key = gateway.key_of(backend)
    for _ in range(2):
        direct = settled(hear(backend, method, target, body, key))
    # A slot is busy for a moment after its answer has gone out.
    wait_until(lambda: not gateway.busy_slots(ask.model), "the slot is free")
    through = settled(hear(gateway.port, method, target, body))
    assert through == direct


@pytest.mark.parametrize(("method", "rest"), BY_PATH)
def test_by_path_everything_answers_as_the_engine_itself(
    gateway: Gateway, method: str, rest: str
) -> None:
    backend = gateway.report("chat")["port"]
    direct = settled(hear(backend, method, rest, None, gateway.key_of(backend)))
    through = settled(hear(gateway.port, method, f"/upstream/chat{rest}", None))
    assert through == direct


def test_the_engine_s_own_page_is_served(gateway: Gateway) -> None:
    answer = hear(gateway.port, "GET", "/upstream/chat/", None)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/html")
    # With what it is made of, and what its script asks for without knowing of a key.
    [script] = set(re.findall(rb'import\("\./(.+?)"\)', gzip.decompress(answer.body)))
    for rest in (script.decode(), "props", "slots", "v1/models"):
        assert hear(gateway.port, "GET", f"/upstream/chat/{rest}", None).status == 200, rest


@pytest.mark.parametrize("path", ["/props", "/slots", "/metrics", "/v1/chat/completions"])
def test_an_engine_answers_the_gateway_only(gateway: Gateway, path: str) -> None:
    port = gateway.report("chat")["port"]
    body = {"model": "chat", **CHAT} if path == "/v1/chat/completions" else None
    method = "GET" if body is None else "POST"
    assert hear(port, method, path, body).status == 401
    for name in ("Authorization", "X-Api-Key"):
        assert hear(port, method, path, body, {name: "Bearer none"}).status == 401
    query = "?model=chat" if body is None else ""
    headers: tuple[dict[str, str], ...] = (
        {},
        {"Authorization": "Bearer none"},
        {"X-Api-Key": "none"},
    )
    for header in headers:
        assert hear(gateway.port, method, path + query, body, header).status == 200


def test_the_key_of_an_engine_is_told_nowhere(gateway: Gateway) -> None:
    port = gateway.report("chat")["port"]
    key = gateway.key_of(port)["Authorization"].removeprefix("Bearer ")
    told = [gateway.log, *(word for process in gateway.backends() for word in process.cmdline())]
    for path in (
        "/models/logs?model=chat&lines=200",
        "/config",
        "/models",
        "/health",
        "/metrics",
        "/activity",
    ):
        reply = gateway.ask("GET", path)
        assert reply.status == 200, path
        told.append(reply.body.decode())
    assert len(key) > 40
    assert key[:43] not in "\n".join(told)


def test_a_slot_was_really_saved(gateway: Gateway) -> None:
    folder = next(m for m in gateway.config["models"] if m["name"] == "chat")["extra_args"][-1]
    body = {"filename": "again.bin"}
    answer = hear(gateway.port, "POST", "/slots/0?action=save&model=chat", body)
    assert answer.status == 200
    assert (Path(folder) / "again.bin").stat().st_size > 0
