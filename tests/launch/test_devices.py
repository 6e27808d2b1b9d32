"""Promises of llamagw.launch.devices: what is read of the machine, and how often."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from llamagw.launch import devices as module
from llamagw.launch.base import Reading
from llamagw.launch.devices import AGE_SEC, Devices, aliases, totals
from llamagw.launch.listing import Listed

SHARED = Listed("Metal", "Apple M4", 12, unified=True)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who was asked how much is in use: 40 of the machine's 100 bytes, 7 of each GPU."""
    asked: list[str] = []

    def of_machine() -> tuple[int, int]:
        asked.append("host")
        return 100, 40

    monkeypatch.setattr(module, "memory_in_use", of_machine)
    monkeypatch.setattr(
        module,
        "used_by_device",
        lambda listed, env: {one.name: lambda: 7 for one in listed if one.name != "Vulkan0"},
    )
    return asked


def test_the_machine_is_a_device_and_so_is_each_gpu(asked: list[str]) -> None:
    found = Devices(Clock())
    assert found.read() == {"host": Reading(100, 40)}
    found.apply([Listed("CUDA0", "A card", 20), Listed("Vulkan0", "Another", 30), SHARED])
    assert found.read() == {
        "host": Reading(100, 40),
        "CUDA0": Reading(20, 7),
        "Vulkan0": Reading(30, None),
    }


def test_it_is_read_once_a_second_however_many_ask(asked: list[str]) -> None:
    clock = Clock()
    found = Devices(clock)
    for _ in range(5):
        found.read()
        found.apply(())
    assert asked == ["host"]
    clock.advance(AGE_SEC)
    found.read()
    assert asked == ["host"] * 2


def test_a_gpu_that_shares_the_memory_of_the_machine_is_the_machine() -> None:
    listed = [Listed("CUDA0", "A card", 20), SHARED]
    assert totals(listed) == {"CUDA0": 20}
    assert aliases(listed) == {"Metal": "host"}
