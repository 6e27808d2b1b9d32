"""Faults 3, 4 and 6: loads that fail or take long, taken ports, a SIGTERM that is ignored."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from tests.faults.support import Faulty, Raw, asking, code, is_gone, message, post, running, took
from tests.support.messages import answers
from tests.whole.harness import CHAT, DEADLINE, Reply, free_ports, in_threads, wait_until

#: What each kind of failed load is told with: the engine's own words where it has any.
KINDS = {
    "exit": "no more VRAM today",
    "library": "libllama.so: cannot open shared object file",
    "missing_model": "failed to open GGUF file",
    "bad_model": "invalid magic characters",
    "truncated_model": "not within the file bounds",
    "cuda_memory": "cudaMalloc failed: out of memory",
    "flag": "invalid argument: --frobnicate",
    "oom": "was killed by SIGKILL",
    "segv": "was killed by SIGSEGV",
}
LATE = ("exit", "oom", "cuda_memory")
SLOW = ("output", "cpu", "read")


def failing(kind: str, **more: Any) -> dict[str, Any]:
    if kind == "exit":
        more |= {"exit_code": 7, "stderr": ["a first line", KINDS["exit"]]}
    return {"fail": kind, **more}


@pytest.fixture(scope="module")
def gateway() -> Iterator[Faulty]:
    scripts: dict[str, dict[str, Any]] = {kind: failing(kind) for kind in KINDS}
    scripts |= {f"late-{kind}": failing(kind, fail_after_sec=0.3) for kind in LATE}
    scripts |= {f"slow-{how}": {"load_sec": 3.2, "load_progress": how} for how in SLOW}
    scripts |= {
        # Without a record: to write one would be progress.
        "silent": {"load_sec": 600, "load_progress": "none", "record": None},
        "never": {"fail": "never", "record": None},
        "storm": {"fail": "exit", "stderr": ["out of luck"]},
        "held": {"fail": "exit", "stderr": ["last words"], "grandchild_sec": 3},
        "ports": {},
        "good": {},
        "second": {},
    }
    first = free_ports(30)
    with (
        socket.create_server(("127.0.0.1", first)),
        running(
            scripts, port_range_start=first, max_loaded_models=8, load_timeout_sec=1.5
        ) as gateway,
    ):
        yield gateway


def assert_failed(reply: Reply, words: str) -> None:
    assert (reply.status, code(reply)) == (503, "model_unavailable")
    assert words in message(reply)
    assert int(reply.headers["Retry-After"]) >= 1


# A load that fails


def no_engine(gateway: Faulty, name: str) -> bool:
    return gateway.engines(name) == []


@pytest.mark.parametrize("kind", KINDS)
def test_all_who_wait_for_a_load_that_fails_are_told_why_within_a_second(
    gateway: Faulty, kind: str
) -> None:
    replies = in_threads(*[lambda: gateway.chat(kind)] * 3)
    told = time.monotonic()
    for reply in replies:
        assert_failed(reply, KINDS[kind])
    assert gateway.starts(kind) == 1
    assert told - gateway.records("start", kind)[0]["t"] < 1


@pytest.mark.parametrize("kind", LATE)
def test_a_load_that_fails_late_is_told_as_well(gateway: Faulty, kind: str) -> None:
    reply = gateway.chat(f"late-{kind}")
    told = time.monotonic()
    assert_failed(reply, KINDS[kind])
    assert told - gateway.records("start", f"late-{kind}")[0]["t"] < 0.3 + 1


def test_a_grandchild_that_holds_the_pipes_delays_nobody(gateway: Faulty) -> None:
    reply = gateway.chat("held")
    told = time.monotonic()
    assert_failed(reply, "last words")
    assert told - gateway.records("start", "held")[0]["t"] < 1


def test_a_model_whose_file_is_missing_is_not_started(gateway: Faulty) -> None:
    (gateway.folder / "second.json").rename(gateway.folder / "elsewhere.json")
    assert_failed(gateway.chat("second"), f"there is no file {gateway.folder}/second.json")
    assert gateway.starts("second") == 0
    (gateway.folder / "elsewhere.json").rename(gateway.folder / "second.json")
    wait_until(lambda: gateway.chat("second").status == 200, "it is served once it is there", 5)


def test_a_storm_leads_to_one_start_for_each_step_of_the_backoff(gateway: Faulty) -> None:
    end = time.monotonic() + 3.6
    statuses: list[int] = []

    def storm() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=DEADLINE)
        with closing(connection):
            while time.monotonic() < end:
                connection.request("POST", CHAT, json.dumps(asking("storm")))
                response = connection.getresponse()
                assert b"out of luck" in response.read()
                assert int(response.headers["Retry-After"]) >= 1
                statuses.append(response.status)

    in_threads(*[storm] * 6)
    assert set(statuses) == {503}
    assert len(statuses) > 300
    times = [start["t"] for start in gateway.records("start", "storm")]
    gaps = [b - a for a, b in pairwise(times)]
    assert len(gaps) == 2, "at 0, 1 and 3 s"
    for gap, step in zip(gaps, (1, 2), strict=True):
        assert gap > step - 0.15, gaps


# A load that takes long


def test_a_load_that_gets_on_may_take_longer_than_load_timeout_sec(gateway: Faulty) -> None:
    calls = [lambda how=how: gateway.chat(f"slow-{how}") for how in SLOW]
    assert [reply.status for reply in in_threads(*calls)] == [200] * 3
    assert [gateway.starts(f"slow-{how}") for how in SLOW] == [1] * 3


def test_a_load_that_does_not_get_on_is_given_up(gateway: Faulty) -> None:
    names = ("silent", "never")
    begin = time.monotonic()
    replies = in_threads(*[lambda name=name: gateway.chat(name) for name in names])
    assert time.monotonic() - begin < 6
    for name, reply in zip(names, replies, strict=True):
        assert (reply.status, code(reply)) == (504, "load_timeout")
        assert "1.5 s" in message(reply)
        wait_until(partial(no_engine, gateway, name), "its process is gone", 2)
    assert gateway.chat("good").status == 200


# Ports


def test_a_port_taken_between_the_look_and_the_bind_is_passed_over(gateway: Faulty) -> None:
    gateway.script("ports", {"fail": "port", "once": gateway.once(), "times": 3})
    assert gateway.chat("ports").status == 200
    ports = [start["port"] for start in gateway.records("start", "ports")]
    assert len(ports) == len(set(ports)) == 4


def test_a_port_that_somebody_else_has_is_never_given_to_a_backend(gateway: Faulty) -> None:
    assert gateway.chat("good").status == 200
    assert gateway.config["port_range_start"] not in {s["port"] for s in gateway.records("start")}


def test_a_range_without_a_free_port_is_told_and_is_tried_again() -> None:
    with (
        socket.create_server(("127.0.0.1", 65535)) as taker,
        running({"a": {}}, port_range_start=65535) as gateway,
    ):
        assert_failed(gateway.chat("a"), "no free port from 65535 to 65535")
        assert gateway.starts("a") == 0
        taker.close()
        wait_until(lambda: gateway.chat("a").status == 200, "it is served once there is one", 5)


# SIGTERM ignored


def test_a_backend_that_ignores_sigterm_is_killed_and_its_room_given_after_that() -> None:
    scripts: dict[str, Any] = {"deaf": {"sigterm": "ignore"}, "next": {}}
    with running(scripts, max_loaded_models=1, stop_timeout_sec=1) as gateway:
        assert gateway.chat("deaf").status == 200
        deaf = gateway.pid_of("deaf")
        with gateway.watched() as counts:
            assert gateway.chat("next").status == 200
        assert is_gone(deaf)
        assert max(counts) == 1
        asked = gateway.recorded("sigterm", "deaf")["t"]
        assert gateway.recorded("start", "next")["t"] - asked > 0.9
        # And one that is stopped in the middle of it all.
        assert gateway.chat("deaf").status == 200
        os.kill(gateway.pid_of("deaf"), signal.SIGSTOP)
        assert took(lambda: gateway.chat("next")) < 4
        assert gateway.chat("next").status == 200


def test_who_waits_while_a_model_is_loading_may_speak_http_1_0(gateway: Faulty) -> None:
    gateway.script("second", {"load_sec": 0.3})
    client = Raw(gateway.port, post(asking("second")).replace(b"HTTP/1.1", b"HTTP/1.0"))
    [answer] = answers(client.hears())
    assert answer.status == 200
