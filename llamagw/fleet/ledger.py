"""Stub."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from llamagw.config import Config
from llamagw.fleet.books import Capacity
from llamagw.launch import Reading


class Account(Struct, frozen=True):
    """Stub."""

    device: str
    total: int
    budget: int
    reserve: int
    ours: int
    others: int
    free: int


def capacities(
    readings: Mapping[str, Reading], config: Config, held: Mapping[str, int]
) -> dict[str, Capacity]:
    """Stub."""
    found = {}
    for device, (total, used) in readings.items():
        budget = min((config.memory or {}).get(device, total - config.memory_reserve), total)
        others = 0 if used is None else max(used - held.get(device, 0), 0)
        found[device] = Capacity(budget, max(others - (total - budget), 0))
    return found


def accounts(
    readings: Mapping[str, Reading],
    config: Config,
    held: Mapping[str, int],
    charged: Mapping[str, int],
) -> list[Account]:
    """Stub."""
    return []
