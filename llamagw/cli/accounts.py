"""
What a gateway tells of the memory that it counts, in words: what models are charged, by device.

For `llamagw ps` and `llamagw top`. Whether a model fits is for beside.py. The types of what comes
from the gateway are not relied upon, and its text is made harmless for a terminal.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llamagw.cli import show
from llamagw.cli.entries import number

#: Devices that are told at most, and characters of a name.
_MOST, _NAME = 16, 12


class Account(NamedTuple):
    """
    The memory of a device, in bytes.

    :ivar total: of all
    :ivar budget: what models may take
    :ivar charged: what those in memory are charged
    :ivar others: what others hold
    :ivar free: what one more model could take
    """

    device: str
    total: float
    budget: float
    charged: float
    others: float
    free: float

    def words(self) -> str:
        """Who has what, as half a sentence."""
        return f"{self.brief()}; others hold {show.size(self.others)}"

    def brief(self) -> str:
        """The same without what others hold."""
        charged, budget, free = map(show.size, (self.charged, self.budget, self.free))
        return f"{charged} of {budget} charged, {free} free"


def accounts(health: dict[str, Any]) -> list[Account]:
    """
    The memory of each device.

    :param health: the answer to ``GET /health``
    :return: empty if the gateway does not count memory
    """
    told, found = health.get("memory"), []
    keys = ("total", "budget", "ours", "others", "free")
    for name in [*told][:_MOST] if isinstance(told, dict) else []:
        sizes = [size for key in keys if (size := number(health, "memory", name, key)) is not None]
        if len(sizes) == len(keys) and min(sizes) >= 0 < sizes[0]:
            found.append(Account(show.middle(show.plain(name), _NAME), *sizes))
    return found


def charge(model: dict[str, Any]) -> str:
    """
    What a model is counted with, such as ``741 MiB + 5.6 GiB CUDA0``; "-" if it is not.

    :param model: as ``GET /models`` tells it
    """
    parts = [
        show.size(size) if name == "host" else f"{show.size(size)} {show.plain(name)}"
        for name, size in _charges(model)
    ]
    return " + ".join(parts) or "-"


def charged(model: dict[str, Any]) -> float | None:
    """What a model is counted with on all devices, in bytes; None if it is not."""
    return sum(size for _, size in _charges(model)) or None


def _charges(model: dict[str, Any]) -> list[tuple[str, float]]:
    told = model.get("charge")
    names = [*told][:_MOST] if isinstance(told, dict) else []
    sizes = [(name, number(model, "charge", name)) for name in names]
    return [(name, size) for name, size in sizes if size is not None and size > 0]
