"""The memory of this machine, for `GET /health` and `GET /metrics`: how much is free for models."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from twisted.internet.interfaces import IReactorTime

from llamagw.fleet import Totals
from llamagw.system import memory_in_use

#: Seconds for which a reading is told, however many ask.
AGE_SEC = 1.0


class Device(Struct, frozen=True):
    """
    What holds models: the machine's own memory.

    :ivar device: its name
    :ivar total: bytes; of a container, its limit
    :ivar free: bytes that a further model could take, without those that engines have mapped from
        files
    :ivar used_by_models: bytes that the engines have in use
    """

    device: str
    total: int
    free: int
    used_by_models: int


class Devices:
    """
    Reads the memory of this machine.

    :param totals: tells what the engines have in use
    :param clock: the reactor, or a Clock
    """

    def __init__(self, totals: Callable[[], Totals], clock: IReactorTime) -> None:
        self._totals = totals
        self._clock = clock
        self._read_at = float("-inf")
        self._found: list[Device] = []

    def __repr__(self) -> str:
        return f"<Devices: {self._found}>"

    def read(self) -> list[Device]:
        """The devices; `AGE_SEC` old at most."""
        now = self._clock.seconds()
        if now - self._read_at >= AGE_SEC:
            self._read_at = now
            models = self._totals()
            # The system counts what is mapped as available: it could be read again.
            total, used = memory_in_use()
            free = max(total - used - models.mapped, 0)
            self._found = [Device("host", total, free, models.memory)]
        return self._found
