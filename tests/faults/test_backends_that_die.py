"""Fault 1: a backend is killed. What had not begun is repeated, what had begun ends openly."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.faults.support import (
    Faulty,
    Raw,
    asking,
    assert_broken_off,
    assert_whole,
    code,
    plain,
    post,
    running,
    sse,
)
from tests.support.messages import answers
from tests.whole.harness import CHAT, DEADLINE, in_threads, question, wait_until

SEED = int(os.environ.get("FAULT_SEED", "4"))
MANY = 100


@pytest.fixture(scope="module")
def gateway() -> Iterator[Faulty]:
    """Each test takes models of its own: a second crash with nothing answered earns a backoff."""
    names = [f"m{number}" for number in range(40)] + [f"r{number}" for number in range(MANY)]
    with running(plain(*names), max_loaded_models=4) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def names() -> Iterator[str]:
    return iter([f"m{number}" for number in range(40)])


@pytest.fixture
def name(names: Iterator[str]) -> str:
    return next(names)


def dying(gateway: Faulty, **more: Any) -> dict[str, Any]:
    """The script of a request that kills the first backend which gets it."""
    return {"fault": "kill", "once": gateway.once(), **more}


def open_connections(gateway: Faulty, name: str) -> int:
    return len(gateway.records("connected", name)) - len(gateway.records("closed", name))


# Before its answer began


@pytest.mark.parametrize("fault", ["kill", "segv", "exit"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_request_whose_backend_dies_before_the_answer_is_repeated_unseen(
    gateway: Faulty, name: str, fault: str, stream: bool
) -> None:
    script = dying(gateway, fault=fault)
    if stream:
        assert_whole(gateway.stream(name, fake=script))
    else:
        assert gateway.chat(name, fake=script).status == 200
    first, second = gateway.asked(name)
    assert first["pid"] != second["pid"]
    assert first["body_sha256"] == second["body_sha256"]
    assert gateway.starts(name) == 2


def test_each_of_those_who_wait_at_a_backend_that_dies_is_answered(
    gateway: Faulty, name: str
) -> None:
    begun = {"fault": "stall", "stall_sec": 0.2, "once": gateway.once(), "times": 6}
    assert gateway.chat(name).status == 200

    def ask() -> int:
        return gateway.chat(name, fake=begun).status

    def kill() -> int:
        gateway.recorded("fault", name, 6)
        os.kill(gateway.pid_of(name), signal.SIGKILL)
        return 200

    assert in_threads(*[ask] * 6, kill) == [200] * 7
    assert gateway.starts(name) == 2
    assert len(gateway.asked(name)) == 1 + 6 * 2


def test_a_request_that_kills_a_second_backend_too_is_told_so(gateway: Faulty, name: str) -> None:
    reply = gateway.chat(name, fake={"fault": "kill"})
    assert (reply.status, code(reply)) == (502, "backend_lost")
    assert len(gateway.asked(name)) == 2


def test_the_request_that_did_so_reaches_no_third_backend_and_others_are_answered(
    gateway: Faulty, name: str
) -> None:
    poison = {"fault": "kill"}
    assert code(gateway.chat(name, fake=poison)) == "backend_lost"
    for _ in range(3):
        reply = gateway.chat(name, fake=poison)
        assert (reply.status, code(reply)) == (502, "poisoned_request")
    assert len(gateway.asked(name)) == 2
    # Two crashes have earned the model a backoff; then it is there for everybody else.
    wait_until(lambda: gateway.chat(name, fake={}).status == 200, "another request is answered")


def test_a_backend_killed_while_idle_is_not_missed(gateway: Faulty, name: str) -> None:
    assert gateway.chat(name).status == 200
    os.kill(gateway.pid_of(name), signal.SIGKILL)
    assert gateway.chat(name).status == 200  # at once: the gateway may not know yet


def test_a_backend_killed_after_each_answer_is_not_missed(gateway: Faulty, name: str) -> None:
    for _ in range(4):
        assert gateway.chat(name).status == 200
        os.kill(gateway.pid_of(name), signal.SIGKILL)
    assert gateway.chat(name).status == 200
    assert gateway.starts(name) == 5


def test_who_asks_while_a_backend_that_was_killed_twice_is_kept_quiet_waits(
    gateway: Faulty, name: str
) -> None:
    assert gateway.chat(name, fake={"fault": "kill"}).status == 502
    assert [reply.status for reply in in_threads(*[lambda: gateway.chat(name)] * 3)] == [200] * 3
    assert gateway.starts(name) == 3


@pytest.mark.parametrize("fault", ["close", "reset"])
def test_a_connection_lost_before_the_answer_does_not_cost_the_backend_its_life(
    gateway: Faulty, name: str, fault: str
) -> None:
    assert gateway.chat(name, fake=dying(gateway, fault=fault)).status == 200
    assert gateway.starts(name) == 1


def test_a_connection_that_the_backend_closed_while_it_was_idle_is_not_noticed(
    gateway: Faulty, name: str
) -> None:
    gateway.script(name, {"keepalive_sec": 0.05})
    with gateway.quiet():
        for number in range(10):
            reply = gateway.chat(name, fake={"raw": "stale"} if number % 2 else {})
            assert reply.status == 200
            # Now the next one comes before the backend has closed it, now after.
            if number % 3:
                wait_until(lambda: open_connections(gateway, name) == 0, "it is closed")
    assert gateway.starts(name) == 1


# In a stream


@pytest.mark.parametrize("when", ["after_head", "mid_body", "between_events"])
def test_a_stream_whose_backend_dies_ends_with_an_error_within_a_second(
    gateway: Faulty, name: str, when: str
) -> None:
    stream = gateway.stream(name, tokens=20, fake=dying(gateway, when=when, at=5))
    assert_broken_off(stream)
    killed = gateway.recorded("fault", name)["t"]
    assert time.monotonic() - killed < 1
    assert len(gateway.asked(name)) == 1, "it must not be asked again"
    # The connection is none the worse.
    stream.sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    stream.raw = b""
    assert stream.read_until(b'"ok"').startswith(b"HTTP/1.1 200 ")


def test_what_was_whole_before_the_end_arrives_whole(gateway: Faulty, name: str) -> None:
    stream = gateway.stream(name, tokens=20, fake=dying(gateway, when="mid_body", at=5))
    *whole, half, error = sse(stream.rest())
    said = [json.loads(event)["choices"][0]["delta"]["content"] for event in whole]
    assert said == [None, "t0 ", "t1 ", "t2 ", "t3 ", "t4 "]
    # What has been sent of the next one cannot be taken back, but nobody can take it for an event.
    with pytest.raises(ValueError, match=r"JSON|Unterminated|Expecting"):
        json.loads(half)
    assert json.loads(error)["error"]["code"] == "backend_lost"


def test_an_old_client_s_stream_ends_with_the_error_too(gateway: Faulty, name: str) -> None:
    body = asking(name, stream=True, fake=dying(gateway, when="between_events"))
    heard = Raw(gateway.port, post(body).replace(b"HTTP/1.1", b"HTTP/1.0")).hears()
    assert b"[DONE]" not in heard
    last = [line for line in heard.split(b"\n") if line.startswith(b"data: ")][-1]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "backend_lost"


# In a plain body


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("when", ["after_head", "mid_body"])
def test_a_plain_answer_whose_backend_dies_is_incomplete_to_the_client(
    gateway: Faulty, name: str, framing: str, when: str
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=DEADLINE)
    script = dying(gateway, when=when, framing=framing)
    with closing(connection):
        connection.request("POST", CHAT, json.dumps(asking(name, fake=script)))
        response = connection.getresponse()
        assert response.status == 200
        with pytest.raises(http.client.IncompleteRead):
            response.read()
    assert len(gateway.asked(name)) == 1, "it must not be asked again"


# At any moment


def test_a_hundred_backends_killed_at_random_moments_leave_no_doubtful_answer(
    gateway: Faulty,
) -> None:
    """Each dies once, some time during the load, before, in or after an answer of 160 ms."""
    chance = random.Random(SEED)
    outcomes: dict[str, int] = {}
    todo = [f"r{number}" for number in range(MANY)]
    for name in todo:
        moment = {"once": gateway.once()}
        if chance.random() < 0.2:
            gateway.script(name, {"fail": "oom", "fail_after_sec": 0.05, **moment})
        else:
            gateway.script(name, {"crash_after_sec": chance.uniform(0, 0.4), **moment})
    plans = [(name, chance.random() < 0.6, chance.uniform(0, 0.04)) for name in todo]

    def work() -> None:
        while plans:
            name, stream, delay = plans.pop()
            script = {"rate": 50, "events": 8, "delay": delay}
            outcome = ask(name, stream, script)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1

    def ask(name: str, stream: bool, script: dict[str, Any]) -> str:
        body = question(name, 8, stream=stream, fake=script)
        heard = Raw(gateway.port, post(body, "Connection: close")).hears()
        [answer] = answers(heard)
        if answer.status != 200:
            # Killed while it loaded; or twice, as its second life may be as short.
            assert (answer.status, code(answer)) in [
                (503, "model_unavailable"),
                (502, "backend_lost"),
            ]
            return str(answer.status)
        if not stream:
            assert not answer.whole or answer.json()["usage"]["completion_tokens"] == 8
            return "whole" if answer.whole else "incomplete"
        events = sse(heard)
        if events[-1] == "[DONE]":
            assert len(events) == 1 + 8 + 1 + 1
            return "whole"
        assert json.loads(events[-1])["error"]["code"] == "backend_lost"
        return "told"

    in_threads(*[work] * 4)
    assert sum(outcomes.values()) == MANY, outcomes
    assert outcomes["whole"] > 20, outcomes
    assert outcomes["told"] > 10, outcomes
    assert outcomes["503"] > 5, outcomes
    gateway.until_nobody_is_left()
