"""Faults 10 and 11: the gateway is killed, or asked to end. No backend outlives it, nobody is left
hanging, and nothing is touched that is not its own."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.support import (
    FAKE,
    STOCK,
    Faulty,
    Raw,
    asking,
    assert_broken_off,
    assert_whole,
    code,
    is_gone,
    loud,
    plain,
    post,
    refused,
)
from tests.whole.harness import DEADLINE, wait_until

SEED = int(os.environ.get("FAULT_SEED", "10"))
Make = Callable[..., Faulty]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes gateways that are gone after the test, however it goes."""
    made: list[Faulty] = []

    def make(*names: str, **more: Any) -> Faulty:
        gateway = Faulty(plain(*names), **more)
        made.append(gateway)
        return gateway

    yield make
    for gateway in made:
        gateway.clean_up()


def kill(gateway: Faulty) -> None:
    os.kill(gateway.pid, signal.SIGKILL)
    assert gateway.wait() == -signal.SIGKILL


# Killed

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help in this is Linux's")


@linux
def test_a_gateway_that_is_killed_takes_all_its_backends_along(make: Make) -> None:
    """One that is idle, one that is busy, one that loads, one that is about to end and will not."""
    gateway = make("idle", "busy", "loading", "deaf", max_loaded_models=3, stop_timeout_sec=60)
    gateway.script("loading", {"load_sec": 60})
    gateway.script("deaf", {"sigterm": "ignore"})
    gateway.start()
    assert gateway.chat("deaf").status == 200
    assert gateway.chat("idle").status == 200
    stream = gateway.stream("busy", fake={"rate": 20, "events": 1000})
    stream.read_events(1)
    loading = Raw(gateway.port, post(asking("loading")))
    gateway.recorded("sigterm", "deaf")
    assert len(gateway.backends()) == 3
    kill(gateway)
    wait_until(lambda: not gateway._ours(), "no backend is left", deadline=2)
    loading.leaves()


@linux
def test_a_gateway_killed_at_a_random_moment_of_a_start_leaves_no_backend(make: Make) -> None:
    chance = random.Random(SEED)
    names = [f"m{number}" for number in range(30)]
    for _ in range(2):
        gateway = make(*names, max_loaded_models=30).start()
        # Thirty starts, one after another: whenever it is killed, some are half done.
        clients = [Raw(gateway.port, post(asking(name))) for name in names]
        threading.Event().wait(chance.uniform(0.01, 0.5))
        kill(gateway)
        wait_until(gateway.nothing_is_left, "none is left", deadline=2)
        for client in clients:
            client.leaves()


@pytest.fixture
def innocent() -> Iterator[psutil.Process]:
    """A process of the same user that has nothing to do with us."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield psutil.Process(process.pid)
    process.kill()
    process.communicate(timeout=DEADLINE)


def known(process: psutil.Process, shift: float = 0) -> dict[str, Any]:
    return {"pid": process.pid, "started": process.create_time() + shift}


def left_behind(gateway: Faulty, name: str, owner: Any, *backends: Any) -> Path:
    """A state file as a gateway of that pid and start time leaves it when it is killed."""
    folder = gateway.tmp / f"llamagw-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"gateway": owner, "backends": backends}))
    return path


def test_what_an_earlier_gateway_left_is_ended_and_an_innocent_of_the_same_pid_is_not(
    make: Make, innocent: psutil.Process
) -> None:
    gateway = make("m")
    leftover = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stubborn = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal\nsignal.signal(15, signal.SIG_IGN)\nprint(1)\ninput()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert stubborn.stdout is not None
        assert stubborn.stdout.readline() == b"1\n"
        mine = psutil.Process()
        backends = [known(psutil.Process(p.pid)) for p in (leftover, stubborn)]
        # Its own pid has been given to somebody else since, as has one of its backends'.
        paths = [
            left_behind(gateway, "1", known(mine, -1000), *backends, known(innocent, -1000)),
            left_behind(gateway, "2", {"pid": 2**22 + 1, "started": 1.0}, known(mine, -1000)),
        ]
        gateway.start()
        assert leftover.wait(1) == -signal.SIGTERM
        assert stubborn.wait(1) == -signal.SIGKILL
        assert innocent.is_running()
        assert not any(path.exists() for path in paths)
        for process in (leftover, stubborn):
            assert f"ending pid {process.pid}, left by an earlier gateway" in gateway.log
        assert str(innocent.pid) not in gateway.log
        gateway.stop()
    finally:
        for process in (leftover, stubborn):
            process.kill()
            process.communicate(timeout=DEADLINE)


def test_the_backends_of_a_gateway_that_lives_are_not_touched(make: Make) -> None:
    first = make("m").start()
    assert first.chat("m").status == 200
    second = make("m")
    second.more_environ["TMPDIR"] = str(first.tmp)
    second.start()
    assert second.chat("m").status == 200
    second.stop()
    with first.quiet():
        assert first.chat("m").status == 200
        assert first.starts("m") == 1
    first.terminate()
    assert first.wait() == 0
    folder = first.tmp / f"llamagw-{os.getuid()}"
    assert list(folder.iterdir()) == []
    loads = first.folder / "llamagw" / "loads.json"
    assert json.loads(loads.read_text())[0]["name"] == "m"


def test_a_state_file_that_makes_no_sense_is_passed_over(make: Make) -> None:
    gateway = make("m")
    for content in (b"", b"nonsense", b'{"gateway": 1}', b"\xff\0", b"[" * 9999):
        left_behind(gateway, f"{len(content)}", None).write_bytes(content)
    gateway.start()
    assert gateway.chat("m").status == 200
    gateway.stop()


def test_a_state_folder_that_others_can_write_to_is_not_trusted(
    make: Make, innocent: psutil.Process
) -> None:
    gateway = make("m")
    path = left_behind(gateway, "1", {"pid": 2**22 + 1, "started": 1.0}, known(innocent))
    path.parent.chmod(0o777)
    gateway.start()
    assert "is not ours alone" in gateway.log
    assert gateway.chat("m").status == 200
    assert innocent.is_running()
    gateway.stop()


def test_a_state_file_that_somebody_tidied_away_bothers_nobody(make: Make) -> None:
    gateway = make("m").start()
    [path] = (gateway.tmp / f"llamagw-{os.getuid()}").iterdir()
    path.unlink()
    gateway.terminate()
    assert gateway.wait() == 0
    assert "stopped; no backend is left" in gateway.log
    assert loud(gateway.log) == []


@linux
def test_a_real_leftover_is_ended_at_the_next_start(make: Make) -> None:
    """An engine that has thrown off the kernel's leash, as one on macOS can in a bad moment."""
    gateway = make("m")
    loose = gateway.folder / "loose"
    loose.write_text(
        f"#!{sys.executable} -IS\nimport ctypes, os, sys\nctypes.CDLL(None).prctl(1, 0)\n"
        f"os.execv({sys.executable!r}, ['python3', '-S', {str(FAKE)!r}, *sys.argv[1:]])\n"
    )
    loose.chmod(loose.stat().st_mode | stat.S_IXUSR)
    gateway.config["llama_server_path"] = str(loose)
    gateway.start()
    assert gateway.chat("m").status == 200
    left = gateway.pid_of("m")
    kill(gateway)
    assert not is_gone(left)
    gateway.start()
    assert is_gone(left)
    assert gateway.chat("m").status == 200
    gateway.stop()


# Asked to end


@pytest.mark.parametrize("reactor", [None, STOCK], ids=["uvloop", "stock"])
def test_sigterm_finishes_what_runs_and_turns_away_who_waits(
    make: Make, reactor: str | None
) -> None:
    gateway = make("busy", "queued", "loading", max_loaded_models=2, swap_after_sec=60)
    gateway.reactor = reactor
    gateway.script("loading", {"load_sec": 60})
    gateway.start()
    stream = gateway.stream("busy", fake={"rate": 30, "events": 45})
    plain = Raw(gateway.port, post(asking("busy", fake={"fault": "stall", "stall_sec": 1})))
    gateway.recorded("fault", "busy")
    loading = Raw(gateway.port, post(asking("loading")))
    wait_until(lambda: gateway.report("loading"), "one waits for a load")
    queued = Raw(gateway.port, post(asking("queued")))
    wait_until(lambda: gateway.report("queued"), "one waits for room")
    idle = Raw(gateway.port)
    used = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=DEADLINE)
    used.request("GET", "/health")
    assert used.getresponse().read()
    gateway.terminate()
    begin = time.monotonic()
    for client in (loading, queued):
        answer = client.answer(2)
        assert (answer.status, code(answer)) == (503, "shutting_down")
        assert int(answer.headers["Retry-After"]) >= 1
    assert idle.hears(2) == b""
    assert used.sock.recv(1) == b""
    assert time.monotonic() - begin < 1
    wait_until(lambda: refused(gateway.port), "new connections are refused", 2)
    assert plain.answer().status == 200
    assert_whole(stream)
    assert gateway.wait() == 0
    assert time.monotonic() - begin < 4
    gateway.stop()


def test_a_request_on_a_connection_that_is_there_is_turned_away_while_it_ends(make: Make) -> None:
    gateway = make("m").start()
    stream = gateway.stream("m", fake={"rate": 20, "events": 20})
    stream.read_events(1)
    half = Raw(gateway.port, post(asking("m"))[:-5])
    gateway.health()  # so that it has been heard
    gateway.terminate()
    wait_until(lambda: "stopping" in gateway.log, "it has begun to stop")
    half.says(post(asking("m"))[-5:])
    answer = half.answer()
    # The model may finish what it has and take nothing new.
    assert (answer.status, code(answer)) == (503, "shutting_down")
    assert_whole(stream)
    assert gateway.wait() == 0
    gateway.stop()


MANY = 30


def begun(gateway: Faulty) -> tuple[Any, Raw, list[Raw]]:
    """A stream, a plain answer in its middle, and many that have not begun; none will end."""
    stream = gateway.stream("m", fake={"rate": 20, "events": 10**6})
    stream.read_events(1)
    stall = {"fault": "stall", "when": "mid_body"}
    plain = Raw(gateway.port, post(asking("m", fake=stall), "Connection: close"))
    data = post(asking("m", fake={"fault": "stall"}), "Connection: close")
    waiting = [Raw(gateway.port, data) for _ in range(MANY)]
    gateway.recorded("fault", "m", 1 + MANY)
    return stream, plain, waiting


def assert_ended_as_if_killed(stream: Any, plain: Raw, waiting: list[Raw]) -> None:
    assert_broken_off(stream)
    answer = plain.answer(5)
    assert (answer.status, answer.whole) == (200, False)
    for client in waiting:
        refusal = client.answer(5)
        assert (refusal.status, code(refusal)) in ((503, "shutting_down"), (502, "backend_lost"))


def test_what_takes_longer_than_drain_sec_is_ended_as_if_killed(
    make: Make,
) -> None:
    gateway = make("m", drain_sec=0.5, stop_timeout_sec=1)
    gateway.config["models"] = [gateway.entry("m", parallel=MANY + 2)]
    gateway.start()
    clients = begun(gateway)
    begin = time.monotonic()
    gateway.terminate()
    assert_ended_as_if_killed(*clients)
    assert gateway.wait() == 0
    assert 0.4 < time.monotonic() - begin < 0.5 + 1 + 1.5
    gateway.stop()


def test_a_second_signal_hurries(make: Make) -> None:
    gateway = make("m", drain_sec=300, stop_timeout_sec=1)
    gateway.config["models"] = [gateway.entry("m", parallel=MANY + 2)]
    gateway.script("m", {"sigterm": "ignore"})
    gateway.start()
    clients = begun(gateway)
    gateway.terminate()
    wait_until(lambda: "stopping" in gateway.log, "it has begun to stop")
    begin = time.monotonic()
    os.kill(gateway.pid, signal.SIGTERM)
    os.kill(gateway.pid, signal.SIGINT)  # and a third changes nothing
    assert_ended_as_if_killed(*clients)
    assert gateway.wait() == 0
    assert time.monotonic() - begin < 1 + 1.5
    gateway.stop()


def test_a_client_that_reads_nothing_does_not_keep_it(make: Make) -> None:
    gateway = make("m", drain_sec=0.5, stop_timeout_sec=1).start()
    client = Raw(gateway.port, post(asking("m", fake={"raw": "flood"})))
    assert client.sock.recv(65536)
    begin = time.monotonic()
    gateway.terminate()
    assert gateway.wait() == 0
    assert time.monotonic() - begin < 4
    gateway.stop()


def test_sigterm_right_after_the_start_ends_it_in_order(make: Make) -> None:
    for _ in range(2):
        gateway = make("m").start()
        client = socket.create_connection(("127.0.0.1", gateway.port), DEADLINE)
        client.sendall(post(asking("m"), "Connection: close"))
        gateway.stop()
        client.close()
