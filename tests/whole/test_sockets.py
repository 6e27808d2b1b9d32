"""Engines on UNIX sockets (``backend_socket: unix``), with the real engine."""

from __future__ import annotations

import contextlib
import http.client
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.whole.harness import CHAT, Gateway, model, question, wait_until

STOCK = "epoll" if sys.platform == "linux" else "select"


@pytest.fixture(scope="module", params=[None, STOCK], ids=["uvloop", "stock"])
def gateway(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    gateway = Gateway([model("smol")], reactor=request.param, backend_socket="unix")
    try:
        gateway.start()
        yield gateway
        gateway.stop()
    finally:
        gateway.clean_up()


def sockets(gateway: Gateway) -> list[Path]:
    return sorted(gateway.folder.glob("llamagw-*/*.sock"))


def status_of(path: Path, target: str, key: str | None) -> int:
    """What an engine answers who has found its socket."""
    connection = http.client.HTTPConnection("localhost")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection.sock:
        connection.sock.connect(str(path))
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        connection.request("GET", target, headers=headers)
        return connection.getresponse().status


def test_an_engine_serves_on_its_socket_and_has_no_port(gateway: Gateway) -> None:
    assert gateway.chat("smol").status == 200
    [path] = sockets(gateway)
    report = gateway.report("smol")
    assert (report["port"], report["socket"]) == (None, str(path))
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert f"starting smol on {path}" in gateway.log
    engine = gateway.backend()
    assert engine.net_connections("inet") == []
    key = engine.environ()["LLAMA_API_KEY"]
    assert [status_of(path, "/props", sent) for sent in (None, "none", key)] == [401, 401, 200]
    assert gateway.ask("GET", "/upstream/smol/slots").status == 200
    assert [m["object"] for m in gateway.get("/v1/models")["data"]] == ["model"]


def test_a_stream_arrives_and_is_given_up_with_its_client(gateway: Gateway) -> None:
    stream = gateway.stream("smol", tokens=5)
    assert b"[DONE]" in stream.rest()
    stream = gateway.stream("smol", tokens=4000, ignore_eos=True)
    stream.read_until(b"data: ")
    wait_until(lambda: gateway.report("smol")["in_flight"] == 1, "it is under way")
    stream.leave()

    def idle() -> bool:
        slots = gateway.get("/upstream/smol/slots")
        return not any(slot["is_processing"] for slot in slots)

    wait_until(idle, "its slot is free")


def test_an_engine_that_is_killed_gets_another_socket(gateway: Gateway) -> None:
    assert gateway.chat("smol").status == 200
    [before] = sockets(gateway)
    gateway.backend().kill()
    wait_until(lambda: before not in sockets(gateway), "its socket is gone")
    assert gateway.ask("POST", CHAT, question("smol", 2)).status == 200
    [after] = sockets(gateway)
    assert after != before


def test_what_a_killed_gateway_leaves_is_gone_at_the_next_start() -> None:
    gateway = Gateway([model("smol")], backend_socket="unix")
    try:
        gateway.start()
        assert gateway.chat("smol").status == 200
        assert gateway.process is not None
        gateway.process.kill()
        gateway.wait()
        [left] = sockets(gateway)
        gateway.start()
        assert not left.exists()
        assert gateway.chat("smol").status == 200
        gateway.terminate()
        assert gateway.wait() == 0
        assert sockets(gateway) == []
    finally:
        gateway.clean_up()
