"""Where a model goes on a machine with two devices, with the real engine: two ggml-rpc-server.

Such a server holds the weights and the cache that an engine puts on its device, and serves one
engine at a time.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from itertools import pairwise

import psutil
import pytest

from tests.whole.harness import Gateway, engine, free_ports, model, wait_until

MIB = 2**20

#: SmolLM2: 92 MiB of weights, and 90 of KV cache for 4096 tokens, in all.
DEVICES = {"RPC0": "400MiB", "RPC1": "500MiB"}


@pytest.fixture(scope="module")
def servers() -> Iterator[list[psutil.Popen]]:
    binary, first = engine().with_name("ggml-rpc-server"), free_ports(2)
    env = {"LD_LIBRARY_PATH": str(binary.parent)}
    quiet = subprocess.DEVNULL
    started = [
        psutil.Popen([binary, "-p", str(first + n)], env=env, stdout=quiet, stderr=quiet)
        for n in range(2)
    ]
    try:
        wait_until(lambda: all(one.net_connections() for one in started), "devices to listen")
        yield started
    finally:
        for server in started:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def gateway(servers: list[psutil.Popen]) -> Iterator[Gateway]:
    ports = [server.net_connections()[0].laddr.port for server in servers]
    gateway = Gateway(
        [
            model("alone", gpu_layers=-1, context_size=8192),
            model("spread", gpu_layers=-1, context_size=16384),
            model("part", gpu_layers="auto", context_size=32768),
        ],
        memory={"host": "8GiB", **DEVICES},
        max_loaded_models=1,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMA_ARG_RPC", ",".join(f"127.0.0.1:{port}" for port in ports))
        try:
            gateway.start()
            yield gateway
            gateway.stop()
        finally:
            gateway.clean_up()


def held(servers: list[psutil.Popen]) -> list[int]:
    """What each device holds, in MiB."""
    return [server.memory_info().rss // MIB for server in servers]


def put(
    gateway: Gateway, servers: list[psutil.Popen], name: str
) -> tuple[dict[str, str], list[int]]:
    """The flags of a model's engine, and what each device holds more than before, in MiB."""
    before = held(servers)
    assert gateway.chat(name, tokens=1).status == 200
    more = [now - first for now, first in zip(held(servers), before, strict=True)]
    words = gateway.backend().cmdline()
    assert gateway.ask("POST", "/models/unload?wait", {"model": name}).status == 200
    # It is given back when the server has seen the connection closed.
    wait_until(lambda: sum(held(servers)) < sum(before) + 60, "the devices to be empty")
    return dict(pairwise(words)), more


def test_a_model_is_on_the_device_that_has_room_for_all_of_it(
    gateway: Gateway, servers: list[psutil.Popen]
) -> None:
    flags, (first, second) = put(gateway, servers, "alone")
    assert (flags["--device"], flags["--gpu-layers"]) == ("RPC1", "999")
    assert first < 20
    assert 272 < second < 400


def test_a_model_that_fits_on_none_is_spread_over_both(
    gateway: Gateway, servers: list[psutil.Popen]
) -> None:
    flags, (first, second) = put(gateway, servers, "spread")
    assert "--device" not in flags
    assert 180 < first < 400
    assert 180 < second < 500


def test_with_auto_as_many_layers_are_there_as_fit(
    gateway: Gateway, servers: list[psutil.Popen]
) -> None:
    flags, both = put(gateway, servers, "part")
    assert 0 < int(flags["--gpu-layers"]) < 31
    assert 300 < sum(both) < 900
