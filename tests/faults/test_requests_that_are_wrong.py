"""Fault 9: requests that are too large, or that two servers would read as two different ones."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest

from tests.faults.support import Faulty, Raw, asking, code, post, running
from tests.whole.harness import CHAT

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def gateway() -> Iterator[Faulty]:
    with running({"m": {}}, max_body_mb=1) as gateway:
        assert gateway.chat("m").status == 200
        yield gateway


# Too large


def test_a_length_over_the_limit_is_refused_before_the_body_is_sent(gateway: Faulty) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {10**9}\r\n\r\n".encode()
    answer = Raw(gateway.port, head).answer(10)
    assert (answer.status, code(answer)) == (413, "body_too_large")
    assert answer.headers["Connection"] == "close"


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_over_the_limit_is_refused_while_it_arrives(gateway: Faulty, framing: str) -> None:
    size = 100 * MEGABYTE
    how = f"Content-Length: {size}" if framing == "length" else "Transfer-Encoding: chunked"
    client = Raw(gateway.port, f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{how}\r\n\r\n".encode())
    before, peak = gateway.rss, 0
    piece = bytes(MEGABYTE)
    if framing == "chunked":
        piece = b"%x\r\n%b\r\n" % (len(piece), piece)
    with contextlib.suppress(ConnectionError):  # the gateway may have had enough
        for _ in range(size // MEGABYTE):
            client.says(piece)
            peak = max(peak, gateway.rss)
    assert peak - before < 8 * MEGABYTE
    client.leaves()
    assert gateway.chat("m").status == 200


def test_a_chunked_body_over_the_limit_is_told_413(gateway: Faulty) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    piece = b"%x\r\n%b\r\n" % (MEGABYTE // 2, bytes(MEGABYTE // 2))
    client = Raw(gateway.port, head, piece, piece, piece)
    answer = client.answer(10)
    assert (answer.status, code(answer)) == (413, "body_too_large")


def test_a_body_at_the_limit_arrives(gateway: Faulty) -> None:
    body = json.dumps(asking("m", padding="")).encode()
    padding = b"x" * (MEGABYTE - len(body))
    whole = body.replace(b'"padding": ""', b'"padding": "%b"' % padding)
    assert len(whole) == MEGABYTE
    assert Raw(gateway.port, post(whole, "Connection: close")).answer().status == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n",
        b"GET /health HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n",
        b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
    ],
    ids=["line", "header", "headers"],
)
def test_a_head_without_an_end_is_refused(gateway: Faulty, head: bytes) -> None:
    client = Raw(gateway.port)
    with contextlib.suppress(ConnectionError):
        client.says(head)
    answer = client.answer(10)
    assert answer.status == 400
    code(answer)


# Of two minds

SECOND = (
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n\r\n" + b'{"model":"m"}'
)
BODY = json.dumps(asking("m")).encode()
LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"
ONE_CHUNK = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


def request(*headers: bytes, body: bytes = BODY, end: bytes = b"\r\n", line: bytes = b"") -> bytes:
    first = line or b"POST " + CHAT.encode() + b" HTTP/1.1"
    return end.join([first, b"Host: x", *headers, b"", b""]) + body


SHAPES = {
    "two lengths that differ": request(LENGTH, b"Content-Length: 5"),
    "two lengths that differ, the small one first": request(b"Content-Length: 5", LENGTH),
    "two lengths that are the same": request(LENGTH, LENGTH),
    "a list of lengths": request(LENGTH + b", %d" % len(BODY)),
    "a length with a plus": request(b"Content-Length: +%d" % len(BODY)),
    "a length with a minus": request(b"Content-Length: -1"),
    "a length with an underscore": request(b"Content-Length: 1_0"),
    "a length in hexadecimal": request(b"Content-Length: 0x10"),
    "a length that is none": request(b"Content-Length: "),
    "a length in other digits": request("Content-Length: ١٠".encode()),
    "length and chunked": request(LENGTH, CHUNKED, body=ONE_CHUNK),
    "chunked and length": request(CHUNKED, LENGTH, body=ONE_CHUNK),
    "chunked twice": request(CHUNKED, CHUNKED, body=ONE_CHUNK),
    "another coding": request(b"Transfer-Encoding: gzip", body=ONE_CHUNK),
    "nearly chunked": request(b"Transfer-Encoding: xchunked", body=ONE_CHUNK),
    "chunked and another": request(b"Transfer-Encoding: chunked, identity", body=ONE_CHUNK),
    "another and chunked": request(b"Transfer-Encoding: gzip, chunked", body=ONE_CHUNK),
    "bare LF everywhere": request(LENGTH, end=b"\n"),
    "bare LF in the head": request(b"X: a\nY: b", LENGTH),
    "bare LF at the head's end": request(LENGTH)[: -len(BODY) - 2] + b"\n" + BODY,
    "bare LF after the first line": request(LENGTH).replace(b"\r\n", b"\n", 1),
    "bare CR in the head": request(b"X: a\rContent-Length: 5", LENGTH),
    "a folded header": request(b"X: a\r\n b", LENGTH),
    "a folded length": request(b"X: a\r\n " + LENGTH, LENGTH),
    "a fold at the beginning": request(b" X: a", LENGTH),
    "a space before the colon": request(b"X : a", LENGTH),
    "a space before the length's colon": request(LENGTH.replace(b":", b" :")),
    "a tab before the colon": request(b"Transfer-Encoding\t: chunked", LENGTH),
    "a header without a colon": request(b"nothing", LENGTH),
    "a header without a name": request(b": a", LENGTH),
    "a header's name with a space": request(b"X Y: a", LENGTH),
    "a NUL in a header": request(b"X: a\0b", LENGTH),
    "a NUL in a header's name": request(b"X\0: a", LENGTH),
    "a chunk size that is none": request(CHUNKED, body=b"zz\r\n" + BODY),
    "a chunk size with a prefix": request(CHUNKED, body=b"0x10\r\n" + BODY),
    "a chunk size with a minus": request(CHUNKED, body=b"-1\r\n" + BODY),
    "a chunk size with a space": request(CHUNKED, body=b" 5 \r\n" + BODY),
    "a chunk that is too long": request(CHUNKED, body=b"5\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunks that end with a bare LF": request(CHUNKED, body=ONE_CHUNK.replace(b"\r\n", b"\n")),
    "a first line of four words": request(LENGTH, line=b"POST /v1/chat/completions x HTTP/1.1"),
    "a first line of two words": request(LENGTH, line=b"POST /v1/chat/completions"),
    "another protocol": request(LENGTH, line=b"POST /v1/chat/completions FTP/1.1"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_what_two_servers_would_read_differently_is_refused_and_not_forwarded(
    gateway: Faulty, shape: str
) -> None:
    before = gateway.fake("m")["requests"]
    client = Raw(gateway.port)
    with contextlib.suppress(ConnectionError):
        client.says(SHAPES[shape] + SECOND)
    answer = client.answer(10)  # one answer: nothing after the first request was taken for another
    assert answer.status == 400, answer
    assert code(answer) == "bad_request"
    assert gateway.fake("m")["requests"] == before


def test_a_request_is_forwarded_as_one_whatever_its_client_said(gateway: Faulty) -> None:
    """Headers that speak of the connection do not reach the engine, nor does a coding."""
    body = json.dumps(asking("m", fake={"echo": True})).encode()
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    headers = (CHUNKED, b"Connection: X-Hop, close", b"X-Hop: 1", b"TE: trailers", b"X-Stays: 1")
    answer = Raw(gateway.port, request(*headers, body=chunks)).answer()
    found = {name.lower(): value for name, value in answer.json()["headers"]}
    assert found["content-length"] == str(len(body))
    assert found["x-stays"] == "1"
    assert not {"transfer-encoding", "x-hop", "te"} & set(found)
