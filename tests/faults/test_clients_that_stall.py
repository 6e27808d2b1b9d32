"""Fault 8: clients that do not read, do not send, or are too many. Memory stays bounded, they are
cut in time, and others do not notice."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.support import STOCK, Faulty, Raw, asking, code, post, refused, running, took
from tests.whole.harness import wait_until

MEGABYTE = 2**20
STALL_SEC, REQUEST_SEC = 1.5, 1.0


def impatient(reactor: str | None = None) -> contextlib.AbstractContextManager[Faulty]:
    """A gateway that is, so that a test is quick."""
    return running(
        {"m": {}},
        reactor=reactor,
        client_stall_sec=STALL_SEC,
        request_timeout_sec=REQUEST_SEC,
    )


@pytest.fixture(scope="module")
def gateway() -> Iterator[Faulty]:
    with impatient() as gateway:
        assert gateway.chat("m").status == 200
        yield gateway


# In reading


@pytest.mark.parametrize("flood", ["flood", "flood_plain"])
def test_one_that_stops_reading_costs_little_memory_and_is_cut(gateway: Faulty, flood: str) -> None:
    assert_bounded_and_cut(gateway, flood)


def test_so_is_one_on_twisted_s_own_transports() -> None:
    with impatient(STOCK) as gateway:
        assert gateway.chat("m").status == 200
        assert_bounded_and_cut(gateway, "flood")


def assert_bounded_and_cut(gateway: Faulty, flood: str) -> None:
    # Once read to the end of the buffers, so that those are not counted.
    with gateway.quiet():
        first = Raw(gateway.port, post(asking("m", fake={"raw": flood})))
        for _ in range(50):
            assert first.sock.recv(65536)
        first.leaves()
        gateway.until_nobody_is_left()
        before = gateway.rss
        client = Raw(gateway.port, post(asking("m", fake={"raw": flood})))
        sent = [-1]

        def stands_still() -> bool:
            sent.append(sum(one["sent"] for one in gateway.fake("m")["active"]))
            return sent[-1] > 0 and sent[-5:] == [sent[-1]] * 5

        wait_until(stands_still, "the engine is stopped too")
        stalled = time.monotonic()
        assert gateway.rss - before < 2 * MEGABYTE
        assert gateway.counts() == (1, 0)
        gateway.until_nobody_is_left()
        assert STALL_SEC - 1 < time.monotonic() - stalled < STALL_SEC + 2
        wait_until(lambda: not gateway.fake("m")["active"], "the engine knows", 5)
        client.hears(5)  # what was on its way, and the end
    assert gateway.chat("m").status == 200


def test_one_that_reads_slowly_is_not_cut(gateway: Faulty) -> None:
    """Now and then a little, for longer than the stall may last."""
    client = Raw(gateway.port, post(asking("m", fake={"raw": "flood"})))
    pause, end = threading.Event(), time.monotonic() + STALL_SEC + 1
    while time.monotonic() < end:
        # What takes the system's buffers below the mark where the sender is told to go on.
        for _ in range(100):
            assert client.sock.recv(65536)
        pause.wait(0.3)
    assert gateway.counts() == (1, 0)
    client.leaves()
    gateway.until_nobody_is_left()


# In sending


HEAD, BODY = "head", "body"


@pytest.mark.parametrize("where", [HEAD, BODY])
def test_one_that_sends_a_byte_at_a_time_is_told_and_cut_without_blocking_others(
    gateway: Faulty, where: str
) -> None:
    whole = post(asking("m", padding="x" * 1000))
    begin = whole.index(b"\r\n\r\n") + 10 if where == BODY else 1
    client = Raw(gateway.port, whole[:begin])
    cut, others = threading.Event(), []

    def trickle() -> None:
        for byte in whole[begin:]:
            if cut.wait(0.05):
                return
            with contextlib.suppress(OSError):
                client.says(bytes([byte]))

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        others = [took(lambda: gateway.chat("m")) for _ in range(10)]
        answer = client.answer()
    finally:
        cut.set()
        thread.join()
    assert (answer.status, code(answer)) == (408, "request_timeout")
    assert max(others) < 1
    gateway.until_nobody_is_left()


def test_one_that_sends_nothing_is_cut(gateway: Faulty) -> None:
    with gateway.quiet():
        clients = [Raw(gateway.port) for _ in range(10)]
        assert [client.hears(REQUEST_SEC + 5) for client in clients] == [b""] * 10


# Too many


def soft_limit() -> int:
    """As many files as this process may have open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def test_five_thousand_idle_connections_keep_nobody_out() -> None:
    """As many as the system allows, if that is less; the gateway raises its own soft limit."""
    many = min(5000, (soft_limit() - 400) // 2)
    with running({"m": {}}, files="-S -n 256") as gateway, contextlib.ExitStack() as stack:
        assert gateway.chat("m").status == 200
        before = gateway.rss
        with gateway.quiet():
            for _ in range(many):
                sock = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
                stack.callback(sock.close)
            assert max(took(lambda: gateway.chat("m")) for _ in range(10)) < 1
        assert (gateway.rss - before) / many < 20_000


@pytest.mark.parametrize("reactor", [None, STOCK], ids=["uvloop", "stock"])
def test_connections_over_the_limit_are_told_so_and_the_log_says_why(reactor: str | None) -> None:
    with running({"m": {}}, reactor=reactor, files="-n 152") as gateway:
        room = (152 - 128) // 2
        crowd = [Raw(gateway.port) for _ in range(room)]
        for _ in range(20):
            answer = Raw(gateway.port, post(asking("m"))).answer()
            assert (answer.status, code(answer)) == (503, "server_busy")
            assert int(answer.headers["Retry-After"]) >= 1
        assert gateway.log.count("connections are open") == 1
        for client in crowd:
            client.leaves()
        wait_until(lambda: gateway.chat("m").status == 200, "there is room again")
        assert not refused(gateway.port)
