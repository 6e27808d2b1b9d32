"""A malicious backend, for hostile.py.

    python benchmarks/evil.py PORT

A model is configured with ``url: http://127.0.0.1:PORT/NAME``; NAME says how it misbehaves (see
`HEALTH`, `MODELS` and `CHAT`; whatever is not there is answered well). Nothing is really endless:
each answer ends after some seconds, some hundreds of megabytes, or when the other side closes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable

#: How long, and how much, one "endless" answer goes on.
SECONDS, BYTES = 6.0, 1_000_000_000
#: Written at once.
BLOCK = 256 * 1024

Behaviour = Callable[[socket.socket], None]


def answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body


def fixed(data: bytes) -> Behaviour:
    return lambda sock: sock.sendall(data)


def endless(first: bytes, more: bytes, pause: float = 0) -> Behaviour:
    """Send `first`, then `more` again and again."""
    block = more * max(BLOCK // len(more), 1)

    def run(sock: socket.socket) -> None:
        sock.sendall(first)
        sent, until = 0, time.monotonic() + SECONDS
        while sent < BYTES and time.monotonic() < until:
            sock.sendall(block)
            sent += len(block)
            time.sleep(pause)

    return run


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def silent(sock: socket.socket) -> None:
    time.sleep(SECONDS)


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ERROR = b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LISTED = json.dumps({"object": "list", "data": [{"id": "x", "object": "model"}]}).encode()


def meta(value: object) -> Behaviour:
    entry = {"id": "x", "object": "model", "meta": value}
    return fixed(answer(json.dumps({"object": "list", "data": [entry]}).encode()))


@functools.cache
def packed() -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush()


def bomb(sock: socket.socket) -> None:
    """A body of 300 KB that is 300 MB when it is unpacked."""
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed())
    sock.sendall(head + packed())


def late(sock: socket.socket) -> None:
    time.sleep(2)
    sock.sendall(answer(b"{}"))


HEALTH: dict[str, Behaviour] = {
    "error": late,
    "error-lines": late,
    "health-body": endless(CHUNKED, chunk(b"x" * 65536)),
    "health-bits": endless(CHUNKED, chunk(b"x")),
    "health-head": endless(OK, b"a:b\r\n"),
    "health-gzip": bomb,
    "health-1xx": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}
MODELS: dict[str, Behaviour] = {
    "models-body": endless(CHUNKED, chunk(b"x" * 65536)),
    "models-gzip": bomb,
    "models-silent": silent,
    "models-meta": meta({"a": "x" * 20_000_000}),
    "models-meta-keys": meta({f"k{n}": n for n in range(800_000)}),
}
CHAT: dict[str, Behaviour] = {
    "trailers": endless(CHUNKED + chunk(b"{}") + b"0\r\n", b"X-More: and more\r\n"),
    "head": endless(OK, b"X-More: and more\r\n"),
    "head-line": endless(OK + b"X-More: ", b"and more "),
    "connection-lines": fixed(
        OK + b"".join(b"Connection: a%d\r\n" % n for n in range(13_000)) + b"\r\n"
    ),
    "1xx": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "bits": endless(CHUNKED, chunk(b"x")),
    "flood": endless(STREAM, chunk(b"data: " + b"x" * 1000 + b"\n\n")),
    "error": endless(ERROR, chunk(b"x" * 65536)),
    "error-lines": endless(ERROR, chunk(b"\n" * 65536)),
}


def serve(sock: socket.socket) -> None:
    """Requests on one connection, one after the other."""
    with contextlib.suppress(OSError), sock:
        reader = sock.makefile("rb")
        while line := reader.readline():
            path, length = line.split()[1].decode(), 0
            while (header := reader.readline()) not in (b"\r\n", b""):
                if header.lower().startswith(b"content-length:"):
                    length = int(header.split(b":")[1])
            while length:
                length -= len(reader.read(min(length, 65536)))
            name, _, rest = path.lstrip("/").partition("/")
            table = {"health": HEALTH, "v1/models": MODELS}.get(rest, CHAT)
            misbehave = table.get(name)
            if misbehave is not None:
                misbehave(sock)
                return
            sock.sendall(answer(LISTED if table is MODELS else b'{"ok":true}'))


def main() -> None:
    threading.stack_size(256 * 1024)
    listening = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=512)
    while True:
        sock, _ = listening.accept()
        threading.Thread(target=serve, args=(sock,), daemon=True).start()


if __name__ == "__main__":
    main()
