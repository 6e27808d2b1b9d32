"""
What a configuration says of memory: sizes such as ``48GB``, alone or by device, and what they need.

Which keys take them is said in schema.py; how much there is, is no matter of this package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llamagw.config.document import Report, show
from llamagw.config.schema import ConfigFile, ModelEntry

#: A number and its unit; and the same as slips leave it.
_SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?([MGT]i?B)", re.ASCII)
_SLIP = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*([mgt])(i?)b?\s*", re.ASCII | re.IGNORECASE)

_UNITS = {
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}

#: More bytes than any machine has; up to here a size can be written in MB exactly.
_TOO_MUCH = 10**15

#: A name of a device, as engines have them: CUDA0, Vulkan1, RPC0[10.0.0.5:50052].
_DEVICE = re.compile(r"[A-Za-z][A-Za-z0-9_.:\[\]-]{0,63}", re.ASCII)

#: The machine's own memory, as `llamagw.models.HOST`, and what it is called by mistake.
_HOST = "host"
_HOST_TOO = {"host", "cpu", "ram", "main", "memory", "system"}

#: The most devices of one key.
MOST_DEVICES = 64

#: What is said of a key that only has a meaning where memory is counted.
_NEEDS_MEMORY = "memory is not counted; write `memory: auto` at the top, or leave this out"


def size(text: str) -> int:
    """
    A size in bytes.

    :param text: such as ``48GB``, ``7.5GiB`` or ``512 MB``; GB are 10**9 bytes, GiB 2**30
    :raises ValueError: when it is none; the message says what would be right
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a size such as 8GB or 7.5GiB, got {show(text)}{_hint(text)}")
    number = round(float(found[1]) * _UNITS[found[2]])
    if number >= _TOO_MUCH:
        raise ValueError(f"{text} is more than any machine has (below 1000TB is expected)")
    return number


def spelt(number: int) -> str:
    """
    Bytes as a configuration says them: the shortest text that `size` reads as the same number.

    :param number: of bytes, below 1000 TB
    """
    texts = []
    for unit, factor in _UNITS.items():
        text = f"{number / factor:.6f}".rstrip("0").rstrip(".")
        if round(float(text) * factor) == number:
            texts.append(text + unit)
    return min(texts, key=len)


def _hint(text: str) -> str:
    slip = _SLIP.fullmatch(text)
    return f"; write {slip[1]}{slip[2].upper()}{slip[3].lower()}B" if slip else ""


def reserve(fault: Report, given: object, usual: str) -> str:
    """
    The value of ``memory_reserve``.

    :param fault: reports what is wrong with it
    :param given: what is in the file
    :param usual: its default
    :return: a valid one: the default, where the file's is not
    """
    return _checked(fault, given, "memory_reserve", least=0) or usual


def budgets(fault: Report, given: object) -> Any:
    """
    The gateway's ``memory``.

    :param fault: reports what is wrong with it
    :param given: what is in the file
    :return: "auto", "off", or sizes by device; "auto" where it is faulty, so that no other key is
        blamed
    """
    if given is False or given == "off":
        # In YAML 1.1, off is a boolean.
        return "off"
    if isinstance(given, dict):
        return _by_device(fault, given, "memory") or "auto"
    if given != "auto":
        hint = "; write auto" if given is True else ""
        if isinstance(given, str) and _SLIP.fullmatch(given):
            hint = f"; say of which device, such as {{{_HOST}: 48GB}}"
        fault(
            "memory",
            "expected auto, off, or sizes by device, such as {host: 48GB, CUDA0: 22GB}, "
            f"got {show(given)}{hint}",
        )
    return "auto"


def taken(fault: Report, given: object, place: str) -> Any:
    """
    A model's ``memory``.

    :param fault: reports what is wrong with it
    :param given: what is in the file
    :param place: of the key
    :return: a size, sizes by device, or None; None where it is faulty
    """
    if given is None:
        return None
    if isinstance(given, dict):
        return _by_device(fault, given, place)
    return _checked(fault, given, place)


def _by_device(fault: Report, given: Mapping[object, object], place: str) -> dict[str, str] | None:
    """The valid ones of sizes by device; None if there is none."""
    if not given:
        fault(place, "names no device; write a size for one, such as {CUDA0: 7GB}")
    if len(given) > MOST_DEVICES:
        fault(place, f"names {len(given)} devices; {MOST_DEVICES} at most are expected")
        return None
    found = {}
    for device, text in given.items():
        if not isinstance(device, str) or not _DEVICE.fullmatch(device):
            fault(
                place,
                f"expected names of devices, such as {_HOST} (the machine's memory) or CUDA0, "
                f"got {show(device)}",
            )
        elif device.lower() in _HOST_TOO and device != _HOST:
            fault(f"{place}.{device}", f"the machine's own memory is called {_HOST}")
        elif (valid := _checked(fault, text, f"{place}.{device}")) is not None:
            found[device] = valid
    return found or None


def _checked(fault: Report, given: object, place: str, least: int = 1) -> str | None:
    """A size of so many bytes or more; None after a fault."""
    if not isinstance(given, str):
        fault(place, f"expected a size such as 8GB or 7.5GiB, got {show(given)}{_unit(given)}")
        return None
    try:
        number = size(given)
    except ValueError as error:
        fault(place, str(error))
        return None
    if number < least:
        fault(place, f"expected a size of more than nothing, got {show(given)}")
        return None
    return given


def _unit(number: object) -> str:
    """What is probably meant by a number without a unit."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return ""
    if isinstance(number, int) and _UNITS["MB"] <= number < _TOO_MUCH:
        return f"; write {spelt(number)}"
    return f"; write {number:g}GB" if 0 < number < _UNITS["MB"] else ""


def needs_memory(fault: Report, file: ConfigFile, keys: Mapping[object, object]) -> None:
    """
    ``memory_reserve`` is given only where memory is counted.

    :param fault: reports a fault
    :param file: the file
    :param keys: those that it has
    """
    if file.memory == "off" and "memory_reserve" in keys:
        fault("memory_reserve", f"is what is left to others, and {_NEEDS_MEMORY}")


def of_model(fault: Report, entry: ModelEntry, counted: bool, place: str) -> None:
    """
    What a model says of memory is possible.

    :param fault: reports a fault
    :param entry: the model's entry
    :param counted: whether memory is counted
    :param place: of the entry
    """
    if not counted and entry.memory is not None:
        fault(f"{place}.memory", f"is what it takes, and {_NEEDS_MEMORY}")
    if not counted and entry.gpu_layers == "auto":
        fault(
            f"{place}.gpu_layers",
            "auto is for as many layers as fit, and memory is not counted; write `memory: auto` "
            "at the top, or a number (-1 for all)",
        )
    shrink, unload = entry.idle_shrink_sec, entry.idle_unload_sec
    if shrink and unload and shrink >= unload:
        fault(
            f"{place}.idle_shrink_sec",
            f"is {shrink:g}, and after {unload:g} seconds the model is unloaded "
            "(idle_unload_sec); lower this, or leave it out",
        )
