"""Engines that run out of memory, where it is counted and where it is not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.faults.support import Faulty, Script, code, message, running
from tests.whole.harness import wait_until

#: What the models are counted with; both fit.
SIZES = {"idle": "300MB", "big": "500MB"}


@contextlib.contextmanager
def counting(**scripts: Script) -> Iterator[Faulty]:
    """A gateway that may use 1 GB, with one model in memory, which is idle."""
    gateway = Faulty({"idle": {}, **scripts}, memory={"host": "1GB"})
    for one in gateway.config["models"]:
        one["memory"] = SIZES[one["name"]]
    try:
        gateway.start()
        assert gateway.chat("idle").status == 200
        yield gateway
        gateway.stop()
    finally:
        gateway.clean_up()


def test_a_load_without_memory_has_others_go_and_is_tried_once_more() -> None:
    with counting(big={"fail": "cuda_memory"}) as gateway:
        gateway.script("big", {"fail": "cuda_memory", "once": gateway.once()})
        assert gateway.chat("big").status == 200
        assert gateway.report("idle") is None
        assert len(gateway.records("start", "big")) == 2


def test_the_second_time_it_is_told_with_the_figures() -> None:
    with counting(big={"fail": "cuda_memory"}) as gateway:
        reply = gateway.chat("big")
        assert (reply.status, code(reply)) == (503, "insufficient_memory")
        assert "out of memory" in message(reply)
        assert "MiB on host" in message(reply)
        assert int(reply.headers["Retry-After"]) >= 1
        assert len(gateway.records("start", "big")) == 2


def test_where_it_is_not_counted_it_has_failed_as_ever() -> None:
    with running({"big": {"fail": "cuda_memory"}}) as gateway:
        reply = gateway.chat("big")
        assert (reply.status, code(reply)) == (503, "model_unavailable")
        assert "out of memory" in message(reply)
        wait_until(lambda: gateway.engines("big") == [], "its end")
        assert len(gateway.records("start", "big")) == 1
