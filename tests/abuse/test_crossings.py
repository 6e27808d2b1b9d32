"""A key for some models gets to no other one, by whatever name and from wherever it is named."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

import pytest

from tests.abuse.attacked import Attacked, line, raw
from tests.support.messages import CHAT, head_and_body, response

CHAT_PATH = CHAT.encode()


@pytest.fixture(scope="module")
def attacked() -> Attacked:
    return Attacked()


def chat(body: object, *headers: tuple[str, str], path: str = CHAT) -> bytes:
    """A request with this body, without a key."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = b"".join(line(name.encode(), value.encode()) for name, value in headers)
    return raw(path.encode(), lines, data)


def get(target: str, *headers: tuple[str, str], method: str = "GET") -> bytes:
    lines = b"".join(line(name.encode(), value.encode()) for name, value in headers)
    return raw(target.encode(), lines, b"", method.encode())


def form(*fields: tuple[str, str], path: str = "/v1/audio/transcriptions", **more: str) -> bytes:
    """A form; each field with its head's rest and its value."""
    parts = "".join(
        f"--x\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n"
        for head, value in fields
    )
    kind = more.get("kind", "multipart/form-data; boundary=x")
    return chat((parts + "--x--\r\n").encode(), ("Content-Type", kind), path=path)


def with_key(data: bytes, secret: str) -> bytes:
    first, _, rest = data.partition(b"\r\n")
    return b"%b\r\nX-Api-Key: %b\r\n%b" % (first, secret.encode(), rest)


FILE = ('name="file"; filename="a.wav"', "RIFF")
WEBSOCKET = (("Connection", "Upgrade"), ("Upgrade", "websocket"))

#: Requests for the model `secret`, as a key for `mine` sends them: all are refused.
CROSSINGS: dict[str, bytes] = {
    "its name": chat({"model": "secret"}),
    "an alias": chat({"model": "s1"}),
    "a pattern of its aliases": chat({"model": "s-anything"}),
    "an alias with a slash": chat({"model": "org/secret"}),
    "the default, with no name": chat({}),
    "the default, with null": chat({"model": None}),
    "the default, with an empty name": chat({"model": ""}),
    "the default, by a query that counts for nothing": chat({}, path=f"{CHAT}?model=mine"),
    "Anthropic's path": chat({"model": "secret"}, path="/v1/messages"),
    "a stream": chat({"model": "secret", "stream": True}),
    "other capitals": chat({"model": "Secret"}),
    "a blank behind it": chat({"model": "secret "}),
    "a zero byte behind it": chat({"model": "secret\0"}),
    "a line feed behind it": chat({"model": "secret\n"}),
    "a right-to-left mark before it": chat({"model": "\u200fsecret"}),
    "full width": chat({"model": "ｓecret"}),
    "a Cyrillic letter": chat({"model": "sеcret"}),
    "a soft hyphen in mine": chat({"model": "mi\u00adne"}),
    "mine, and then a zero byte and it": chat({"model": "mine\0secret"}),
    "mine, and then a slash and it": chat({"model": "mine/secret"}),
    "a path": chat({"model": "../secret"}),
    "a path from mine": chat({"model": "mine/../secret"}),
    "percent-encoded": chat({"model": "%73ecret"}),
    "a star": chat({"model": "*"}),
    "a pattern": chat({"model": "s*"}),
    "a pattern that fits mine too": chat({"model": "[ms]*"}),
    "escapes in its name": chat(b'{"model": "\\u0073ecret"}'),
    "an escape in the key": chat(b'{"mod\\u0065l": "secret"}'),
    "first mine, then it": chat(b'{"model": "mine", "model": "secret"}'),
    "first mine, then it by an escaped key": chat(b'{"model": "mine", "mod\\u0065l": "secret"}'),
    "first mine, then null": chat(b'{"model": "mine", "model": null}'),
    "mine deeper inside": chat({"metadata": {"model": "mine"}, "model": "secret"}),
    "a query": get("/props?model=secret"),
    "a query with its alias": get("/props?model=s1"),
    "a query, percent-encoded": get("/props?model=%73%65cret"),
    "a query without a value": get("/props?model="),
    "a query without the model": get("/props"),
    "a query that loads": get("/props?model=secret&autoload=true"),
    "HEAD": get("/props?model=secret", method="HEAD"),
    "its slots": get("/slots?model=secret"),
    "its metrics": get("/metrics?model=secret"),
    "its adapters": get("/lora-adapters?model=s1"),
    "a slot of it": get("/slots/0?model=secret&action=save", method="POST"),
    "its properties, to be changed": chat({"model": "secret"}, path="/props"),
    "a form": form(('name="model"', "secret"), FILE),
    "a form without the model": form(FILE),
    "a form with an alias": form(('name="model"', "s1"), FILE, path="/v1/images/edits"),
    "its engine": get("/upstream/secret/health"),
    "its engine, by an alias": get("/upstream/s1/health"),
    "its engine, by a pattern": get("/upstream/s-x/health"),
    "its engine, by an alias with a slash": get("/upstream/org/secret/health"),
    "its engine, by an encoded slash": get("/upstream/org%2Fsecret/health"),
    "its engine, percent-encoded": get("/upstream/%73ecret/health"),
    "its engine, to be changed": chat({"model": "mine"}, path="/upstream/secret/v1/x"),
    "its engine, by a WebSocket": get("/upstream/secret/ws", *WEBSOCKET),
    "its page, for a browser": get("/upstream/secret/", ("Accept", "text/html")),
    "its entry": get("/v1/models/secret"),
    "its entry, by an alias": get("/v1/models/s1"),
    "its entry, by an encoded slash": get("/v1/models/org%2Fsecret"),
    "its log": get("/models/logs?model=secret"),
    "its log, for ever": get("/models/logs?model=s1&follow=true"),
    "all logs": get("/models/logs?all=true"),
    "the log of the default": get("/models/logs"),
    "to be loaded": chat({"model": "secret"}, path="/models/load"),
    "to be loaded by an alias": chat({"model": "s1", "wait": True}, path="/models/load"),
    "to be unloaded": chat({"model": "org/secret", "force": True}, path="/models/unload"),
    "to be pinned": chat({"model": "s-1"}, path="/models/pin"),
    "two orders in one": chat(b'{"model": "mine", "model": "secret"}', path="/models/unload"),
}


@pytest.mark.parametrize("case", CROSSINGS)
def test_another_model_is_refused(attacked: Attacked, case: str) -> None:
    # With every scope: what is refused is refused for the model.
    attempt = attacked.attempt(with_key(CROSSINGS[case], attacked.boss))
    assert attempt.heard.startswith(b"HTTP/1.1 403 "), attempt.heard
    assert (attempt.asked, attempt.orders) == ([], [])
    # But for what was sent, there is no word of it.
    said = unquote_to_bytes(CROSSINGS[case])
    for name in (b"org/secret", b"s-*", b"s1"):
        assert name in said or name not in attempt.heard


@pytest.mark.parametrize("case", CROSSINGS)
def test_who_may_use_all_is_not_refused(attacked: Attacked, case: str) -> None:
    """Else the table would prove nothing."""
    attempt = attacked.attempt(with_key(CROSSINGS[case], attacked.admin))
    assert not attempt.heard.startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 401 "))


#: Requests that some servers may read as being for `secret`, and others for `mine`: none gets
#: there, and what is not clear is refused.
UNCLEAR: dict[str, bytes] = {
    "a query with both": get("/props?model=mine&model=secret"),
    "a query with both, the other way round": get("/props?model=secret&model=mine"),
    "a query with a semicolon": get("/props?model=mine;model=secret"),
    "a query with an encoded key": get("/props?%6dodel=secret"),
    "a query with an encoded key beside it": get("/props?model=mine&mode%6c=secret"),
    "a query with a plus": get("/props?+model=mine&model=secret"),
    "a query that is no text": get("/props?model=%ff"),
    "a form with both": form(('name="model"', "mine"), ('name="model"', "secret"), FILE),
    "a form with a file called model": form(
        ('name="model"', "mine"), ('name="model"; filename="x"', "secret")
    ),
    "a form with two names": form(('name="model"; name="x"', "secret"), FILE),
    "a form with a name in another encoding": form(("name*=utf-8''model", "secret"), FILE),
    "a form with two boundaries": form(
        ('name="model"', "mine"), kind="multipart/form-data; boundary=x; boundary=y"
    ),
    "a form with two types": raw(
        b"/v1/audio/transcriptions",
        line(b"Content-Type", b"multipart/form-data; boundary=x")
        + line(b"Content-Type", b"multipart/form-data; boundary=y"),
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nmine\r\n--x--\r\n',
    ),
    "JSON where a form is wanted": chat({"model": "mine"}, path="/v1/audio/transcriptions"),
    "a form where JSON is wanted": form(('name="model"', "mine"), path=CHAT),
    "a name that is a number": chat(b'{"model": 1}'),
    "a name that is a list": chat(b'{"model": ["mine", "secret"]}'),
    "a name that is an object": chat(b'{"model": {"mine": "secret"}}'),
    "a list": chat(b'[{"model": "mine"}]'),
    "two values": chat(b'{"model": "mine"}{"model": "secret"}'),
    "a comment": chat(b'{"model": "mine" /*, "model": "secret"*/}'),
    "single quotes": chat(b"{'model': 'secret'}"),
    "a key without quotes": chat(b'{model: "secret"}'),
    "half a surrogate": chat(b'{"model": "\\ud800"}'),
    "bytes that are no text": chat(b'{"model": "\xff"}'),
    "UTF-16": chat('{"model": "secret"}'.encode("utf-16")),
    "a byte order mark": chat(b'\xef\xbb\xbf{"model": "secret"}'),
    "compressed": chat(gzip.compress(b'{"model": "secret"}'), ("Content-Encoding", "gzip")),
    "a name of 1,000 characters": chat({"model": "m-" + "x" * 1000}),
    "a thousand brackets": chat(b"[" * 1000),
    "for another server, in capitals": chat(b'{"model": "far", "MODEL": "secret"}'),
    "for another server, half in capitals": chat(b'{"Model": "secret", "model": "far"}'),
    "for another server, twice in a query": get("/props?model=far&Model=x&model=secret"),
    "an engine's path that leaves it": get("/upstream/mine/../secret/health"),
    "an engine's path that leaves it, encoded": get("/upstream/mine/%2e%2e/secret/health"),
    "an engine's path that leaves it, encoded twice": get("/upstream/mine/%252e%252e/secret/x"),
    "an engine's path with a parameter": get("/upstream/mine/..;/secret/health"),
    "an engine's path with a backslash": get("/upstream/mine/..\\secret\\health"),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_what_is_not_clear_is_refused(case: str) -> None:
    attacked = Attacked()
    attempt = attacked.attempt(with_key(UNCLEAR[case], attacked.boss))
    assert "secret" not in attempt.asked
    assert attempt.orders == []
    heard = attempt.heard
    if not heard:
        # What another server may read differently is looked at before it is sent there.
        backend = attacked.bench.backend()
        attacked.bench.settle()
        assert backend.heard == b""
        heard = bytes(attempt.client.heard)
    assert heard.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 "))


#: Requests for `mine` that look like some for `secret`: they go to the engine of `mine`.
MINE: dict[str, bytes] = {
    "first it, then mine": chat(b'{"model": "secret", "model": "mine"}'),
    "another key in capitals": chat(b'{"MODEL": "secret", "model": "mine"}'),
    "it, deeper inside": chat({"model": "mine", "metadata": {"model": "secret"}}),
    "it, in the text": chat({"model": "mine", "messages": ['"model": "secret"']}),
    "it, in the query": chat({"model": "mine"}, path=f"{CHAT}?model=secret"),
    "it, in a header": chat({"model": "mine"}, ("X-Model", "secret"), ("Model", "secret")),
    "another method in a header": chat(
        {"model": "mine"}, ("X-HTTP-Method-Override", "DELETE"), ("X-Http-Method", "PUT")
    ),
    "another path in a header": chat(
        {"model": "mine"}, ("X-Original-URL", "/models/load"), ("X-Rewrite-URL", "/models/load")
    ),
    "another prefix in a header": chat(
        {"model": "mine"}, ("X-Forwarded-Prefix", "/upstream/secret")
    ),
    "an alias of mine": chat({"model": "m1"}),
    "a pattern of mine": chat({"model": "m-secret"}),
    "a form with it for a file": form(
        ('name="model"', "mine"), ('name="file"; filename="secret"', "x")
    ),
    "another key in a query": get("/props?model=mine&Model=secret"),
}


@pytest.mark.parametrize("case", MINE)
def test_gate_and_engine_see_the_same_model(case: str) -> None:
    attacked = Attacked()
    attempt = attacked.attempt(with_key(MINE[case], attacked.boss))
    assert attempt.sent == ["mine"]
    first, _, body = head_and_body(attacked.bench.backend().heard)
    assert first.split()[1] == MINE[case].split()[1].decode()
    sent = MINE[case].partition(b"\r\n\r\n")[2]
    if sent.startswith(b"{"):
        # As Python and llama-server's own parser read it: of two keys the last one counts.
        assert json.loads(body)["model"] == json.loads(sent)["model"]


def test_the_name_that_another_server_gets_is_the_one_that_was_asked_for() -> None:
    attacked = Attacked()
    attempt = attacked.attempt(with_key(chat({"model": "far"}), attacked.alice))
    assert attempt.sent == ["far"]
    assert json.loads(head_and_body(attacked.bench.backend().heard)[2])["model"] == "far"


# ---- Keys and cookies are for the gateway alone -------------------------------------------------


SECRETS = {"authorization", "x-api-key", "api-key", "cookie"}


def _sent(attacked: Attacked, data: bytes) -> dict[str, str]:
    """The headers that a backend gets."""
    attacked.attempt(data)
    return head_and_body(attacked.bench.backend().heard)[1]


def _variants(key: str) -> Iterable[tuple[str, list[tuple[str, str]]]]:
    yield "a bearer", [("Authorization", f"Bearer {key}")]
    yield "x-api-key", [("x-api-key", key)]
    yield "api-key", [("API-Key", key)]
    yield "all of them", [("Authorization", f"bearer {key}"), ("x-api-key", key), ("api-key", key)]
    yield "a cookie beside it", [("x-api-key", key), ("Cookie", f"session={key}")]
    yield "another scheme beside it", [("x-api-key", key), ("Authorization", "Basic YTpi")]
    yield "named in Connection", [("x-api-key", key), ("Connection", "keep-alive, x-api-key")]
    yield "for a proxy", [("x-api-key", key), ("Proxy-Authorization", f"Bearer {key}")]


@pytest.mark.parametrize("model", ["mine", "far", "keyed"])
@pytest.mark.parametrize("case", range(8))
def test_no_backend_gets_a_key_or_a_cookie(model: str, case: int) -> None:
    # What a configuration passes on is none of these.
    attacked = Attacked()
    [*variants] = _variants(attacked.boss)
    _, headers = variants[case]
    got = _sent(attacked, chat({"model": model}, *headers, ("X-Mine", "stays")))
    assert got["x-mine"] == "stays"
    assert attacked.boss[4:] not in str(got)
    if model == "keyed":
        assert got.pop("authorization") == "Bearer sk-upstream"
    assert SECRETS.isdisjoint(got)


def test_neither_does_the_other_end_of_a_websocket() -> None:
    attacked = Attacked()
    headers = [("Cookie", "session=1"), ("x-api-key", attacked.boss), *WEBSOCKET]
    got = _sent(attacked, get("/upstream/mine/ws", *headers))
    assert got["upgrade"] == "websocket"
    assert SECRETS.isdisjoint(got)
    assert attacked.boss[4:] not in str(got)


def test_an_answer_brings_no_cookie_and_asks_for_no_other_key() -> None:
    attacked = Attacked()
    client = attacked.bench.client(with_key(chat({"model": "mine"}), attacked.alice))
    attacked.bench.backend().says(
        response(
            headers=[
                ("Set-Cookie", "a=b"),
                ("Access-Control-Allow-Origin", "https://evil.example"),
                ("Clear-Site-Data", "*"),
            ]
        )
    )
    attacked.bench.settle()
    assert b"200 OK" in client.heard
    assert b"Set-Cookie" not in client.heard
    assert b"evil.example" not in client.heard
