"""What an attack of hostile.py has to work with: the gateway attacked, and words for outcomes.

The attacks themselves are in attacks.py; what is measured, in hostile.py.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MB = 2**20

#: Seconds after which an attack gives up waiting for an answer.
PATIENCE = 60.0

JSON_TYPE = b"Content-Type: application/json\r\n"
CLOSE = b"Connection: close\r\n"
CHAT = "/v1/chat/completions"


@dataclass
class Scene:
    """
    A gateway that is being attacked.

    :ivar port: where it listens
    :ivar pid: its process
    :ivar config: its configuration, as written to `path`
    :ivar evil: the URL of the malicious backend
    """

    port: int
    pid: int
    path: Path
    config: dict[str, Any]
    evil: str

    @property
    def models(self) -> list[dict[str, Any]]:
        """Those of the configuration."""
        return list(self.config["models"])

    def connect(self, timeout: float = PATIENCE) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def post(
        self, body: bytes, path: str = CHAT, headers: bytes = JSON_TYPE, method: str = "POST"
    ) -> str:
        """Send a request and read its answer; what became of it, in words."""
        whole = raw_post(body, path, headers + CLOSE, method)
        return self.send([whole])

    def send(self, pieces: Iterable[bytes]) -> str:
        """Send bytes as they are, and read to the end; what became of it, in words."""
        began = time.monotonic()
        with self.connect() as sock:
            with contextlib.suppress(OSError):  # refused early: the answer says so
                for piece in pieces:
                    sock.sendall(piece)
            return f"{told(drain(sock))}, {time.monotonic() - began:.1f} s"


def raw_post(body: bytes, path: str = CHAT, extra: bytes = b"", method: str = "POST") -> bytes:
    """A request as it is sent."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + extra + b"\r\n" + body


@dataclass
class Drained:
    """What came over a connection until it ended."""

    first: bytes = b""
    size: int = 0
    answers: int = 0
    why: str = ""


def drain(
    sock: socket.socket,
    seconds: float = PATIENCE,
    most: int = 2**31,
    until: Callable[[Drained], bool] = lambda _: False,
) -> Drained:
    """Read to the end, for so long and so much at most; only the first bytes are kept."""
    got, end, tail = Drained(), time.monotonic() + seconds, b""
    while got.size < most and not until(got):
        left = end - time.monotonic()
        if left <= 0:
            got.why = f"still open after {seconds:g} s"
            break
        sock.settimeout(left)
        try:
            data = sock.recv(MB)
        except TimeoutError:
            continue
        except OSError as error:
            got.why = type(error).__name__
            break
        if not data:
            break
        if len(got.first) < 200:
            got.first += data[:200]
        got.size += len(data)
        got.answers += (tail + data).count(b"HTTP/1.1 ") - tail.count(b"HTTP/1.1 ")
        tail = data[-8:]
    return got


def told(got: Drained) -> str:
    line = got.first.split(b"\r\n")[0].decode(errors="replace").removeprefix("HTTP/1.1 ")
    size = f"{got.size / MB:.1f} MB" if got.size > MB else f"{got.size} B"
    many = f" x {got.answers}" if got.answers > 1 else ""
    return f"{line or 'no answer'}{many} ({size}){' ' + got.why if got.why else ''}"


@dataclass(frozen=True)
class Attack:
    """
    :ivar name: for `--only`
    :ivar sent: what is sent, in words
    :ivar run: does it; says what became of it
    :ivar body: megabytes of the input; memory is judged by them
    :ivar models: beside the one that the honest client asks
    :ivar config: keys of the configuration that differ
    :ivar real: whether the real engine is needed
    """

    name: str
    sent: str
    run: Callable[[Scene], str]
    body: float = 0.0
    models: Sequence[dict[str, Any]] = ()
    config: dict[str, Any] = field(default_factory=dict)
    real: bool = False


ATTACKS: list[Attack] = []


def attack(
    name: str, sent: str, body: float = 0.0, **more: Any
) -> Callable[[Callable[[Scene], str]], Callable[[Scene], str]]:
    """Add an attack to the list."""

    def add(run: Callable[[Scene], str]) -> Callable[[Scene], str]:
        ATTACKS.append(Attack(name, sent, run, body, **more))
        return run

    return add


def far(behaviour: str, **more: Any) -> dict[str, Any]:
    """A model at the malicious backend; its address is filled in when that has a port."""
    return {"name": behaviour, "url": f"EVIL/{behaviour}", **more}


def ours(name: str, **more: Any) -> dict[str, Any]:
    """A model of the fake engine; `script` is what its engine does."""
    return {"name": name, **more}


def counted(outcomes: Counter[str]) -> str:
    """How often what, in words."""
    return ", ".join(f"{count} {what}" for what, count in outcomes.most_common())
