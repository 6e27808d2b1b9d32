"""Servers elsewhere that fail: what their model's clients notice of it, and what the log says.

Most are those of servers.py; where not even that is wrong enough, a socket of the test's own. Those
that hang are in test_backends_that_hang.py.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.faults.servers import SLOW, ask, far, gateway, listening, servers
from tests.faults.support import (
    STOCK,
    Faulty,
    Script,
    asking,
    assert_broken_off,
    assert_whole,
    code,
    loud,
    message,
    post,
    took,
)
from tests.whole.harness import CHAT, Stream, free_port, in_threads, wait_until

#: For those that take long, and where it is not the transports that matter.
only_uvloop = pytest.mark.parametrize("reactor", [None], ids=["uvloop"], indirect=True)


@pytest.fixture(params=[None, STOCK], ids=["uvloop", "stock"])
def reactor(request: pytest.FixtureRequest) -> Any:
    return request.param


# Which of them is asked


def test_each_of_them_gets_its_share_of_what_is_in_flight(tmp_path: Path, reactor: Any) -> None:
    with servers(tmp_path, "a", "b", "c") as three, gateway(far(three), reactor=reactor) as found:
        found.until("loaded")
        streams = [Stream(found.port, CHAT, asking("far", stream=True, fake=SLOW)) for _ in "x" * 9]
        for stream in streams:
            stream.read_events(1)
        assert [server.asked() for server in three] == [3, 3, 3]
        assert found.report("far")["in_flight"] == 9
        for stream in streams:
            stream.leave()
        found.until_nobody_is_left()
        # One after the other they are spread as well.
        for _ in range(6):
            assert ask(found).status == 200
        assert [server.asked() for server in three] == [5, 5, 5]


# They end


def test_a_server_that_is_killed_costs_nobody_who_has_heard_nothing_yet(
    tmp_path: Path, reactor: Any
) -> None:
    """Also not when many connections break in one moment."""
    with servers(tmp_path, "a", "b") as (a, b), gateway(far([a, b]), reactor=reactor) as found:
        found.until("loaded")
        streams = [Stream(found.port, CHAT, asking("far", stream=True, fake=SLOW)) for _ in "x" * 4]
        for stream in streams:
            stream.read_events(1)
        for server in (a, b):
            server.answers(delay=3)

        def kill() -> Any:
            wait_until(lambda: a.asked() == b.asked() == 12, "all have come")
            b.answers()  # those that come to it from now on are answered at once
            a.kill()

        _, *replies = in_threads(kill, *[lambda: ask(found)] * 20)
        assert [reply.status for reply in replies] == [200] * 20
        assert (b.asked(), found.report("far")["in_flight"]) == (22, 2)
        assert found.said("broke off before it answered") == 10
        for stream in streams:
            stream.leave()


def test_a_stream_of_a_server_that_is_killed_ends_with_an_error(
    tmp_path: Path, reactor: Any
) -> None:
    with servers(tmp_path, "a") as [a], gateway(far([a]), reactor=reactor) as found:
        found.until("loaded")
        stream = Stream(found.port, CHAT, asking("far", stream=True, fake=SLOW))
        stream.read_events(3)
        a.kill()
        assert took(lambda: assert_broken_off(stream)) < 2


def test_one_that_is_back_gets_work_again(tmp_path: Path, reactor: Any) -> None:
    with servers(tmp_path, "a", "b") as (a, b), gateway(far([a, b]), reactor=reactor) as found:
        reached = [f"far is reached at {server.url}" for server in (a, b)]
        wait_until(lambda: all(map(found.said, reached)), "both are reached")
        a.kill()
        for _ in range(4):
            assert ask(found).status == 200
        wait_until(lambda: found.said(f"{a.url} cannot be reached: it refuses connections"), "told")
        a.start()
        before = a.asked()
        wait_until(lambda: ask(found) and a.asked() > before, "it gets work")
        wait_until(lambda: found.said(f"far is reached at {a.url}") == 2, "its return is told")
        assert b.asked() > 3


def test_gateways_that_are_restarted_one_after_the_other_cost_nobody_anything(
    reactor: Any,
) -> None:
    with contextlib.ExitStack() as stack:
        two = [Faulty({"far": {}}, reactor=reactor) for _ in "ab"]
        for one in two:
            stack.callback(one.clean_up)
            one.start()
        urls = [f"http://127.0.0.1:{one.port}" for one in two]
        found = stack.enter_context(gateway({"name": "far", "url": urls}, reactor=reactor))
        wait_until(lambda: found.said("far is reached at") == 2, "both are reached")
        over = threading.Event()

        def plain() -> list[Any]:
            replies = []
            while not over.is_set():
                replies.append(ask(found, delay=0.05).status)
            return replies

        def streamed() -> list[Any]:
            whole = []
            while not over.is_set():
                fake = {"rate": 50, "events": 5}
                stream = Stream(found.port, CHAT, asking("far", stream=True, fake=fake))
                assert_whole(stream)
                whole.append(200)
            return whole

        def restart() -> list[Any]:
            try:
                for url, one in zip(urls, two, strict=True):
                    one.terminate()
                    assert one.wait() == 0
                    one.start()
                    wait_until(partial(found.has_said, f"far is reached at {url}", 2), "it is back")
            finally:
                over.set()
            return []

        for statuses in in_threads(restart, *[plain, streamed] * 3):
            assert set(statuses) <= {200}
        for one in two:
            one.stop()


def test_the_only_one_that_is_down_is_told_and_asked_again_when_it_is_up(
    tmp_path: Path, reactor: Any
) -> None:
    with servers(tmp_path, "a") as [a]:
        a.kill()
        with gateway(far([a]), reactor=reactor) as found:
            found.until("failed")
            reply = ask(found)
            assert (reply.status, code(reply)) == (503, "model_unavailable")
            assert int(reply.headers["Retry-After"]) >= 1
            assert f"{a.url} cannot be reached: it refuses connections" in message(reply)
            a.start()
            found.until("loaded")
            assert ask(found).status == 200


def test_the_only_one_that_breaks_off_is_a_502_and_goes_on_being_asked(
    tmp_path: Path, reactor: Any
) -> None:
    with servers(tmp_path, "a") as [a], gateway(far([a]), reactor=reactor) as found:
        found.until("loaded")
        reply = ask(found, fault="close")
        assert (reply.status, code(reply)) == (502, "backend_lost")
        assert ask(found).status == 200


# They do as they should not


@pytest.mark.parametrize(
    "wrong",
    [
        {"fault": "close"},
        {"fault": "reset"},
        {"raw": "garbage"},
        {"raw": "endless_line", "byte_sec": 0},
        {"fault": "close", "when": "after_head", "status": 200, "body": "x"},
    ],
    ids=["closes", "resets", "garbage", "endless head", "closes in its answer"],
)
def test_one_that_breaks_off_is_replaced_unseen_by_the_client(
    tmp_path: Path, wrong: Script
) -> None:
    """As long as nothing has reached the client; a body that is cut is cut there too."""
    with servers(tmp_path, "a", "b") as (a, b), gateway(far([a, b])) as found:
        found.until("loaded")
        a.answers(**wrong)
        begun = wrong.get("when") == "after_head"
        for _ in range(10):
            if not begun:
                assert ask(found).status == 200
                continue
            answer = found.raw(post(asking("far"), "Connection: close")).answer()
            assert answer.whole is (b"choices" in answer.body)
        assert a.asked() >= 1
        assert b.asked() >= 5
        found.until_nobody_is_left()


# Another configuration


def test_tls_that_is_new_wants_a_restart_and_changes_nothing(tmp_path: Path) -> None:
    """
    A process that does not need OpenSSL has done without it from its start.

    Unless --reactor is given: then Twisted has loaded it before the configuration was read.
    """
    with servers(tmp_path, "a") as [a], gateway(far([a])) as found:
        found.until("loaded")
        good = {**found.config, "tls": None}
        for change in (
            {"models": [{"name": "far", "url": "https://127.0.0.1:1"}]},
            {"listen_addr": f"ssl:{free_port()}:privateKey=key.pem:certKey=cert.pem"},
            {"tls": {"cert": "cert.pem", "key": "key.pem"}},
        ):
            before = len(found.log)
            found.reload(**{**good, **change})
            assert [line.partition("] ")[2] for line in found.log[before:].splitlines()] == [
                "TLS (tls, an https: url, listen_addr ssl:) is new: it wants a restart",
                "the configuration was not reloaded; all goes on as before",
            ]
            assert ask(found).status == 200
        found.reload(**good)
        assert "the configuration was reloaded" in found.log


def test_servers_come_and_go_with_a_reload_and_streams_go_on(tmp_path: Path, reactor: Any) -> None:
    with (
        servers(tmp_path, "a", "b") as (a, b),
        gateway(far([a]), far([a], "same"), reactor=reactor) as found,
    ):
        for name in ("far", "same"):
            found.until("loaded", name)
        streams = [
            Stream(found.port, CHAT, asking(name, stream=True, fake={"rate": 20, "events": 40}))
            for name in ("far", "same")
        ]
        for stream in streams:
            stream.read_events(2)
        found.reload(models=[far([b]), far([a], "same")])
        found.until("loaded")
        assert ask(found).status == 200
        assert b.asked() == 1
        assert found.said(f"same is reached at {a.url}") == 1
        for stream in streams:
            assert_whole(stream)


# Servers that are none


@contextlib.contextmanager
def full() -> Iterator[str]:
    """A URL at which no connection comes to be: a machine that is off would be like this."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def says(*lines: str, body: str = "") -> Callable[[socket.socket], None]:
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "Connection: close", "", body])

    def serve(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(head.encode())

    return serve


def reset(sock: socket.socket) -> None:
    sock.recv(1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


WRONG: dict[str, tuple[Callable[[socket.socket], object], str]] = {
    "page": (
        says("HTTP/1.1 200 OK", "Content-Type: text/html; charset=utf-8", body="<html>"),
        "it answers with a web page; is that the right URL?",
    ),
    "elsewhere": (
        says("HTTP/1.1 301 Moved", "Location: https://x.example/health"),
        "it answers 301 and points to https://x.example/health",
    ),
    "nothing": (
        says("HTTP/1.1 404 Not Found"),
        "it has neither /health nor /v1/models (404); is that the right URL?",
    ),
    "locked": (says("HTTP/1.1 401 No"), "it wants another api_key (it answers 401)"),
    "sick": (says("HTTP/1.1 500 Oops"), "it answers 500"),
    "silent": (lambda sock: sock.recv(65536) and sock.recv(1), "it does not answer in time"),
    "ssh": (lambda sock: sock.sendall(b"SSH-2.0-OpenSSH_9.6\r\n"), "it answers what is not HTTP"),
    "closes": (lambda sock: None, "the connection was lost"),
    "resets": (reset, "the connection was lost"),
}


@only_uvloop
def test_each_that_is_none_is_told_in_words_once(reactor: Any) -> None:
    """In the log and to whoever asks; and the others' work goes on meanwhile."""
    with contextlib.ExitStack() as stack:
        urls = {name: stack.enter_context(listening(how)) for name, (how, _) in WRONG.items()}
        wrong = {name: why for name, (_, why) in WRONG.items()}
        urls["plain"] = urls["ssh"].replace("http:", "https:")
        wrong["plain"] = "it does not speak TLS there (is it http:// instead of https://?)"
        urls["full"] = stack.enter_context(full())
        wrong["full"] = "no connection in time"
        urls["refuses"] = f"http://127.0.0.1:{free_port()}"
        wrong["refuses"] = "it refuses connections"
        urls["nameless"] = "http://no-such-host.invalid"
        wrong["nameless"] = "its name cannot be looked up"
        models = [{"name": name, "url": url, "api_key": "k"} for name, url in urls.items()]
        found = stack.enter_context(gateway(*models, reactor=reactor))
        for name, why in wrong.items():
            found.until("failed", name)
            reply = found.chat(name)
            assert (reply.status, code(reply)) == (503, "model_unavailable"), reply
            assert f"{urls[name]} cannot be reached: {why}" in message(reply)
        # Each is asked again after 1 s, then 2, then 4: three times while this one is away.
        wait_until(lambda: found.health()["uptime_sec"] > 8, "some have been asked again")
        lines = loud(found.log)
        assert len(lines) == len(wrong), lines
        for name, why in wrong.items():
            assert sum(f"{urls[name]} cannot be reached: {why}" in line for line in lines) == 1
