"""Fault 2: a backend is there and does nothing. It is found, killed and replaced; slow is not hung.

A backend counts as hung after three probes of five seconds each, so all that can hang does so at
once, and each test looks at one of them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from llamagw.launch.probes import Health, Readiness
from llamagw.net import Address
from tests.faults.servers import SLOW, Far, Server, ask, far, servers
from tests.faults.servers import gateway as far_gateway
from tests.faults.support import (
    Faulty,
    Raw,
    asking,
    assert_broken_off,
    assert_whole,
    code,
    is_gone,
    plain,
    post,
    running,
    took,
)
from tests.support.messages import answers
from tests.whole.harness import CHAT, Gateway, Reply, Stream, in_threads, model, wait_until

HEALTH_SEC = 0.5
#: Three probes, the pauses between them, and what a machine under load may add.
FOUND_SEC = HEALTH_SEC + 3 * 5 + 2 * 1 + 12
LOAD_SEC = 12
LIMITS = {"health_check_sec": HEALTH_SEC, "load_timeout_sec": LOAD_SEC, "max_loaded_models": 9}


class Remote:
    """
    Two servers of one model. The first one hangs in the middle of a stream and of two requests.

    :ivar replies: to all four requests; the thread ends when they are there
    """

    def __init__(self, gateway: Far, first: Server, second: Server) -> None:
        self.gateway, self.first, self.second = gateway, first, second
        gateway.until("loaded")
        first.answers(delay=60)
        second.answers(delay=0.2)
        slow = {**SLOW, "delay": 0}
        self.stream = Stream(gateway.port, CHAT, asking("far", stream=True, fake=slow))
        self.stream.read_events(2)
        self.replies: list[Reply] = []
        self.asking = threading.Thread(target=self._ask, daemon=True)

    def _ask(self) -> None:
        self.replies += in_threads(*[lambda: ask(self.gateway)] * 4)

    def hang(self) -> None:
        self.asking.start()
        wait_until(lambda: self.first.asked() + self.second.asked() >= 5, "all have come")
        self.first.signal(signal.SIGSTOP)


class Bench:
    """All that hangs, and since when."""

    def __init__(self, gateway: Faulty, real: Gateway, far: Remote) -> None:
        self.gateway, self.real, self.far = gateway, real, far
        names = ("idle", "deaf", "streaming", "waiting", "slow", "silent")
        for name in names:
            assert gateway.chat(name).status == 200
        assert real.chat("smol").status == 200
        self.first = {name: gateway.pid_of(name) for name in names}
        self.real_first = real.backend().pid
        self.streaming = gateway.stream("streaming", fake={"rate": 20, "events": 2000})
        self.streaming.read_events(3)
        hang = {"fault": "hang", "once": gateway.once()}
        self.waiting = Raw(gateway.port, post(asking("waiting", fake=hang), "Connection: close"))
        gateway.recorded("fault", "waiting")
        # A long prompt: no byte, while /health answers.
        stall = {"fault": "stall", "stall_sec": HEALTH_SEC + 3 * 5 + 2 * 1 + 3}
        self.slow = gateway.stream("slow", fake=stall)
        gateway.recorded("fault", "slow")
        # An engine with no thread left for /health, but tokens flow.
        self.silent = gateway.stream("silent", fake={"rate": 20, "events": 20 * 20})
        self.silent.read_events(2)
        gateway.fake("silent", {"health": "hang"})
        os.kill(self.first["idle"], signal.SIGSTOP)
        os.kill(self.first["streaming"], signal.SIGSTOP)
        os.kill(self.real_first, signal.SIGSTOP)
        self.since = time.monotonic()
        gateway.fake("deaf", {"blocked": True})
        self.far.hang()
        self.loading = Raw(gateway.port, post(asking("loading"), "Connection: close"))
        self.stopped = Raw(gateway.port, post(asking("stopped"), "Connection: close"))

    def is_found(self, name: str) -> None:
        left = self.since + FOUND_SEC - time.monotonic()
        wait_until(lambda: is_gone(self.first[name]), f"{name} is killed", max(left, 0))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    names = ("idle", "deaf", "sick", "streaming", "waiting", "slow", "silent")
    scripts = plain(*names)
    # It answers that it loads, for ever; and records nothing, as to write would be progress.
    scripts["loading"] = {"fail": "never", "record": None}
    scripts["stopped"] = {"fail": "hang", "fail_after_sec": 0.1}
    real = Gateway([model("smol")], health_check_sec=HEALTH_SEC)
    try:
        real.start()
        with (
            running(scripts, **LIMITS) as gateway,
            servers(tmp_path_factory.mktemp("servers"), "a", "b") as two,
            far_gateway(far(two)) as remote,
        ):
            yield Bench(gateway, real, Remote(remote, *two))
        real.stop()
    finally:
        real.clean_up()


def test_a_backend_that_says_it_is_sick_is_replaced(bench: Bench) -> None:
    gateway = bench.gateway
    assert gateway.chat("sick").status == 200
    first = gateway.pid_of("sick")
    gateway.fake("sick", {"health": 500})
    wait_until(lambda: is_gone(first), "it is killed", 10)
    assert gateway.chat("sick").status == 200


def test_a_backend_stopped_while_idle_is_replaced(bench: Bench) -> None:
    bench.is_found("idle")
    assert bench.gateway.chat("idle").status == 200
    assert bench.gateway.pid_of("idle") != bench.first["idle"]


def test_a_backend_that_answers_nobody_any_more_is_replaced(bench: Bench) -> None:
    bench.is_found("deaf")
    assert bench.gateway.chat("deaf").status == 200


def test_a_stream_whose_backend_hangs_ends_with_an_error(bench: Bench) -> None:
    bench.is_found("streaming")
    gone = time.monotonic()
    assert_broken_off(bench.streaming)
    assert time.monotonic() - gone < 1
    assert bench.gateway.chat("streaming").status == 200


def test_a_request_whose_backend_hangs_before_the_answer_is_repeated_unseen(bench: Bench) -> None:
    bench.is_found("waiting")
    [answer] = answers(bench.waiting.hears())
    assert answer.status == 200
    assert answer.whole
    assert len(bench.gateway.asked("waiting")) == 1 + 2


def test_answering_that_it_loads_is_no_progress(bench: Bench) -> None:
    """To answer the probes takes some CPU time, which must not put the timeout off for ever."""
    answer = bench.loading.answer(max(bench.since + LOAD_SEC + 6 - time.monotonic(), 0.1))
    assert (answer.status, code(answer)) == (504, "load_timeout")
    assert bench.gateway.engines("loading") == []


def test_a_backend_stopped_while_it_loads_is_given_up(bench: Bench) -> None:
    # It is looked at after each probe, of five seconds, in which it may have done its last.
    answer = bench.stopped.answer(bench.since + LOAD_SEC + 2 * 5 + 5 - time.monotonic())
    assert (answer.status, code(answer)) == (504, "load_timeout")
    wait_until(lambda: is_gone(bench.gateway.pid_of("stopped")), "it is killed", 2)


def test_a_real_engine_stopped_while_idle_is_replaced(bench: Bench) -> None:
    left = bench.since + FOUND_SEC - time.monotonic()
    wait_until(lambda: is_gone(bench.real_first), "it is killed", max(left, 0))
    assert bench.real.chat("smol").status == 200
    assert bench.real.backend().pid != bench.real_first


def test_a_real_engine_killed_in_a_stream_leaves_an_error(bench: Bench) -> None:
    wait_until(lambda: bench.real.chat("smol").status == 200, "a backoff is over")
    stream = bench.real.stream("smol", tokens=1900)
    stream.read_events(3)
    bench.real.backend().kill()
    killed = time.monotonic()
    assert_broken_off(stream)
    assert time.monotonic() - killed < 1


def test_a_remote_server_that_hangs_is_taken_out_and_its_requests_go_to_another(
    bench: Bench,
) -> None:
    """As nothing can be seen of it, it has hung when three probes failed and nothing came."""
    found, first = bench.far.gateway, bench.far.first
    bench.far.asking.join(max(bench.since + 30 - time.monotonic(), 0))
    assert [reply.status for reply in bench.far.replies] == [200] * 4
    assert found.said(f"far: {first.url} does not answer any more") == 1
    if first.asked() > 2:  # the stream was there
        assert_broken_off(bench.far.stream)
    for _ in range(4):
        assert took(lambda: ask(found)) < 3
    first.signal(signal.SIGCONT)
    bench.far.stream.leave()


class GivenUpTests(SynchronousTestCase):
    """A backend that hangs is stopped for another reason, while it is being probed."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.probes: list[Deferred[bool]] = []
        self.told: list[str] = []

    def probe(self, address: Address) -> Deferred[bool]:
        """As the real one: it does not fail, whatever happens to it."""
        self.probes.append(Deferred(lambda probe: probe.callback(False)))
        return self.probes[-1]

    def test_health_that_is_stopped_in_its_last_probe_says_nothing(self) -> None:
        health = Health(
            self.clock,
            self.probe,
            Address("127.0.0.1", 1),
            interval=1,
            progress=lambda: 0,
            hung=lambda: self.told.append("hung"),
        )
        for number in range(3):
            self.clock.advance(1)
            if number < 2:
                self.probes[number].callback(False)
        health.stop()
        self.clock.advance(10)
        self.assertEqual((len(self.probes), self.told, self.flushLoggedErrors()), (3, [], []))

    def test_readiness_that_is_stopped_in_a_probe_says_nothing(self) -> None:
        readiness = Readiness(
            self.clock,
            self.probe,
            lambda: Address("127.0.0.1", 1),
            progress=lambda: 0,
            confirm=lambda: True,
            timeout=1,
            healthy=lambda: self.told.append("healthy"),
            give_up=lambda: self.told.append("give up"),
        )
        self.clock.advance(5)
        readiness.stop()
        self.clock.advance(10)
        self.assertEqual((len(self.probes), self.told, self.flushLoggedErrors()), (1, [], []))


@pytest.mark.parametrize("name", ["slow", "silent"])
def test_a_backend_that_is_only_slow_is_left_alone(bench: Bench, name: str) -> None:
    # By now as much time has passed as it took to find those that hang.
    stream: Stream = getattr(bench, name)
    assert_whole(stream)
    assert time.monotonic() - bench.since > HEALTH_SEC + 3 * 5 + 2 * 1
    assert bench.gateway.starts(name) == 1
    assert not is_gone(bench.first[name])
