"""Fault 12: SIGHUP. What did not change goes on untouched; what did changes in place."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.support import (
    STOCK,
    Faulty,
    Raw,
    asking,
    assert_whole,
    code,
    is_gone,
    message,
    plain,
    post,
    refused,
)
from tests.whole.harness import DEADLINE, free_port, in_threads, wait_until


@pytest.fixture
def reactor() -> str | None:
    return None


@pytest.fixture
def gateway(reactor: str | None) -> Iterator[Faulty]:
    scripts = plain("same", "changed", "removed", "new")
    gateway = Faulty(scripts, reactor=reactor, max_loaded_models=4)
    del gateway.config["models"][-1]
    try:
        yield gateway.start()
        gateway.stop()
    finally:
        gateway.clean_up()


def listener(gateway: Faulty, port: int) -> str:
    """The listening socket itself: another one on the same port is another one."""
    [fd] = [
        c.fd
        for c in psutil.Process(gateway.pid).net_connections("tcp")
        if c.status == psutil.CONN_LISTEN and c.laddr.port == port
    ]
    return os.readlink(f"/proc/{gateway.pid}/fd/{fd}")


def argv(gateway: Faulty, name: str) -> list[str]:
    found: list[str] = gateway.records("start", name)[-1]["argv"]
    return found


@pytest.mark.parametrize("reactor", [None, STOCK], ids=["uvloop", "stock"])
def test_what_did_not_change_goes_on_and_what_did_is_drained_and_stopped(gateway: Faulty) -> None:
    streams = {
        name: gateway.stream(name, fake={"rate": 30, "events": 40})
        for name in ("same", "changed", "removed")
    }
    for stream in streams.values():
        stream.read_events(2)
    before = {name: gateway.pid_of(name) for name in streams}
    socket_before = listener(gateway, gateway.port)
    kept = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=DEADLINE)
    kept.request("GET", "/health")
    assert kept.getresponse().read()

    gateway.reload(
        models=[
            gateway.entry("new"),
            gateway.entry("same"),
            gateway.entry("changed", threads=7, extra_args=["--metrics"]),
        ]
    )
    # The removed one is unknown from now on, the new one is there, in the order of the file.
    reply = gateway.chat("removed")
    assert (reply.status, code(reply)) == (404, "model_not_found")
    assert [m["id"] for m in gateway.get("/v1/models")["data"]] == ["new", "same", "changed"]
    assert gateway.chat("new").status == 200
    # A newcomer to the changed one has the new flags, while the old engine still streams.
    assert gateway.chat("changed").status == 200
    assert gateway.pid_of("changed") != before["changed"]
    assert argv(gateway, "changed")[argv(gateway, "changed").index("--threads") + 1] == "7"
    assert argv(gateway, "changed")[-1] == "--metrics"
    assert not any(is_gone(pid) for pid in before.values())

    for stream in streams.values():
        assert_whole(stream)
    for name in ("changed", "removed"):
        wait_until(partial(is_gone, before[name]), f"the old {name} is gone", 5)
    assert gateway.chat("same").status == 200
    assert gateway.pid_of("same") == before["same"]
    assert gateway.starts("same") == 1
    assert listener(gateway, gateway.port) == socket_before
    # Its connection was left alone too.
    kept.request("GET", "/health")
    assert b'"same"' in kept.getresponse().read()
    kept.close()


def wrong_yaml(gateway: Faulty) -> str:
    return "models: ["


def wrong_values(gateway: Faulty) -> str:
    return json.dumps({**gateway.config, "max_queue": -1, "nonsense": 1})


def wrong_address(gateway: Faulty) -> str:
    return json.dumps({**gateway.config, "listen_addr": "nonsense:1:2", "models": []})


def taken_address(gateway: Faulty) -> str:
    port = gateway.report("same")["port"]
    return json.dumps(
        {
            **gateway.config,
            "listen_addr": f"127.0.0.1:{port}",
            "models": [Faulty.entry("other")],
        }
    )


def no_address(gateway: Faulty) -> str:
    """One that this machine does not have; and another model, which must not come to be."""
    changes = {"listen_addr": "192.0.2.1:80", "models": [Faulty.entry("other")]}
    return json.dumps({**gateway.config, **changes})


def test_a_configuration_that_is_wrong_changes_nothing_and_is_told(gateway: Faulty) -> None:
    stream = gateway.stream("same", fake={"rate": 30, "events": 30})
    stream.read_events(2)
    pid, inode = gateway.pid_of("same"), listener(gateway, gateway.port)
    path: Path = gateway.folder / "config.yaml"
    for wrong in (wrong_yaml, wrong_values, wrong_address, taken_address, no_address):
        path.write_text(wrong(gateway))
        before = len(gateway.log)
        gateway.hang_up()
        told = gateway.log[before:]
        assert "the configuration was not reloaded; all goes on as before" in told, wrong
        assert "Traceback" not in told
        if wrong is wrong_values:
            assert f"{path}:1: max_queue: " in told
            assert f"{path}:1: nonsense: unknown key" in told
    path.unlink()
    gateway.hang_up()
    assert "cannot be read" in gateway.log
    assert_whole(stream)
    for name in ("same", "changed", "removed"):
        assert gateway.chat(name).status == 200
    assert gateway.pid_of("same") == pid
    assert listener(gateway, gateway.port) == inode


def test_a_reload_by_http_is_answered_when_it_is_applied_or_with_its_faults(
    gateway: Faulty,
) -> None:
    path: Path = gateway.folder / "config.yaml"
    config = {**gateway.config, "models": [gateway.entry("new")], "max_queue": 7}
    text = json.dumps(config)
    changes = "new: new; removed: same, changed, removed; "
    changes += "other keys: default_model, max_queue"
    told = {"ok": True, "changes": changes, "notes": []}
    assert gateway.ask("POST", "/config/check", config).json() == told
    assert gateway.chat("same").status == 200
    path.write_text(text)
    assert gateway.ask("POST", "/config/reload").json() == told
    assert gateway.chat("same").status == 404
    assert gateway.chat("new").status == 200
    [queue] = [one for one in gateway.get("/config")["values"] if one["place"] == "max_queue"]
    assert queue == {"place": "max_queue", "value": 7, "from": "file", "line": 1}
    path.write_text(text.replace(": 7", ": -7"))
    [fault] = gateway.ask("POST", "/config/reload").json()["faults"]
    assert (fault["place"], fault["line"]) == ("max_queue", 1)
    assert gateway.chat("new").status == 200


def test_a_new_address_is_served_and_the_old_one_finishes_what_it_has(gateway: Faulty) -> None:
    stream = gateway.stream("same", fake={"rate": 30, "events": 40})
    stream.read_events(2)
    old, new = gateway.port, free_port()
    gateway.reload(listen_addr=f"127.0.0.1:{new}")
    wait_until(lambda: refused(old), "nobody listens at the old address")
    gateway.port = new
    assert gateway.chat("same").status == 200
    assert gateway.starts("same") == 1
    assert f"listening on 127.0.0.1:{new}" in gateway.log
    assert_whole(stream)


def test_limits_change_in_place(gateway: Faulty) -> None:
    assert gateway.chat("same").status == 200
    assert gateway.chat("changed").status == 200
    pid = gateway.pid_of("changed")
    gateway.reload(
        max_loaded_models=1,
        max_body_mb=0.001,
        request_timeout_sec=0.5,
        queue_timeout_sec=0.3,
        max_queue=1,
        swap_after_sec=60,
    )
    # The one used last stays, the other one goes.
    wait_until(lambda: len(gateway.backends()) == 1, "one is left", 5)
    assert gateway.pid_of("changed") == pid
    assert not is_gone(pid)
    assert gateway.health()["max_loaded_models"] == 1
    reply = gateway.chat("changed", padding="x" * 2000)
    assert (reply.status, code(reply)) == (413, "body_too_large")
    half = Raw(gateway.port, b"GET /hea").answer(5)
    assert (half.status, code(half)) == (408, "request_timeout")
    stream = gateway.stream("changed", fake={"rate": 20, "events": 10**6})
    stream.read_events(1)
    replies = in_threads(*[lambda: gateway.chat("same")] * 2)
    assert sorted((r.status, code(r)) for r in replies) == [
        (503, "server_busy"),
        (504, "queue_timeout"),
    ]
    stream.leave()
    gateway.reload(max_loaded_models=4, max_body_mb=64, request_timeout_sec=60, swap_after_sec=10)
    assert gateway.chat("same", padding="x" * 2000).status == 200
    assert not is_gone(pid)


def test_who_waits_for_a_model_that_is_removed_is_told_and_for_a_changed_one_gets_the_new(
    gateway: Faulty,
) -> None:
    for name in ("changed", "removed"):
        gateway.script(name, {"load_sec": 60})
    changed = Raw(gateway.port, post(asking("changed"), "Connection: close"))
    removed = Raw(gateway.port, post(asking("removed"), "Connection: close"))
    wait_until(lambda: gateway.starts("changed") and gateway.starts("removed"), "both load")
    gateway.script("changed", {})
    gateway.reload(models=[gateway.entry("same"), gateway.entry("changed", threads=7)])
    answer = removed.answer(5)
    assert (answer.status, code(answer)) == (404, "model_not_found")
    assert "`removed`" in message(answer)
    assert changed.answer(10).status == 200
    wait_until(lambda: len(gateway.backends()) == 1, "what nobody wants any more is gone", 5)


def test_a_hundred_reloads_under_load_lose_nothing(gateway: Faulty) -> None:
    """One model changes now and then, another one streams all the while."""
    stream = gateway.stream("same", fake={"rate": 50, "events": 100})
    statuses: list[int] = []
    over = threading.Event()

    def ask(name: str) -> None:
        while not over.is_set():
            # Most of its time is in flight, and leaves the machine to the reloads.
            statuses.append(gateway.chat(name, fake={"delay": 0.05}).status)

    def reload() -> None:
        try:
            for number in range(100):
                models = [gateway.entry(n) for n in ("same", "removed")]
                # Each time another one, and its starts would be all that there is time for.
                models.append(gateway.entry("changed", threads=1 + number // 10))
                gateway.config["models"] = models
                # Never half a file.
                gateway.write_config("new.yaml").replace(gateway.folder / "config.yaml")
                gateway.hang_up()
        finally:
            over.set()

    calls: list[Any] = [lambda: ask("removed"), lambda: ask("changed"), lambda: ask("same")]
    in_threads(*calls, reload)
    assert set(statuses) == {200}
    assert_whole(stream)
    assert gateway.starts("same") == gateway.starts("removed") == 1
    gateway.until_nobody_is_left()
    wait_until(lambda: len(gateway.backends()) == 3, "the old ones are gone", 5)
