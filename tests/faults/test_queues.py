"""Fault 13: many wait for one model. They are counted, timed, and those who stream kept company."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.support import Faulty, Raw, asking, assert_broken_off, code, post, running, sse
from tests.whole.harness import wait_until

QUEUE, PATIENCE, COMPANY = 20, 1.5, 0.2


@pytest.fixture(scope="module")
def gateway() -> Iterator[Faulty]:
    """Room for one model."""
    scripts: dict[str, dict[str, Any]] = {
        "a": {},
        "b": {},
        "late": {"load_sec": 0.9},
        "bad": {"fail": "bad_model", "fail_after_sec": 0.5},
    }
    with running(
        scripts,
        max_loaded_models=1,
        swap_after_sec=60,
        max_queue=QUEUE,
        queue_timeout_sec=PATIENCE,
        stream_keepalive_sec=COMPANY,
    ) as gateway:
        yield gateway


@pytest.fixture
def busy(gateway: Faulty) -> Iterator[Faulty]:
    """Somebody holds the only room."""
    stream = gateway.stream("a", fake={"rate": 20, "events": 10**6})
    stream.read_events(1)
    yield gateway
    stream.leave()
    gateway.until_nobody_is_left()


def test_one_too_many_is_told_at_once_and_the_others_get_their_turn(gateway: Faulty) -> None:
    stream = gateway.stream("a", fake={"rate": 20, "events": 10**6})
    stream.read_events(1)
    data = post(asking("b"), "Connection: close")
    clients = [Raw(gateway.port, data) for _ in range(QUEUE)]
    wait_until(lambda: gateway.report("b")["waiting"] == QUEUE, "all of them wait")
    for _ in range(5):
        answer = Raw(gateway.port, data).answer(1)
        assert (answer.status, code(answer)) == (503, "server_busy")
        assert int(answer.headers["Retry-After"]) >= 1
    stream.leave()
    assert [client.answer().status for client in clients] == [200] * QUEUE
    assert gateway.starts("b") == 1


def test_one_that_waits_too_long_is_told_504(busy: Faulty) -> None:
    begin = time.monotonic()
    answer = Raw(busy.port, post(asking("b"), "Connection: close")).answer()
    assert (answer.status, code(answer)) == (504, "queue_timeout")
    assert PATIENCE - 0.1 < time.monotonic() - begin < PATIENCE + 1
    assert busy.counts() == (1, 0)


def test_a_stream_that_waits_is_kept_alive_by_comments(gateway: Faulty) -> None:
    stream = gateway.stream("late")
    beginning = stream.read_until(b": waiting for late: position 1, 0.")
    assert beginning.startswith(b"HTTP/1.1 200 ")
    assert b"Content-Type: text/event-stream" in beginning
    whole = stream.rest()
    assert whole.count(b": waiting") >= 3
    events = sse(whole)
    assert events[-1] == "[DONE]"
    assert len(events) == 1 + 8 + 1 + 1
    assert whole.count(b"HTTP/1.1 200") == 1


def test_an_error_after_that_is_an_event(gateway: Faulty) -> None:
    stream = gateway.stream("bad")
    assert_broken_off(stream, "model_unavailable")
    assert stream.raw.startswith(b"HTTP/1.1 200 ")
    assert b": waiting" in stream.raw
    assert "invalid magic" in json.loads(sse(stream.raw)[-1])["error"]["message"]


def test_an_error_of_the_engine_after_that_is_an_event_too(gateway: Faulty) -> None:
    gateway.script("late", {"load_sec": 0.4})
    assert gateway.chat("a").status == 200
    refusal = {"status": 400, "body": {"error": {"code": 400, "message": "too long"}}}
    stream = gateway.stream("late", fake=refusal)
    assert json.loads(sse(stream.rest())[-1]) == refusal["body"]
    assert b"[DONE]" not in stream.raw


def test_a_stream_that_waits_too_long_is_told_by_an_event(busy: Faulty) -> None:
    stream = busy.stream("b")
    assert_broken_off(stream, "queue_timeout")
    assert stream.raw.count(b": waiting") >= PATIENCE / COMPANY / 2


def test_one_that_is_kept_company_and_leaves_is_forgotten(busy: Faulty) -> None:
    with busy.quiet():
        stream = busy.stream("b")
        stream.read_until(b": waiting")
        stream.leave()
        wait_until(lambda: busy.counts() == (1, 0), "it waits no more", PATIENCE - 0.5)


def test_who_does_not_stream_is_sent_nothing_early(gateway: Faulty) -> None:
    gateway.script("late", {"load_sec": 0.9})
    assert gateway.chat("a").status == 200
    answer = Raw(gateway.port, post(asking("late"), "Connection: close")).answer()
    assert answer.status == 200
    assert answer.json()["usage"]
