"""
HTTP as tests write and read it: requests and answers as bytes, and what a client makes of them.
"""

from __future__ import annotations

import http.client
import io
import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, NamedTuple

CHAT = "/v1/chat/completions"

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


class Answer(NamedTuple):
    """One HTTP answer, as the standard library understood it."""

    status: int
    reason: str
    headers: Any  # an email.message.Message: case is ignored, `get_all` for repeated ones
    body: bytes
    whole: bool

    def json(self) -> Any:
        return json.loads(self.body)


class _Bytes(io.BytesIO):
    def close(self) -> None:
        """Not yet: the next answer is in it too."""


def answers(data: bytes, *methods: str) -> list[Answer]:
    """All answers in what a client heard; `methods` are those that it asked with, GET else."""
    stream = _Bytes(data)
    sock: Any = SimpleNamespace(makefile=lambda *_: stream)
    found: list[Answer] = []
    while stream.tell() < len(data):
        method = methods[len(found)] if len(found) < len(methods) else "GET"
        response = http.client.HTTPResponse(sock, method=method)
        response.begin()
        whole = True
        try:
            body = response.read()
        except http.client.IncompleteRead as error:
            body, whole = error.partial, False
        found.append(Answer(response.status, response.reason, response.headers, body, whole))
    return found


def request(
    body: bytes | Mapping[str, object] | None = None,
    path: str = CHAT,
    method: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
    version: str = "HTTP/1.1",
) -> bytes:
    """The bytes of a request."""
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    method = method or ("GET" if content is None else "POST")
    lines = [f"{method} {path} {version}", "Host: gateway"]
    if content is not None:
        lines.append(f"Content-Length: {len(content)}")
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (content or b"")


def chunked(pieces: Iterable[bytes]) -> bytes:
    """A chunked body, whole."""
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces if p) + b"0\r\n\r\n"


def event(data: bytes) -> bytes:
    """One chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def response(
    body: bytes = b"{}", status: str = "200 OK", headers: Iterable[tuple[str, str]] = ()
) -> bytes:
    """The bytes of an answer with a Content-Length."""
    lines = [f"HTTP/1.1 {status}", *(f"{n}: {v}" for n, v in headers)]
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def cut_at(data: bytes, places: Iterable[int]) -> list[bytes]:
    """`data` in pieces, cut at those places that are inside of it."""
    edges = [0, *sorted({p for p in places if 0 < p < len(data)}), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


def head_and_body(sent: bytes | bytearray) -> tuple[str, dict[str, str], bytes]:
    """A request as the backend got it: its first line, its headers in lower case, its body."""
    head, _, body = bytes(sent).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = [line.split(": ", 1) for line in lines]
    headers = {name.lower(): value for name, value in pairs}
    assert len(headers) == len(lines), "a header was sent twice"
    return first, headers, body
