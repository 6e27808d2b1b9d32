"""
How much of each device is ours: by what the system says, what is configured, what our runs hold.

Only arithmetic. What is in use is read by llamagw.launch; the charges of our runs are the
scheduler's. The kernel and the drivers are asked for what others hold only: what our own runs take
is counted from their start on, long before they have it.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from llamagw.config import Config
from llamagw.fleet.books import Capacity
from llamagw.launch import Reading


class Account(Struct, frozen=True):
    """
    The memory of a device, for people; in bytes.

    :ivar device: its name
    :ivar total: of a container, its limit
    :ivar budget: what our runs may take together, if others leave it to them
    :ivar reserve: the rest
    :ivar ours: what our runs are charged; files that several of them map count once
    :ivar others: what others hold, as far as that is known
    :ivar free: what one more model could take
    """

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
    """
    How much of each device our runs may take together.

    :param readings: of the devices
    :param config: with its ``memory`` and ``memory_reserve``
    :param held: bytes of their own that our runs hold, by device, as measured; where that is not
        known, what they are charged
    """
    return {
        device: Capacity(budget, max(_others(reading, held.get(device, 0)) - (total - budget), 0))
        for device, reading in readings.items()
        for total, budget in [(reading.total, _budget(device, reading.total, config))]
    }


def accounts(
    readings: Mapping[str, Reading],
    config: Config,
    held: Mapping[str, int],
    charged: Mapping[str, int],
) -> list[Account]:
    """
    The memory of each device, for people.

    The first three parameters are those of `capacities`.

    :param charged: bytes that our runs are charged, by device
    """
    found = []
    for device, capacity in capacities(readings, config, held).items():
        reading, ours = readings[device], charged.get(device, 0)
        found.append(
            Account(
                device,
                total=reading.total,
                budget=capacity.budget,
                reserve=reading.total - capacity.budget,
                ours=ours,
                others=_others(reading, held.get(device, 0)),
                free=max(capacity.room - ours, 0),
            )
        )
    return found


def _budget(device: str, total: int, config: Config) -> int:
    """What is ours: as configured, or all but the reserve; there is no more than all."""
    budgets = config.memory or {}
    return max(min(budgets.get(device, total - config.memory_reserve), total), 0)


def _others(reading: Reading, held: int) -> int:
    return 0 if reading.used is None else max(reading.used - held, 0)
