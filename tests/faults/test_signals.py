"""SIGHUP in bad moments: before the gateway runs, many in a row, while it reads, while it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.support import (
    FAKE,
    STOCK,
    Faulty,
    assert_whole,
    is_gone,
    plain,
    refused,
)
from tests.whole.harness import free_port, in_threads, wait_until

RUN = [sys.executable, "-c", "from llamagw.cli.main import main; main()", "run"]

both_reactors = pytest.mark.parametrize("reactor", [None, STOCK], ids=["uvloop", "stock"])


@pytest.fixture
def gateway() -> Iterator[Faulty]:
    gateway = Faulty(plain("m"))
    try:
        yield gateway
    finally:
        gateway.clean_up()


def slow_engine(gateway: Faulty, name: str = "slow") -> tuple[Path, Path]:
    """A binary whose --help waits for a file; the binary, and the file."""
    path, go = gateway.folder / name, gateway.folder / f"{name}-may-speak"
    path.write_text(
        f'#!/bin/sh\nif [ "$1" = --help ]; then while [ ! -e {go} ]; do sleep 0.02; done; fi\n'
        f'exec {sys.executable} -S {FAKE} "$@"\n'
    )
    path.chmod(0o755)
    return path, go


def asked_for_help(gateway: Faulty) -> list[psutil.Process]:
    found = []
    for process in gateway._ours():
        with contextlib.suppress(psutil.Error):  # it may have ended meanwhile
            if "--help" in process.cmdline():
                found.append(process)
    return found


def hang_up(gateway: Faulty) -> None:
    os.kill(gateway.pid, signal.SIGHUP)


def models(gateway: Faulty) -> list[str]:
    return [entry["id"] for entry in gateway.get("/v1/models")["data"]]


def reloads(gateway: Faulty) -> int:
    return gateway.log.count("the configuration was reloaded")


# Before it runs


@both_reactors
def test_one_while_a_slow_engine_is_asked_for_its_flags_becomes_a_reload(
    gateway: Faulty, reactor: str | None
) -> None:
    gateway.reactor = reactor
    binary, go = slow_engine(gateway)
    gateway.config["llama_server_path"] = str(binary)
    gateway.write_config()
    gateway.spawn(gateway.command("-n", "--pidfile="))
    wait_until(lambda: asked_for_help(gateway), "the engine is asked")
    gateway.config["max_queue"] = 1
    gateway.write_config()
    for _ in range(3):
        hang_up(gateway)
    go.touch()
    gateway.wait_until_up()
    wait_until(lambda: reloads(gateway), "the file is read again")
    assert reloads(gateway) == 1
    assert gateway.chat("m").status == 200
    gateway.stop()


def test_one_as_soon_as_llamagw_run_has_become_twistd_does_not_end_it(gateway: Faulty) -> None:
    gateway.write_config()
    gateway.spawn(RUN)
    process = psutil.Process(gateway.pid)
    wait_until(lambda: any("twisted.scripts" in part for part in process.cmdline()), "it is twistd")
    hang_up(gateway)
    gateway.wait_until_up()
    wait_until(lambda: reloads(gateway), "the file is read again")
    assert gateway.chat("m").status == 200
    if sys.platform == "linux":
        # What was held back, or ignored, here must not be so in an engine.
        status = Path(f"/proc/{gateway.pid_of('m')}/status").read_text()
        masks = dict(line.split(":\t", 1) for line in status.splitlines())
        for mask in ("SigBlk", "SigIgn"):
            assert not int(masks[mask], 16) & 1 << (signal.SIGHUP - 1), mask
    gateway.stop()


# Many


def test_five_hundred_in_a_row_are_few_reloads_and_every_request_is_answered(
    gateway: Faulty,
) -> None:
    gateway.start()
    stream = gateway.stream("m", fake={"rate": 50, "events": 100})
    stream.read_events(1)
    statuses: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            statuses.append(gateway.chat("m").status)
            statuses.append(gateway.ask("GET", "/health").status)

    def hang_up_often() -> None:
        try:
            for _ in range(500):
                hang_up(gateway)
            wait_until(lambda: reloads(gateway), "the file is read again")
        finally:
            over.set()

    with gateway.quiet():
        in_threads(ask, ask, hang_up_often)
        assert_whole(stream)
    assert set(statuses) == {200}
    assert 1 <= reloads(gateway) <= 20
    assert gateway.starts("m") == 1
    gateway.stop()


def test_a_change_made_while_the_file_is_read_is_gone_by_in_the_end(gateway: Faulty) -> None:
    gateway.start()
    for number in range(1, 21):
        gateway.config["models"] = [gateway.entry("m"), gateway.entry(f"new{number}")]
        gateway.write_config("new.yaml").replace(gateway.folder / "config.yaml")
        hang_up(gateway)
    wait_until(lambda: models(gateway) == ["m", "new20"], "the last of them holds")
    gateway.stop()


# While something takes its time


@both_reactors
def test_another_engine_that_takes_its_time_is_waited_for_while_all_goes_on(
    gateway: Faulty, reactor: str | None
) -> None:
    gateway.reactor = reactor
    gateway.start()
    assert gateway.chat("m").status == 200
    binary, go = slow_engine(gateway)
    gateway.config["llama_server_path"] = str(binary)
    gateway.write_config()
    hang_up(gateway)
    wait_until(lambda: asked_for_help(gateway), "the engine is asked")
    first = gateway.pid_of("m")
    for _ in range(3):
        assert gateway.chat("m").status == 200
    assert gateway.pid_of("m") == first
    assert reloads(gateway) == 0
    # What the file says by then is what counts.
    gateway.config["models"].append(gateway.entry("late"))
    gateway.write_config()
    hang_up(gateway)
    go.touch()
    wait_until(lambda: models(gateway) == ["m", "late"], "the later file holds")
    assert gateway.chat("m").status == 200
    assert gateway.pid_of("m") != first
    assert reloads(gateway) == 2
    gateway.stop()


@both_reactors
def test_a_stop_does_not_wait_for_a_reload_and_leaves_nothing_of_it(
    gateway: Faulty, reactor: str | None
) -> None:
    gateway.reactor = reactor
    gateway.start()
    binary, _ = slow_engine(gateway)
    gateway.config["llama_server_path"] = str(binary)
    gateway.write_config()
    hang_up(gateway)
    [asked] = wait_until(lambda: asked_for_help(gateway), "the engine is asked")
    gateway.terminate()
    assert gateway.wait() == 0
    assert is_gone(asked.pid)
    assert "is not reloaded: the gateway is stopping" in gateway.log
    assert "--help failed" not in gateway.log, "it was waited for"
    assert reloads(gateway) == 0
    gateway.stop()


# While it ends


@both_reactors
def test_one_while_it_drains_is_no_reload_and_listens_nowhere(
    gateway: Faulty, reactor: str | None
) -> None:
    gateway.reactor = reactor
    gateway.start()
    stream = gateway.stream("m", fake={"rate": 30, "events": 45})
    stream.read_events(1)
    gateway.terminate()
    wait_until(lambda: "stopping; " in gateway.log, "it drains")
    new = free_port()
    gateway.config["listen_addr"] = f"127.0.0.1:{new}"
    gateway.write_config()
    hang_up(gateway)
    wait_until(lambda: "is not reloaded: the gateway is stopping" in gateway.log, "it is told")
    assert refused(new)
    assert refused(gateway.port)
    assert_whole(stream)
    assert gateway.wait() == 0
    assert reloads(gateway) == 0
    gateway.stop()


@both_reactors
def test_signals_up_to_the_last_moment_do_not_change_how_it_ends(
    gateway: Faulty, reactor: str | None
) -> None:
    gateway.reactor = reactor
    for number in (signal.SIGHUP, signal.SIGTERM):
        gateway.start()
        gateway.terminate()
        wait_until(lambda: refused(gateway.port), "it has begun to stop")
        assert gateway.process is not None
        while gateway.process.poll() is None:
            gateway.process.send_signal(number)
        assert gateway.process.returncode == 0
    gateway.stop()
