"""However a path or a request is written, the gate and the one who answers read it alike."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamagw.dialects import OWN, ROUTES, Scope
from tests.abuse.attacked import Attacked, bearer, line, raw
from tests.support.messages import CHAT, request

MINE = b'{"model": "mine"}'


@pytest.fixture(scope="module")
def attacked() -> Attacked:
    return Attacked()


#: Targets that may be read as an order of management, or as the engine itself.
TARGETS: dict[str, bytes] = {
    "as it is": b"/models/load",
    "one letter encoded": b"/%6dodels/load",
    "another letter encoded": b"/models/lo%61d",
    "in large hexadecimal": b"/%6Dodels/load",
    "all of it encoded": b"/%6d%6f%64%65%6c%73/%6c%6f%61%64",
    "the slash encoded": b"/models%2fload",
    "the first slash encoded": b"%2fmodels/load",
    "encoded twice": b"/models%252fload",
    "two slashes": b"/models//load",
    "two slashes before": b"//models/load",
    "three slashes before": b"///models/load",
    "an encoded slash before": b"/%2fmodels/load",
    "a slash behind": b"/models/load/",
    "two slashes behind": b"/models/load//",
    "a dot": b"/./models/load",
    "a dot inside": b"/models/./load",
    "a dot behind": b"/models/load/.",
    "up and down": b"/models/x/../load",
    "from a list": b"/v1/models/../../models/load",
    "from a list, encoded": b"/v1/models/..%2f..%2fmodels%2fload",
    "from a list, dots encoded": b"/v1/models/%2e%2e/%2e%2e/models/load",
    "from health": b"/health/../models/load",
    "from a page": b"/ui/../models/load",
    "from a page, encoded": b"/ui/..%2fmodels%2fload",
    "from a page, encoded twice": b"/ui/..%252fmodels%252fload",
    "from a page's file": b"/web/../models/load",
    "from a page's file, encoded": b"/web/%2e%2e/models/load",
    "from a page's file, with a parameter": b"/web/..;/models/load",
    "with a backslash": b"/models\\load",
    "with an encoded backslash": b"/models%5cload",
    "a page and backslashes": b"/ui/..\\models\\load",
    "a parameter": b"/models/load;x=/ui/",
    "a parameter first": b"/;/models/load",
    "a query": b"/models/load?/ui/",
    "an encoded query": b"/models/load%3f/ui/",
    "a fragment": b"/models/load#/ui/",
    "a zero byte": b"/models/load%00",
    "a zero byte and a page": b"/models/load%00/ui/",
    "a blank behind": b"/models/load%20",
    "a tab behind": b"/models/load%09",
    "a line feed behind": b"/models/load%0a",
    "large letters": b"/MODELS/LOAD",
    "one large letter": b"/models/Load",
    "full width": "/ｍodels/load".encode(),
    "an overlong dot": b"/ui/%c0%ae%c0%ae/models/load",
    "a byte that is no text": b"/models/load%ff",
    "half an encoding": b"/models/load%2",
    "an encoding that is none": b"/models/lo%zzad",
    "absolute": b"http://gateway/models/load",
    "absolute, of another host": b"http://evil.example/models/load",
    "absolute, in large letters": b"HTTP://GATEWAY/models/load",
    "absolute, with a page for the host": b"http://ui/models/load",
    "an authority": b"gateway:80",
    "an authority with a path": b"gateway/models/load",
    "a star": b"*",
    "no slash": b"models/load",
    "a query alone": b"?/models/load",
    "a suffix": b"/models/load.json",
    "a version": b"/v1/models/load",
    "the engine": b"/upstream/mine/x",
    "the engine, encoded": b"/%75pstream/mine/x",
    "the engine, its slash encoded": b"/upstream%2fmine%2fx",
    "the engine, from health": b"/health/../upstream/mine/x",
    "the engine, with two slashes": b"//upstream/mine/x",
    "the engine, without a name": b"/upstream//x",
    "a slot": b"/slots/1?model=mine",
    "a slot, encoded": b"/%73lots/1?model=mine",
    "a slot, its slash encoded": b"/slots%2f1?model=mine",
    "a reload": b"/config/reload",
    "a reload, encoded": b"/config/%72eload",
    "an end": b"/activity/x/cancel",
    "an end, its slashes encoded": b"/activity%2fx%2fcancel",
}

#: Where everybody is let in by the beginning of the path; there is nothing there.
OPEN = (b"/ui/", b"/web/")


@pytest.mark.parametrize("method", [b"POST", b"GET", b"PUT", b"BREW"])
@pytest.mark.parametrize("case", TARGETS)
def test_without_the_right_nothing_is_done(attacked: Attacked, case: str, method: bytes) -> None:
    target = TARGETS[case]
    body = MINE if method == b"POST" else b""
    attempt = attacked.attempt(raw(target, b"", body, method))
    # In the path of a stranger there is nothing but pages.
    wanted = (401, 404, 405, 400) if target.startswith(OPEN) else (401, 400)
    assert attempt.status in wanted
    assert (attempt.asked, attempt.orders) == ([], [])
    key = line(b"X-Api-Key", attacked.alice.encode())
    attempt = attacked.attempt(raw(target, key, body, method))
    assert attempt.status in (400, 403, 404, 405)
    assert (attempt.asked, attempt.orders) == ([], [])


#: Those of them that are the order to load, as the gateway reads them.
READ_SO = (
    "as it is",
    "one letter encoded",
    "another letter encoded",
    "in large hexadecimal",
    "all of it encoded",
    "the slash encoded",
    "two slashes before",
    "three slashes before",
    "an encoded slash before",
    "a query",
)


@pytest.mark.parametrize("case", TARGETS)
def test_with_the_right_the_gate_refuses_none_of_what_is_read_as_an_order(case: str) -> None:
    attacked = Attacked()
    key = line(b"X-Api-Key", attacked.admin.encode())
    attempt = attacked.attempt(raw(TARGETS[case], key, MINE))
    assert bool(attempt.orders) is (case in READ_SO)
    assert attempt.heard[:13] not in (b"HTTP/1.1 401 ", b"HTTP/1.1 403 ")


@pytest.mark.parametrize("method", [b"post", b"Post", b"pOST"])
def test_a_method_in_other_letters_has_the_same_scope(method: bytes) -> None:
    attacked = Attacked()
    watcher = attacked.made.make("watcher", "observe")
    gate = attacked.bench.site.connections.gate
    assert gate is not None, "the bench was given one"
    gate.keyring = attacked.made.keyring()
    asks = request({"model": "mine"}, headers=[("X-Request-Id", "x"), bearer(attacked.alice)])
    client = attacked.bench.client(asks)
    key = line(b"X-Api-Key", watcher.encode())
    for path in (b"/activity/x/cancel", b"/models/unload", b"/models/load", b"/config/reload"):
        assert attacked.attempt(raw(path, key, MINE, method)).status == 403
    assert client.heard == b""


#: The paths that are closed to a key for inference alone, and what stands for their parts.
CLOSED = sorted(
    {path for route in ROUTES if route.scope is not Scope.INFER for path in route.paths}
    | {own.path for own in OWN if own.scope is not Scope.INFER}
)

#: What a slash may be written as, and what may stand before and behind a path.
SLASHES = [b"//", b"%2f", b"/./", b"/x/../", b"\\", b";/"]
AROUND = [
    b"/",
    b"//",
    b"%2f",
    b"/.",
    b"/..",
    b"?",
    b"#",
    b";",
    b"%00",
    b"%20",
    b"/ui/",
    b"/health/..",
]


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """A closed path, written in another way: in one or two places, or else it is none."""
    path = draw(st.sampled_from(CLOSED)).replace("{model}/{rest}", "mine/x").replace("{id}", "1")
    parts = [letter.encode() for letter in path]
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(-1, len(path)))
        if at in (-1, len(path)):
            around = draw(st.sampled_from(AROUND))
            parts = [around, *parts] if at < 0 else [*parts, around]
            break
        ways = [b"%%%02x" % ord(path[at]), path[at].upper().encode()]
        parts[at] = draw(st.sampled_from(SLASHES if path[at] == "/" else ways))
    return b"".join(parts)


#: What such a path may be read as that is open to all, or tells a key of itself.
LET_IN = re.compile(
    rb"/+(ui|web)/.*|/*|/+ui|/+(models|v1/models|usage)/?|/+v1/models/.*", re.DOTALL
)


@settings(max_examples=600, deadline=None)
@given(written(), st.sampled_from([b"GET", b"POST", b"HEAD", b"get", b"post"]))
def test_no_way_of_writing_a_path_leads_where_the_scope_does_not(
    attacked: Attacked, target: bytes, method: bytes
) -> None:
    key = line(b"X-Api-Key", attacked.alice.encode())
    attempt = attacked.attempt(raw(target, key, MINE, method), methods=(method.decode().upper(),))
    assert (attempt.sent, attempt.orders) == ([], [])
    path = unquote_to_bytes(target.partition(b"?")[0])
    if not LET_IN.fullmatch(path):
        assert attempt.heard.split()[1] >= b"400", target


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_an_old_version_is_asked_too(attacked: Attacked, version: str) -> None:
    for path in (CHAT, "/models/load"):
        attempt = attacked.attempt(request({"model": "mine"}, path, version=version))
        assert (attempt.status, attempt.asked, attempt.orders) == (401, [], [])


@pytest.mark.parametrize(
    "first", [b"GET /models", b"GET /models HTTP/0.9", b"GET /models HTTP/2.0"]
)
def test_a_version_that_is_not_spoken_gets_nothing(attacked: Attacked, first: bytes) -> None:
    attempt = attacked.attempt(first + b"\r\nHost: x\r\n\r\n")
    assert b"mine" not in attempt.heard
    assert b" 200 " not in attempt.heard


# ---- Requests in requests -----------------------------------------------------------------------


ORDER = b"POST /models/load HTTP/1.1\r\nHost: x\r\nContent-Length: 17\r\n\r\n" + MINE


def _smuggled(*lines: bytes, body: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\n%b" % (
        CHAT.encode(),
        b"".join(one + b"\r\n" for one in lines),
        body,
    )


LENGTH, CHUNKED = b"Content-Length: %d", b"Transfer-Encoding: chunked"
IN_CHUNKS = b"11\r\n" + MINE + b"\r\n0\r\n\r\n"

#: Requests whose end some servers see earlier; behind it stands an order without a key.
SMUGGLED: dict[str, bytes] = {
    "a length and chunks": _smuggled(LENGTH % 4, CHUNKED, body=IN_CHUNKS + ORDER),
    "chunks and a length": _smuggled(CHUNKED, LENGTH % 4, body=IN_CHUNKS + ORDER),
    "chunks that the length covers": _smuggled(
        LENGTH % (5 + len(ORDER)), CHUNKED, body=b"0\r\n\r\n" + ORDER
    ),
    "two lengths": _smuggled(LENGTH % 17, LENGTH % (17 + len(ORDER)), body=MINE + ORDER),
    "two lengths in one header": _smuggled(b"Content-Length: 17, 300", body=MINE + ORDER),
    "the same length twice": _smuggled(LENGTH % 17, LENGTH % 17, body=MINE + ORDER),
    "a length with a sign": _smuggled(b"Content-Length: +17", body=MINE + ORDER),
    "a negative length": _smuggled(b"Content-Length: -1", body=MINE + ORDER),
    "a length in hexadecimal": _smuggled(b"Content-Length: 0x11", body=MINE + ORDER),
    "a length with an underscore": _smuggled(b"Content-Length: 1_7", body=MINE + ORDER),
    "a length in other digits": _smuggled("Content-Length: １７".encode(), body=MINE + ORDER),
    "a length of 5,000 digits": _smuggled(b"Content-Length: " + b"1" * 5000, body=MINE + ORDER),
    "no length": _smuggled(body=ORDER),
    "an unknown coding": _smuggled(b"Transfer-Encoding: xchunked", LENGTH % 17, body=MINE + ORDER),
    "chunks twice": _smuggled(CHUNKED, CHUNKED, body=IN_CHUNKS + ORDER),
    "chunks and identity": _smuggled(
        b"Transfer-Encoding: chunked, identity", body=IN_CHUNKS + ORDER
    ),
    "gzip and chunks": _smuggled(b"Transfer-Encoding: gzip, chunked", body=IN_CHUNKS + ORDER),
    "chunks with a tab": _smuggled(
        b"Transfer-Encoding:\tchunked", LENGTH % 4, body=IN_CHUNKS + ORDER
    ),
    "chunks with a vertical tab": _smuggled(
        b"Transfer-Encoding: \x0bchunked", LENGTH % 17, body=MINE + ORDER
    ),
    "chunks behind a blank": _smuggled(
        b"Transfer-Encoding : chunked", LENGTH % 17, body=MINE + ORDER
    ),
    "chunks in a folded header": _smuggled(
        b"Transfer-Encoding:\r\n chunked", LENGTH % 17, body=MINE + ORDER
    ),
    "chunks behind a bare line feed": _smuggled(
        b"X: 1\nTransfer-Encoding: chunked", LENGTH % 17, body=MINE + ORDER
    ),
    "a chunk with an extension": _smuggled(
        CHUNKED, body=b"11;" + b"a" * 10 + b"\r\n" + MINE + b"\r\n0\r\n\r\n" + ORDER
    ),
    "a chunk with a line feed in its extension": _smuggled(
        CHUNKED, body=b"11;\n0\n\n" + MINE + b"\r\n0\r\n\r\n" + ORDER
    ),
    "a chunk with a sign": _smuggled(CHUNKED, body=b"+11\r\n" + MINE + b"\r\n0\r\n\r\n" + ORDER),
    "a chunk with 0x": _smuggled(CHUNKED, body=b"0x11\r\n" + MINE + b"\r\n0\r\n\r\n" + ORDER),
    "a chunk that is too short": _smuggled(
        CHUNKED, body=b"1\r\n" + MINE + b"\r\n0\r\n\r\n" + ORDER
    ),
    "bare line feeds in chunks": _smuggled(CHUNKED, body=b"11\n" + MINE + b"\n0\n\n" + ORDER),
    "an order in the trailers": _smuggled(CHUNKED, body=b"11\r\n" + MINE + b"\r\n0\r\n" + ORDER),
    "an order behind it": _smuggled(LENGTH % 17, body=MINE + ORDER),
    "an order in the body": _smuggled(LENGTH % (17 + len(ORDER)), body=MINE + ORDER),
    "another's connection": _smuggled(
        LENGTH % 17, b"Connection: Content-Length", body=MINE + ORDER
    ),
    "an upgrade to HTTP/2": _smuggled(
        LENGTH % 17, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", body=MINE + ORDER
    ),
}


@pytest.mark.parametrize("case", SMUGGLED)
def test_what_is_smuggled_needs_a_key_of_its_own(case: str) -> None:
    attacked = Attacked()
    bench = attacked.bench
    first, _, rest = SMUGGLED[case].partition(b"\r\n")
    # With a key that may do both: that of the first request is none for the second.
    attempt = attacked.attempt(b"%b\r\nX-Api-Key: %b\r\n%b" % (first, attacked.boss.encode(), rest))
    if bench.wanted():
        backend = bench.backend()
        assert b"/models/load" not in bytes(backend.heard).partition(b"\r\n\r\n")[0]
        backend.says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        bench.settle()
    assert bench.dispatcher.orders == []
    assert attempt.sent in ([], ["mine"])


@pytest.mark.parametrize("case", SMUGGLED)
def test_without_a_key_nothing_behind_it_is_read(attacked: Attacked, case: str) -> None:
    attempt = attacked.attempt(SMUGGLED[case])
    assert [status in (400, 401, 413, 501) for status in attempt.statuses] == [True]
    assert (attempt.asked, attempt.orders) == ([], [])


# ---- What is repeated ---------------------------------------------------------------------------


SPOILED: dict[str, bytes] = {
    "a model's name with a line end": b'{"model": "x\\r\\nSet-Cookie: a=b"}',
    "a model's name with an escape": b'{"model": "\\u001b]0;owned\\u0007"}',
    "a model's name that is turned round": b'{"model": "\\u202egnp.exe"}',
    "a model's name with markup": b'{"model": "<script>alert(1)</script>"}',
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_model_s_name_is_repeated_without_harm(case: str) -> None:
    attacked = Attacked(access_log=True)
    attempt = attacked.attempt(
        raw(CHAT.encode(), line(b"X-Api-Key", attacked.alice.encode()), SPOILED[case])
    )
    [answer] = attempt.answers
    assert (answer.status, answer.headers["Content-Type"]) == (403, "application/json")
    assert answer.headers["Set-Cookie"] is None
    assert answer.headers["X-Content-Type-Options"] in (None, "nosniff")
    assert answer.json()["error"]["message"].isprintable()


@pytest.mark.parametrize(
    "header",
    [
        b"X-Request-Id: x\r\n\tSet-Cookie: a=b",
        b"X-Request-Id: \x1b[31m",
        b"X-Request-Id: <script>",
        b"X-Request-Id: " + b"x" * 5000,
        b"Origin: https://evil.example\rSet-Cookie: a=b",
        b"Origin: https://evil.example\nSet-Cookie: a=b",
    ],
)
def test_a_header_is_not_repeated_with_what_is_in_it(attacked: Attacked, header: bytes) -> None:
    attempt = attacked.attempt(raw(CHAT.encode(), header + b"\r\n", MINE))
    assert attempt.status in (400, 401)
    head = attempt.heard.partition(b"\r\n\r\n")[0]
    for text in (b"Set-Cookie", b"\x1b", b"<script>", b"xxxxxxxxxx"):
        assert text not in head
