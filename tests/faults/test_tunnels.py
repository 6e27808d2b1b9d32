"""WebSocket tunnels while the gateway ends, and while their model goes: they live on as an answer
does, for as long, and hold nothing up."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.faults.support import STOCK, Faulty, Raw, code, plain, refused
from tests.whole.harness import CHAT, DEADLINE, wait_until
from tests.whole.test_elsewhere import Sockets

UPGRADE = (
    b"GET /upstream/far/ws HTTP/1.1\r\nHost: localhost\r\n"
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.fixture(params=[None, STOCK], ids=["uvloop", "stock"])
def reactor(request: pytest.FixtureRequest) -> str | None:
    found: str | None = request.param
    return found


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    with Sockets() as server:
        yield server


@pytest.fixture
def gateway(reactor: str | None, sockets: Sockets) -> Iterator[Faulty]:
    gateway = Faulty(plain("m"), reactor=reactor, drain_sec=2)
    gateway.config["models"].append({"name": "far", "url": sockets.url})
    try:
        gateway.start()
        wait_until(lambda: (gateway.report("far") or {}).get("status") == "loaded", "it is reached")
        yield gateway
    finally:
        gateway.clean_up()


@contextlib.contextmanager
def tunnel(gateway: Faulty) -> Iterator[ClientConnection]:
    with connect(f"ws://127.0.0.1:{gateway.port}/upstream/far/ws", proxy=None) as socket:
        assert echoes(socket)
        yield socket


def echoes(socket: ClientConnection) -> bool:
    socket.send("here")
    return socket.recv(DEADLINE) == "here"


def ends(gateway: Faulty) -> None:
    assert gateway.wait() == 0
    gateway.stop()


def test_while_it_drains_one_goes_on_and_a_new_one_is_refused_until_drain_sec(
    gateway: Faulty, sockets: Sockets
) -> None:
    half = Raw(gateway.port, UPGRADE[:-2])
    with tunnel(gateway) as socket:
        gateway.health()  # so that the half has been heard
        gateway.terminate()
        wait_until(lambda: "stopping; 1 running answer has" in gateway.log, "it drains")
        wait_until(lambda: refused(gateway.port), "new connections are refused")
        half.says(UPGRADE[-2:])
        answer = half.answer()
        assert (answer.status, code(answer, open_to_all=False)) == (503, "shutting_down")
        assert echoes(socket)
        with pytest.raises(ConnectionClosed):
            socket.recv(DEADLINE)
        ends(gateway)
    wait_until(lambda: "/ws" in sockets.closed, "the other side has heard")


def test_one_whose_client_says_nothing_does_not_keep_a_gateway_that_is_hurried(
    gateway: Faulty,
) -> None:
    gateway.reload(drain_sec=600)
    with tunnel(gateway) as socket:
        gateway.terminate()
        wait_until(lambda: "stopping; 1 running answer has" in gateway.log, "it drains")
        gateway.terminate()
        with pytest.raises(ConnectionClosed):
            socket.recv(DEADLINE)
        ends(gateway)


def test_one_whose_model_is_removed_goes_on_and_holds_nothing_up(gateway: Faulty) -> None:
    with tunnel(gateway) as socket:
        config = dict(gateway.config)
        gateway.reload(models=[gateway.entry("m")])
        gone = Raw(
            gateway.port, UPGRADE.replace(b"Upgrade\r\nUp", b"close, Upgrade\r\nUp")
        ).answer()
        assert (gone.status, code(gone, open_to_all=False)) == (404, "model_not_found")
        assert echoes(socket)
        # Others are served, the same name may come back, and reloads go on.
        assert gateway.ask("POST", CHAT, {"model": "m", "messages": []}).status == 200
        gateway.reload(models=config["models"])
        wait_until(lambda: (gateway.report("far") or {}).get("status") == "loaded", "it is back")
        with tunnel(gateway) as successor:
            assert echoes(successor)
            assert echoes(socket)
        gateway.reload(models=[gateway.entry("m")])
        assert echoes(socket)
        gateway.terminate()
        with pytest.raises(ConnectionClosed):
            socket.recv(DEADLINE)
        ends(gateway)
