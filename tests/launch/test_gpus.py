"""Promises of llamagw.launch.gpus: which card is which device, and how much of it is in use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from twisted.logger import LogEvent

from llamagw.launch.gpus import Card, join, read_all, used_by_device
from llamagw.launch.listing import Listed
from tests.support.logs import observe

GIB = 2**30


@pytest.fixture
def logged() -> Iterator[list[LogEvent]]:
    """What is logged."""
    events: list[LogEvent] = []
    end = observe(events.append)
    yield events
    end()


def card(pci: str, gib: float, used: int = 0, uuid: str = "") -> Card:
    return Card(pci, round(gib * GIB), lambda: used, uuid)


def device(name: str, gib: float) -> Listed:
    return Listed(name, "A card", round(gib * GIB))


class NVMLError(Exception):
    pass


def nvml(monkeypatch: pytest.MonkeyPatch, *cards: tuple[str, float, float, str]) -> list[Any]:
    """A driver with these cards: their PCI address, GiB, GiB in use, UUID."""
    memory = [SimpleNamespace(total=round(c[1] * GIB), used=round(c[2] * GIB)) for c in cards]
    fake: Any = ModuleType("pynvml")
    fake.NVMLError = NVMLError
    fake.nvmlInit = lambda: None
    fake.nvmlDeviceGetCount = lambda: len(cards)
    fake.nvmlDeviceGetHandleByIndex = lambda number: number
    fake.nvmlDeviceGetMemoryInfo = lambda handle: memory[handle]
    fake.nvmlDeviceGetPciInfo = lambda handle: SimpleNamespace(busId=cards[handle][0].encode())
    fake.nvmlDeviceGetUUID = lambda handle: cards[handle][3]
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return memory


def read(
    devices: list[Listed], env: dict[str, str], cards: str = "/nonexistent"
) -> dict[str, float]:
    found = read_all(used_by_device(devices, env, cards), ())
    return {name: used / GIB for name, used in found.items()}


TWO = [device("CUDA0", 24), device("CUDA1", 8)]


def test_devices_are_the_cards_in_the_order_of_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml(monkeypatch, ("0000:41:00.0", 8, 2, "GPU-b"), ("0000:01:00.0", 24, 5, "GPU-a"))
    assert read(TWO, {}) == {"CUDA0": 5, "CUDA1": 2}


def test_two_of_one_size_are_told_apart_by_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml(monkeypatch, ("0000:01:00.0", 24, 5, "GPU-a"), ("0000:41:00.0", 24, 2, "GPU-b"))
    same = [device("CUDA0", 24), device("CUDA1", 24)]
    assert read(same, {}) == {"CUDA0": 5, "CUDA1": 2}


@pytest.mark.parametrize("visible", ["1", "GPU-b", " 1 , 7"])
def test_only_those_that_the_engine_sees_count(
    visible: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml(monkeypatch, ("0000:01:00.0", 24, 5, "GPU-a"), ("0000:41:00.0", 24, 2, "GPU-b"))
    assert read([device("CUDA0", 24)], {"CUDA_VISIBLE_DEVICES": visible}) == {"CUDA0": 2}


def test_in_another_order_only_what_is_unmistakable_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nvml(monkeypatch, ("0000:01:00.0", 24, 5, "GPU-a"), ("0000:41:00.0", 24, 2, "GPU-b"))
    fastest = {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    assert read([device("CUDA0", 24), device("CUDA1", 24)], fastest) == {}


def test_a_card_that_the_driver_does_not_tell_of_is_not_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nvml(monkeypatch, ("0000:01:00.0", 24, 5, "GPU-a"))
    monkeypatch.setattr(sys.modules["pynvml"], "nvmlDeviceGetMemoryInfo", lambda handle: _fails())
    assert read([device("CUDA0", 24)], {}) == {}


def _fails() -> None:
    raise NVMLError("Not Supported")


def test_without_a_driver_nothing_is_known(
    monkeypatch: pytest.MonkeyPatch, logged: list[LogEvent]
) -> None:
    nvml(monkeypatch)
    monkeypatch.setattr(sys.modules["pynvml"], "nvmlInit", _fails)
    assert read(TWO, {}) == {}
    assert "Not Supported" in str(logged)


def test_without_the_extra_it_is_said_how_to_have_it(
    monkeypatch: pytest.MonkeyPatch, logged: list[LogEvent]
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read(TWO, {}) == {}
    assert "llamagw[nvidia]" in str(logged)


def amd(folder: Path, number: int, pci: str, total: float, used: float | str) -> None:
    """A card as amdgpu shows it."""
    its = folder / "devices" / pci
    its.mkdir(parents=True)
    (its / "mem_info_vram_total").write_text(f"{round(total * GIB)}\n")
    text = used if isinstance(used, str) else f"{round(used * GIB)}\n"
    (its / "mem_info_vram_used").write_text(text)
    (folder / f"card{number}").mkdir()
    (folder / f"card{number}" / "device").symlink_to(its)
    (folder / f"card{number}-DP-1").mkdir()


def test_amd_cards_are_read_from_sysfs(tmp_path: Path) -> None:
    amd(tmp_path, 1, "0000:03:00.0", 16, 4)
    amd(tmp_path, 0, "0000:0a:00.0", 24, 1)
    devices = [device("ROCm0", 16), device("ROCm1", 24)]
    assert read(devices, {}, str(tmp_path)) == {"ROCm0": 4, "ROCm1": 1}


def test_vulkan_finds_the_cards_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml(monkeypatch, ("0000:01:00.0", 24, 5, "GPU-a"))
    amd(tmp_path, 0, "0000:0a:00.0", 16, 1)
    devices = [device("Vulkan0", 16), device("Vulkan1", 24)]
    assert read(devices, {}, str(tmp_path)) == {"Vulkan0": 1, "Vulkan1": 5}


def test_a_card_that_cannot_be_read_is_complained_of_once(
    tmp_path: Path, logged: list[LogEvent]
) -> None:
    amd(tmp_path, 0, "0000:03:00.0", 16, "what?")
    readers = used_by_device([device("ROCm0", 16)], {}, str(tmp_path))
    assert read_all(readers, ["ROCm0"]) == {}
    assert read_all(readers, []) == {}
    assert len(logged) == 1


def test_a_device_that_could_be_several_cards_is_none() -> None:
    cards = [card("1", 24), card("2", 24), card("3", 8)]
    assert join([device("CUDA0", 24)], cards) == {}
    assert join([device("CUDA0", 8)], cards) == {"CUDA0": cards[2]}
    assert join([device("CUDA0", 16)], cards) == {}
