"""Fault 7: a client goes away, at any moment. Its place is free at once, and nobody is bothered."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.support import Faulty, Raw, asking, post, running
from tests.whole.harness import in_threads, wait_until

SEED = int(os.environ.get("FAULT_SEED", "7"))
MANY = 1000
WORKERS = 8


@pytest.fixture(scope="module")
def gateway() -> Iterator[Faulty]:
    scripts: dict[str, dict[str, Any]] = {
        "m": {}, "other": {}, "slow": {"load_sec": 30}, "a": {}, "b": {"load_sec": 0.05},
    }  # fmt: skip
    with running(
        scripts, max_loaded_models=1, swap_after_sec=0.05, stop_timeout_sec=0.5
    ) as gateway:
        yield gateway


@pytest.fixture(params=[False, True], ids=["closes", "resets"])
def reset(request: pytest.FixtureRequest) -> bool:
    found: bool = request.param
    return found


def active(gateway: Faulty, name: str) -> int:
    return len(gateway.fake(name)["active"])


def assert_free(gateway: Faulty, name: str, stays: bool = True) -> None:
    gateway.until_nobody_is_left()
    if stays:
        assert gateway.chat(name).status == 200


def test_one_that_leaves_with_its_request_half_sent_has_never_been_there(
    gateway: Faulty, reset: bool
) -> None:
    assert gateway.chat("m").status == 200
    asked = len(gateway.asked("m"))
    whole = post(asking("m"))
    with gateway.quiet():
        for cut in (1, 10, whole.index(b"\r\n\r\n"), len(whole) - 1):
            Raw(gateway.port, whole[:cut]).leaves(reset)
        assert_free(gateway, "m")
    assert len(gateway.asked("m")) == asked + 1


def test_one_that_leaves_while_its_model_loads_waits_no_more(gateway: Faulty, reset: bool) -> None:
    with gateway.quiet():
        client = Raw(gateway.port, post(asking("slow")))
        wait_until(lambda: gateway.counts() == (0, 1), "it waits")
        client.leaves(reset)
        gateway.until_nobody_is_left()
        # Nobody wants it any more: it makes room for those who want something.
        assert gateway.chat("m").status == 200


def test_one_that_leaves_the_queue_has_no_model_swapped_for_it(
    gateway: Faulty, reset: bool
) -> None:
    with gateway.quiet():
        begun = gateway.stream("m", fake={"rate": 20, "events": 1000})
        begun.read_events(1)
        starts = gateway.starts("other")
        gateway.reload(swap_after_sec=60)
        client = Raw(gateway.port, post(asking("other")))
        wait_until(lambda: gateway.counts() == (1, 1), "it waits")
        client.leaves(reset)
        wait_until(lambda: gateway.counts() == (1, 0), "it waits no more", 5)
        begun.leave()
        gateway.until_nobody_is_left()
        assert gateway.chat("m").status == 200
    assert gateway.starts("other") == starts
    gateway.reload(swap_after_sec=0.05)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_one_that_leaves_before_the_answer_frees_its_slot(
    gateway: Faulty, reset: bool, stream: bool
) -> None:
    assert gateway.chat("m").status == 200
    with gateway.quiet():
        stall = {"fault": "stall"}
        client = Raw(gateway.port, post(asking("m", stream=stream, fake=stall)))
        wait_until(lambda: active(gateway, "m") == 1, "it has reached the engine")
        client.leaves(reset)
        wait_until(lambda: active(gateway, "m") == 0, "the engine knows", 5)
        assert_free(gateway, "m")


@pytest.mark.parametrize("rate", [0, 20], ids=["fast", "slow"])
def test_one_that_leaves_in_a_stream_frees_its_slot(
    gateway: Faulty, reset: bool, rate: int
) -> None:
    assert gateway.chat("m").status == 200
    with gateway.quiet():
        client = gateway.stream("m", fake={"rate": rate, "events": 10**6})
        client.read_events(2)
        client.leave()
        wait_until(lambda: active(gateway, "m") == 0, "the engine knows", 5)
        assert_free(gateway, "m")


def test_one_that_leaves_in_a_plain_body_frees_its_slot(gateway: Faulty, reset: bool) -> None:
    assert gateway.chat("m").status == 200
    with gateway.quiet():
        client = Raw(gateway.port, post(asking("m", fake={"raw": "flood_plain"})))
        assert client.sock.recv(65536)
        client.leaves(reset)
        wait_until(lambda: active(gateway, "m") == 0, "the engine knows", 5)
        assert_free(gateway, "m")


def test_a_thousand_that_leave_at_random_moments_leave_no_trace(gateway: Faulty) -> None:
    """Two models, room for one, so that they leave queues, loads and swaps too."""
    chance = random.Random(SEED)
    plans = [plan(chance) for _ in range(MANY)]
    pause = threading.Event()
    threads = []

    def work(mine: list[tuple[bytes, float, bool]]) -> None:
        for data, patience, reset in mine:
            client = Raw(gateway.port, data)
            pause.wait(patience)
            client.leaves(reset)

    with gateway.quiet():
        for number in range(WORKERS):
            threads.append(lambda mine=plans[number::WORKERS]: work(mine))
        in_threads(*threads)
        gateway.until_nobody_is_left()
        for name in ("a", "b"):
            assert gateway.chat(name).status == 200
            assert active(gateway, name) == 0
    assert len(gateway.asked("a") + gateway.asked("b")) > MANY / 10


def plan(chance: random.Random) -> tuple[bytes, float, bool]:
    """What one sends, how long it stays, and how it leaves."""
    script = chance.choice([
        {}, {"rate": 300, "events": 1000}, {"fault": "stall"}, {"delay": 0.01},
        {"raw": "flood"}, {"raw": "flood_plain"}, {"raw": "slow"}, {"framing": "chunked"},
    ])  # fmt: skip
    name = chance.choice(["a"] * 9 + ["b"])
    data = post(asking(name, stream=chance.random() < 0.5, fake=script))
    if chance.random() < 0.2:
        data = data[: chance.randrange(len(data))]
    return data, chance.uniform(0, 0.03), chance.random() < 0.5
