"""Promises of llamagw.launch.listing: what is taken from an engine's list of devices."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.logger import LogEvent

from llamagw.apart import Commands
from llamagw.launch.listing import Listed, list_devices, listed
from tests.support.logs import observe

MIB = 2**20


@pytest.fixture
def logged() -> Iterator[list[LogEvent]]:
    """What is logged."""
    events: list[LogEvent] = []
    end = observe(events.append)
    yield events
    end()


def test_without_a_gpu_there_is_none() -> None:
    assert listed("Available devices:\n") == []


def test_each_device_has_its_name_and_its_size() -> None:
    """As a build for CUDA printed it (ollama issue 16508)."""
    text = """Available devices:
  CUDA0: NVIDIA GeForce RTX 3080 Ti (11909 MiB, 11650 MiB free)
  CUDA1: NVIDIA RTX PRO 4000 Blackwell SFF Edition (24026 MiB, 23795 MiB free)
ggml_cuda_init: found 2 CUDA devices (Total VRAM: 35936 MiB):
"""
    assert listed(text) == [
        Listed("CUDA0", "NVIDIA GeForce RTX 3080 Ti", 11909 * MIB),
        Listed("CUDA1", "NVIDIA RTX PRO 4000 Blackwell SFF Edition", 24026 * MIB),
    ]


def test_servers_elsewhere_are_devices() -> None:
    """As build 10068 printed it with two ggml-rpc-server."""
    text = """Available devices:
  RPC0: 127.0.0.1:25871 (24105 MiB, 24105 MiB free)
  RPC1: 127.0.0.1:25872 (24105 MiB, 24105 MiB free)
"""
    assert [(one.name, one.total, one.unified) for one in listed(text)] == [
        ("RPC0", 24105 * MIB, False),
        ("RPC1", 24105 * MIB, False),
    ]


def test_a_mac_has_one_memory() -> None:
    """As printed on an M4 Max (kronk issue 10): what Accelerate computes with is no device."""
    text = """Available devices:
  Metal: Apple M4 Max (98304 MiB, 98303 MiB free)
  BLAS: Accelerate (0 MiB, 0 MiB free)
"""
    assert listed(text) == [Listed("Metal", "Apple M4 Max", 98304 * MIB, unified=True)]


def test_vulkan_says_which_gpus_share_the_memory_of_the_machine() -> None:
    """Its lines are as in llama.cpp's issues 9716 and 16659."""
    text = """ggml_vulkan: Found 2 Vulkan devices:
ggml_vulkan: 0 = NVIDIA GeForce RTX 2060 (NVIDIA) | uma: 0 | fp16: 1 | warp size: 32
ggml_vulkan: 1 = AMD Radeon(TM) Graphics (AMD proprietary driver) | uma: 1 | fp16: 1
Available devices:
  Vulkan0: NVIDIA GeForce RTX 2060 (6144 MiB, 5136 MiB free)
  Vulkan1: AMD Radeon(TM) Graphics (15800 MiB, 15000 MiB free)
"""
    assert [(one.name, one.unified) for one in listed(text)] == [
        ("Vulkan0", False),
        ("Vulkan1", True),
    ]


def test_so_do_some_that_cuda_lists() -> None:
    [spark] = listed("  CUDA0: NVIDIA GB10 (124546 MiB, 100000 MiB free)\n")
    assert spark.unified


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0\xff",
        "  CUDA0: x (-1 MiB, 3 MiB free)\n",
        "  CUDA0: x (9999999999999 MiB, 3 MiB free)\n",
        f"  {'C' * 10_000}0: x (1 MiB, 1 MiB free)\n",
        "CUDA0 x 3 MiB\n" * 1000,
    ],
)
def test_what_is_no_device_is_left_out(text: str) -> None:
    assert listed(text) == []


def test_nothing_in_it_is_without_bound() -> None:
    text = "".join(f"  CUDA{n}: {'x' * 5000} (9999999999 MiB, 1 MiB free)\n" for n in range(500))
    found = listed(text)
    assert len(found) <= 64
    assert all(len(one.description) < 1000 and one.total <= 2**50 for one in found)


def test_an_engine_is_asked(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.write_text(
        f"#!{sys.executable}\nimport sys\nassert sys.argv[1:] == ['--list-devices']\n"
        "print('Available devices:\\n  CUDA0: A card (100 MiB, 50 MiB free)')\n"
    )
    engine.chmod(0o755)
    assert list_devices(str(engine), {}, Commands()) == [Listed("CUDA0", "A card", 100 * MIB)]


def test_one_that_does_not_answer_is_said_to_have_none(
    tmp_path: Path, logged: list[LogEvent]
) -> None:
    assert list_devices(str(tmp_path / "none"), {}, Commands()) is None
    assert "no GPU is counted" in str(logged)
