"""
How much of each GPU is in use: NVIDIA's driver is asked through NVML, AMD's through sysfs.

Which of the system's cards is which of the engine's devices is found by their order on the PCI bus
and their totals (`join`). Of other GPUs nothing is known but what our own runs are counted with.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from twisted.logger import Logger

from llamagw.launch.listing import Listed

_log = Logger(namespace="llamagw.devices")

#: Where Linux tells of graphics cards (Documentation/gpu/amdgpu: mem_info_vram_*).
_CARDS = "/sys/class/drm"

#: How much the totals of one card may differ between the driver and the engine.
_ALIKE = 0.06

#: Has the engine number its GPUs as they are on the bus, which is NVML's order; by default the
#: fastest comes first (CUDA C++ Programming Guide, "CUDA Environment Variables").
ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


class Card(NamedTuple):
    """
    A graphics card.

    :ivar pci: its address on the bus
    :ivar total: bytes
    :ivar used: reads the bytes that are in use, by anybody
    :ivar uuid: NVIDIA's name of it; "" if it has none
    """

    pci: str
    total: int
    used: Callable[[], int]
    uuid: str = ""


def used_by_device(
    devices: Sequence[Listed], env: Mapping[str, str], cards: str = _CARDS
) -> dict[str, Callable[[], int]]:
    """
    What reads how much of each device is in use; a device of which nothing is known is left out.

    :param devices: the engine's, those with memory of their own
    :param env: of the engine: its variables say which GPUs it sees
    :param cards: the folder of sysfs
    """
    backends: dict[str, list[Listed]] = {}
    for device in devices:
        backends.setdefault(re.sub(r"\d+$", "", device.name), []).append(device)
    found: dict[str, Callable[[], int]] = {}
    nvidia: list[Card] | None = None
    for backend, its in backends.items():
        candidates: list[Card] = []
        if backend in ("CUDA", "Vulkan"):
            nvidia = _nvidia() if nvidia is None else nvidia
            candidates += _visible(nvidia, env) if backend == "CUDA" else nvidia
        if backend in ("ROCm", "HIP", "Vulkan"):
            candidates += _amd(cards)
        if backend == "CUDA" and env.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID") != "PCI_BUS_ID":
            candidates = candidates if len(its) == 1 else []
        found |= {name: card.used for name, card in join(its, candidates).items()}
    return found


def join(devices: Sequence[Listed], cards: Sequence[Card]) -> dict[str, Card]:
    """
    Which card each device is.

    If there are as many, and their totals agree in the order of the bus, by that order; else each
    device is the only card with its total.

    :return: by name of the device; one that could be several cards is left out
    """
    cards = sorted(cards, key=lambda card: card.pci)
    if len(cards) == len(devices) and all(map(_alike, devices, cards)):
        return {device.name: card for device, card in zip(devices, cards, strict=True)}
    found = {}
    for device in devices:
        fitting = [card for card in cards if _alike(device, card)]
        rivals = [other for other in devices if fitting and _alike(other, fitting[0])]
        if len(fitting) == 1 and len(rivals) == 1:
            found[device.name] = fitting[0]
    return found


def _alike(device: Listed, card: Card) -> bool:
    return abs(device.total - card.total) <= _ALIKE * card.total


def _visible(cards: Sequence[Card], env: Mapping[str, str]) -> list[Card]:
    """The cards that CUDA_VISIBLE_DEVICES names, by number or UUID; to the first unknown one."""
    told = env.get("CUDA_VISIBLE_DEVICES")
    if told is None:
        return list(cards)
    by_bus = sorted(cards, key=lambda card: card.pci)
    found = []
    for word in told.split(",")[:64]:
        name = word.strip()
        if re.fullmatch(r"[0-9]{1,3}", name):
            named = by_bus[int(name) : int(name) + 1]
        else:
            named = [card for card in by_bus if name and card.uuid.startswith(name)]
        if len(named) != 1:
            break
        found += named
    return found


def _nvidia() -> list[Card]:
    """NVIDIA's cards; none without the extra ``nvidia``, or without a driver."""
    try:
        import pynvml
    except ImportError:
        _log.info("how much of NVIDIA GPUs is in use is not known: pip install llamagw[nvidia]")
        return []
    cards = []
    try:
        pynvml.nvmlInit()
        for number in range(min(pynvml.nvmlDeviceGetCount(), 64)):
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
            # A card that shares the machine's memory says NOT_SUPPORTED.
            with contextlib.suppress(pynvml.NVMLError):
                total = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
                pci = _text(pynvml.nvmlDeviceGetPciInfo(handle).busId)
                uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
                cards.append(Card(pci, total, _nvidia_used(pynvml, handle), uuid))
    except pynvml.NVMLError as error:
        _log.warn("how much of NVIDIA GPUs is in use is not known: {error}", error=error)
    return cards


def _nvidia_used(pynvml: Any, handle: object) -> Callable[[], int]:
    def used() -> int:
        try:
            return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
        except pynvml.NVMLError as error:
            raise OSError(str(error)) from None

    return used


def _text(name: str | bytes) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name


def _amd(folder: str) -> list[Card]:
    """AMD's cards, as sysfs tells of them."""
    cards = []
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder))[:256]:
            if re.fullmatch(r"card\d+", name):
                device = f"{folder}/{name}/device"
                with contextlib.suppress(OSError, ValueError):
                    total = _number(f"{device}/mem_info_vram_total")
                    pci = os.path.basename(os.path.realpath(device))
                    path = f"{device}/mem_info_vram_used"
                    cards.append(Card(pci, total, lambda path=path: _number(path)))  # type: ignore[misc]
    return cards


def _number(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return int(file.read(32))


def read_all(readers: Mapping[str, Callable[[], int]], complain: Iterable[str]) -> dict[str, int]:
    """
    Read how much is in use.

    :param readers: by device
    :param complain: the devices of which a failure is logged
    :return: by device; one that cannot be read is left out
    """
    found, loud = {}, set(complain)
    for name, used in readers.items():
        try:
            found[name] = max(used(), 0)
        except (OSError, ValueError) as error:
            if name in loud:
                _log.warn(
                    "how much of {name} is in use is not known: {error}", name=name, error=error
                )
    return found
