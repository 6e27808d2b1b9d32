"""Fault 14: the system gives no more. A clear message, and what can go on goes on."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.support import (
    STOCK,
    Faulty,
    Raw,
    asking,
    assert_whole,
    code,
    message,
    plain,
    post,
    running,
    took,
)
from tests.whole.harness import CHAT, DEADLINE, wait_until

linux = pytest.mark.skipif(sys.platform != "linux", reason="what this takes is Linux's")
reactors = pytest.mark.parametrize("reactor", [None, STOCK], ids=["uvloop", "stock"])


# A second gateway


def test_a_second_gateway_on_the_same_port_says_so_and_leaves_the_first_alone() -> None:
    with running({"m": {}}) as first:
        stream = first.stream("m", fake={"rate": 30, "events": 45})
        stream.read_events(1)
        second = Faulty({"m": {}})
        try:
            second.config["listen_addr"] = first.config["listen_addr"]
            second.more_environ["TMPDIR"] = str(first.tmp)
            second.write_config()
            done = second.run(second.command("-n", "--pidfile="))
        finally:
            second.clean_up()
        assert done.returncode == 1
        assert f"cannot listen on 127.0.0.1:{first.port}" in done.stdout
        assert "Traceback" not in done.stdout
        assert_whole(stream)
        assert first.chat("m").status == 200
        assert first.starts("m") == 1


# No more open files


@pytest.fixture(scope="module", params=[None, STOCK], ids=["uvloop", "stock"])
def gateway(request: pytest.FixtureRequest) -> Iterator[Faulty]:
    scripts = plain("m", "n", "o")
    with running(scripts, reactor=request.param, max_loaded_models=3) as gateway:
        yield gateway


def open_files(gateway: Faulty, limit: int) -> None:
    """Change the limit of a gateway that runs."""
    hard = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (limit, hard))


@contextlib.contextmanager
def no_more_files(gateway: Faulty) -> Iterator[None]:
    before = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)[0]
    used = {int(fd) for fd in os.listdir(f"/proc/{gateway.pid}/fd")}
    # The limit is compared with the number that a new file would get: the lowest that is free.
    open_files(gateway, min(set(range(before)) - used))
    try:
        yield
    finally:
        open_files(gateway, before)


@linux
def test_a_backend_that_cannot_be_started_for_want_of_files_is_told_so(gateway: Faulty) -> None:
    stream = gateway.stream("n", fake={"rate": 60, "events": 60})
    stream.read_events(1)
    data = post(asking("m"), "Connection: close")
    client = Raw(gateway.port, data[:-1])
    gateway.health()  # so that it has been heard
    with no_more_files(gateway):
        client.says(data[-1:])
        answer = client.answer(5)
    assert (answer.status, code(answer)) == (503, "model_unavailable")
    assert "open files" in message(answer)
    assert int(answer.headers["Retry-After"]) >= 1
    # What runs goes on, and once there are files again, so does the rest.
    assert_whole(stream)
    wait_until(lambda: gateway.chat("m").status == 200, "it is started", 5)


@linux
def test_a_backend_that_cannot_be_reached_for_want_of_files_is_told_so(gateway: Faulty) -> None:
    # It keeps its one connection to the backend busy.
    stream = gateway.stream("o", fake={"rate": 60, "events": 60})
    stream.read_events(1)
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=DEADLINE)
    connection.request("GET", "/health")
    assert connection.getresponse().read()
    with no_more_files(gateway):
        connection.request("POST", CHAT, json.dumps(asking("o")))
        response = connection.getresponse()
        told = json.loads(response.read())["error"]
    assert (response.status, told["code"]) == (502, "backend_lost")
    assert "open files" in told["message"]
    assert_whole(stream)
    connection.request("POST", CHAT, json.dumps(asking("o")))
    assert connection.getresponse().status == 200
    connection.close()
    assert gateway.starts("o") == 1


@linux
def test_clients_that_cannot_be_accepted_for_want_of_files_cost_nothing(gateway: Faulty) -> None:
    stream = gateway.stream("n", fake={"rate": 60, "events": 90})
    stream.read_events(1)
    process = psutil.Process(gateway.pid)
    with no_more_files(gateway):
        clients = [Raw(gateway.port) for _ in range(20)]
        before = process.cpu_times()
        stream.read_events(60)
        after = process.cpu_times()
        for client in clients:
            client.leaves()
    # It does not spin on a listener that it cannot serve.
    assert after.user + after.system - before.user - before.system < 0.5
    assert_whole(stream)
    wait_until(lambda: gateway.chat("n").status == 200, "it is served again", 5)


@linux
@reactors
def test_far_too_many_connections_keep_out_nobody_who_is_in(reactor: str | None) -> None:
    """Each that is refused needs a file too, until it has read why."""
    with running({"m": {}}, reactor=reactor, files="-n 152") as gateway:
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=DEADLINE)
        connection.request("GET", "/health")
        assert connection.getresponse().read()
        crowd = []
        for _ in range(300):
            with contextlib.suppress(ConnectionError):
                crowd.append(Raw(gateway.port))
        for _ in range(5):
            connection.request("POST", CHAT, json.dumps(asking("m")))
            response = connection.getresponse()
            assert response.status == 200, response.read()
            assert response.read()
        connection.close()
        for client in crowd:
            client.leaves()
        wait_until(lambda: gateway.chat("m").status == 200, "there is room again")
        assert gateway.log.count("connections are open") == 1


# The log's disk is full


@linux
@reactors
def test_a_log_that_cannot_be_written_stops_nothing(reactor: str | None) -> None:
    gateway = Faulty({"m": {}}, reactor=reactor)
    try:
        gateway.write_config()
        gateway.spawn(gateway.command("-n", "--pidfile="), log=Path("/dev/full"))
        gateway.wait_until_up()
        for _ in range(20):
            assert gateway.chat("m").status == 200
        gateway.terminate()
        assert gateway.wait() == 0
        gateway.assert_no_backend_is_left()
    finally:
        gateway.clean_up()


# The clock is set back

CLOCK = """
import os, time
real = time.time
time.time = lambda: real() - (86400 if os.path.exists({flag!r}) else 0)
"""


@reactors
def test_a_clock_that_is_set_back_stops_no_timer(reactor: str | None) -> None:
    gateway = Faulty({"m": {}, "bad": {"fail": "exit"}}, reactor=reactor, request_timeout_sec=1)
    flag = gateway.folder / "yesterday"
    # Python reads it before anything else.
    (gateway.folder / "sitecustomize.py").write_text(CLOCK.format(flag=str(flag)))
    gateway.more_environ["PYTHONPATH"] = ":".join(
        [str(gateway.folder), gateway.environ["PYTHONPATH"]]
    )
    try:
        gateway.start()
        assert gateway.chat("bad").status == 503
        flag.touch()
        assert 0.5 < took(lambda: Raw(gateway.port, b"GET /hea").answer(10)) < 4
        wait_until(lambda: gateway.starts("bad") == 1 and gateway.chat("m").status == 200, "m")
        wait_until(
            lambda: gateway.chat("bad").status == 503 and gateway.starts("bad") == 2,
            "its backoff ends",
            5,
        )
        gateway.stop()
    finally:
        gateway.clean_up()
