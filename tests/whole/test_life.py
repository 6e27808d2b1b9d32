"""How the gateway starts and ends: twistd's ways to run it, its refusals, and its orderly stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from tests.whole.harness import (
    DEADLINE,
    TWISTD,
    Gateway,
    in_threads,
    model,
    small_model,
    wait_until,
)

STOCK = "epoll" if sys.platform == "linux" else "select"

Make = Callable[..., Gateway]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes gateways that are gone after the test, however it goes."""
    made: list[Gateway] = []

    def make(*models: dict[str, Any], **config: Any) -> Gateway:
        gateway = Gateway(list(models) or [model("smol")], **config)
        made.append(gateway)
        return gateway

    yield make
    for gateway in made:
        gateway.clean_up()


def run(gateway: Gateway, *llamagw: str) -> subprocess.CompletedProcess[str]:
    """twistd in the foreground, to its own end."""
    gateway.write_config()
    return gateway.run([*gateway.command("-n", "--pidfile="), *llamagw])


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of its output, without twistd's own date and system."""
    return [line for line in done.stdout.splitlines() if line.strip()]


def test_twistd_lists_llamagw(make: Make) -> None:
    done = subprocess.run(
        [str(TWISTD), "--help"],
        cwd=make().folder,
        env=make().environ,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    assert any(line.split()[:1] == ["llamagw"] for line in done.stdout.splitlines())


def test_check_says_what_would_be_served(make: Make) -> None:
    gateway = make(model("smol"), model("embedder", extra_args=["--embeddings"]))
    done = run(gateway, "--check")
    assert done.returncode == 0, done.stdout
    assert f"127.0.0.1:{gateway.port}" in done.stdout
    assert str(small_model()) in done.stdout
    assert "hint: extra_args have --embeddings, and nothing in its file says" in done.stdout
    assert "Traceback" not in done.stdout


def test_check_finds_what_the_real_engine_would_not_load(make: Make) -> None:
    content = small_model().read_bytes()
    gateway = make(
        model("cut", model_path="cut.gguf"),
        model("gone", model_path="gone.gguf"),
        model("flag", extra_args=["--flash-atn", "on"]),
        model("vast", context_size=10**9),
    )
    (gateway.folder / "cut.gguf").write_bytes(content[:-1000])
    done = run(gateway, "--check")
    assert done.returncode == 1, done.stdout
    sizes = f"it has {len(content) - 1000:,} of {len(content):,} bytes"
    for said in (
        f"models[0].model_path: {gateway.folder}/cut.gguf is incomplete: {sizes}",
        f"models[1].model_path: there is no file {gateway.folder}/gone.gguf",
        "models[2].extra_args[1]: --flash-atn is no flag of this llama-server; did you mean "
        "--flash-attn?",
        "models[3].context_size: is 1000000000, whose KV cache takes ",
    ):
        assert said in done.stdout, done.stdout


@pytest.mark.parametrize("option", [(), ("--check",)], ids=["run", "check"])
def test_a_bad_configuration_is_told_line_by_line(make: Make, option: tuple[str, ...]) -> None:
    models = model("smol", context_size=-1), model("smol")
    gateway = make(*models, port_range_start=70000, nonsense=1)
    done = run(gateway, *option)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    places = ["models[0].context_size", "models[1].name", "port_range_start", "nonsense"]
    lines = said(done)
    assert len(lines) == len(places), done.stdout
    for place in places:
        assert sum(f": {place}: " in line for line in lines) == 1, place
    assert all(str(gateway.folder / "config.yaml") in line for line in lines)


def test_a_configuration_that_is_not_there_is_told_in_a_line(make: Make) -> None:
    gateway = make()
    gateway.write_config()
    done = run(gateway, "--config", "nowhere.yaml")
    assert done.returncode == 1
    [line] = said(done)
    assert str(gateway.folder / "nowhere.yaml") in line


@pytest.mark.parametrize("reactor", [None, STOCK], ids=["uvloop", "stock"])
def test_a_taken_address_is_told_in_a_line(make: Make, reactor: str | None) -> None:
    gateway = make(reactor=reactor)
    with socket.create_server(("127.0.0.1", gateway.port)):
        done = run(gateway)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    lines = [line for line in said(done) if f"cannot listen on 127.0.0.1:{gateway.port}" in line]
    assert len(lines) == 1, done.stdout
    assert "listen_addr" in lines[0]
    gateway.assert_no_backend_is_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_gateway_ends_at_once_with_its_backends(make: Make, number: signal.Signals) -> None:
    gateway = make().start()
    assert gateway.chat("smol").status == 200
    backend = gateway.backend()
    began = time.monotonic()
    os.kill(gateway.pid, number)
    assert gateway.wait() == 0
    assert time.monotonic() - began < 8
    assert not psutil.pid_exists(backend.pid)
    gateway.stop()


def test_a_gateway_that_is_killed_leaves_no_backend(make: Make) -> None:
    if sys.platform != "linux":
        pytest.skip("the kernel's help in this is Linux's")
    gateway = make().start()
    assert gateway.chat("smol").status == 200
    os.kill(gateway.pid, signal.SIGKILL)
    assert gateway.wait() == -signal.SIGKILL
    wait_until(lambda: not gateway._ours(), "its backend is gone", deadline=5)


@pytest.mark.parametrize("reactor", [None, STOCK], ids=["uvloop", "stock"])
def test_a_daemon_serves_and_ends_without_a_trace(make: Make, reactor: str | None) -> None:
    gateway = make(
        model("smol"), model("gone", model_path="gone.gguf"), reactor=reactor
    ).start_daemon()
    assert gateway.chat("smol").status == 200
    assert str(gateway.folder / "gone.gguf") in gateway.chat("gone").json()["error"]["message"]
    daemon = psutil.Process(gateway.pid)
    assert daemon.ppid() != os.getpid()
    assert f"listening on 127.0.0.1:{gateway.port}" in gateway.log
    gateway.terminate()
    wait_until(lambda: not daemon.is_running(), "the daemon has ended")
    assert not (gateway.folder / "gateway.pid").exists()
    gateway.assert_no_backend_is_left()
    assert "Traceback" not in gateway.log


def test_a_daemon_that_cannot_listen_says_so_and_leaves_no_pidfile(make: Make) -> None:
    gateway = make()
    gateway.write_config()
    with socket.create_server(("127.0.0.1", gateway.port)):
        done = gateway.run(gateway.command("--pidfile=gateway.pid", "--logfile=log"))
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + gateway.log
    # Whole, as text, and nothing else: twistd itself would cut it off after 100 bytes.
    [line] = done.stdout.splitlines()
    assert line.startswith(f"cannot listen on 127.0.0.1:{gateway.port}: ")
    assert line.endswith("change listen_addr")
    assert not (gateway.folder / "gateway.pid").exists()


def test_a_unix_socket_is_served_too(make: Make) -> None:
    gateway = make()
    gateway.config["listen_addr"] = f"unix:{gateway.folder}/s"
    gateway.write_config()
    gateway.spawn(gateway.command("-n", "--pidfile="))
    path = gateway.folder / "s"
    wait_until(path.exists, "the socket is there")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE)
        wait_until(lambda: sock.connect_ex(str(path)) == 0, "it is listened on")
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        heard = b""
        while data := sock.recv(65536):
            heard += data
    assert heard.startswith(b"HTTP/1.1 200 ")
    gateway.stop()
    assert not path.exists()


def test_a_burst_at_a_gateway_that_is_cold_shares_one_load(make: Make) -> None:
    gateway = make().start()
    with gateway.watched() as counts:
        replies = in_threads(*[lambda: gateway.chat("smol", tokens=2)] * 12)
    assert [reply.status for reply in replies] == [200] * 12
    assert max(counts) == 1
    gateway.stop()
