"""Another process on an engine's port: it is never taken for the engine, whatever it answers."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faults.support import FAKE, Faulty
from tests.whole.harness import Reply

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="seen on Linux only")


class Stranger:
    """
    Another process's server: says to everything that it is well.

    It is a thread here, since this is not the engine's process either.

    :ivar heads: of the requests that it got
    """

    def __init__(self, port: int, shared: bool = False) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.sock.bind(("127.0.0.1", port))
        self.sock.listen(64)
        self.heads: list[bytes] = []
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while True:
            try:
                client, _ = self.sock.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                self.heads.append(client.recv(65536))
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n")
                client.sendall(b"{}")

    def leave(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.thread.join()


@pytest.fixture
def started() -> Iterator[Callable[..., Faulty]]:
    """Starts a gateway with the model `a`, and a client that asks it."""
    with contextlib.ExitStack() as stack:

        def start(script: dict[str, Any], *extra_args: str, **config: Any) -> Faulty:
            gateway = Faulty({"a": script}, **config)
            stack.callback(gateway.clean_up)
            gateway.config["models"][0]["extra_args"] = [*extra_args]
            return gateway.start()

        yield start


class Asking:
    """A client that asks for an answer of `a` meanwhile."""

    def __init__(self, gateway: Faulty) -> None:
        self.replies: list[Reply] = []
        self.thread = threading.Thread(target=lambda: self.replies.append(gateway.chat("a")))
        self.thread.start()

    def reply(self) -> Reply:
        self.thread.join()
        return self.replies[0]


def test_one_that_takes_the_port_before_the_engine_gets_no_request(
    started: Callable[..., Faulty],
) -> None:
    gateway = started({"bind": "late", "load_sec": 1})
    asking = Asking(gateway)
    stranger = Stranger(gateway.recorded("start", "a")["port"])
    reply = asking.reply()
    stranger.leave()
    assert (reply.status, reply.json()["object"]) == (200, "chat.completion")
    first, second = (start["port"] for start in gateway.records("start", "a"))
    assert (gateway.report("a")["port"], first) == (second, second - 1)
    assert stranger.heads, "it was asked whether it is well"
    for head in stranger.heads:
        assert head.startswith(b"GET /health ")
        assert b"authorization" not in head.lower()
    assert "is another process's, not a's" in gateway.log
    gateway.stop()


def test_from_a_port_that_another_shares_the_engine_is_moved(
    started: Callable[..., Faulty],
) -> None:
    gateway = started({"load_sec": 1}, "--reuse-port")
    asking = Asking(gateway)
    stranger = Stranger(gateway.recorded("listening", "a")["port"], shared=True)
    reply = asking.reply()
    stranger.leave()
    assert (reply.status, reply.json()["object"]) == (200, "chat.completion")
    first, second = (start["port"] for start in gateway.records("start", "a"))
    assert (gateway.report("a")["port"], first) == (second, second - 1)
    assert all(head.startswith(b"GET /health ") for head in stranger.heads)
    assert "shares port" in gateway.log
    gateway.stop()


def test_an_engine_that_a_script_starts_is_known_to_be_its_own(
    started: Callable[..., Faulty], tmp_path: Any
) -> None:
    script = tmp_path / "llama-server"
    # Not its last command, which a shell may become.
    script.write_text(f'#!/bin/sh\n{FAKE} "$@" &\ntrap "kill $!" TERM\nwait\nwait\n')
    script.chmod(0o755)
    gateway = started({}, llama_server_path=str(script))
    assert gateway.chat("a").status == 200
    gateway.stop()


def test_nobody_else_has_anything_from_an_engine(started: Callable[..., Faulty]) -> None:
    gateway = started({})
    assert gateway.chat("a").status == 200
    port = gateway.report("a")["port"]
    assert gateway.ask("GET", "/props", port=port).status == 401
    assert gateway.ask("POST", "/v1/completions", {"prompt": "x"}, port=port).status == 401
    assert gateway.ask_backend("a", "GET", "/props").status == 200
    key = gateway.key_of(port)["Authorization"].removeprefix("Bearer ")
    assert key not in gateway.log
    gateway.stop()


def test_an_engine_that_knows_no_keys_serves_as_before_and_is_warned_of(
    started: Callable[..., Faulty], tmp_path: Any
) -> None:
    script = tmp_path / "llama-server"
    script.write_text(
        f"""#!/bin/sh\nexport FAKE_LLAMA='{{"unknown_flags": ["--api-key"]}}'\nexec {FAKE} "$@"\n"""
    )
    script.chmod(0o755)
    gateway = started({}, llama_server_path=str(script))
    assert gateway.chat("a").status == 200
    assert gateway.log.count("llama_server_path knows no API keys (--api-key)") == 1
    gateway.stop()


def test_where_the_model_names_a_key_its_clients_bring_it(started: Callable[..., Faulty]) -> None:
    gateway = started({}, "--api-key", "s3cret")
    assert gateway.chat("a").status == 401
    body = {"model": "a", "messages": []}
    path = "/v1/chat/completions"
    for headers in ({"Authorization": "Bearer s3cret"}, {"X-Api-Key": "s3cret"}):
        assert gateway.ask("POST", path, body, headers=headers).status == 200
    assert "s3cret" not in gateway.log
    gateway.stop()
