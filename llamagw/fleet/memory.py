"""
Watches the memory of this machine, for a scheduler that counts bytes.

Tells the scheduler how much of each device may be used, and what the runs were seen to take. How
the figures follow from each other is in ledger.py; where they come from, in llamagw.launch. With
``memory: off`` nothing is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from llamagw.config import Config
from llamagw.fleet.actions import Action
from llamagw.fleet.books import Books, total
from llamagw.fleet.instance import Instance
from llamagw.fleet.ledger import Account, accounts, capacities
from llamagw.fleet.scheduler import Scheduler
from llamagw.launch import Memory, Need, Reading
from llamagw.models import HOST

#: Seconds between two looks; and while somebody waits for room, which others may give back.
EVERY_SEC, SOON_SEC = 2.0, 0.5


class MemoryWatch:
    """
    Looks at the memory of the machine from time to time.

    :param scheduler: is told what is seen
    :param instances: of this fleet, by key
    :param devices: reads the memory of the machine and of its GPUs
    :param clock: the reactor, or a Clock
    :param run: carries out the scheduler's actions
    """

    def __init__(
        self,
        scheduler: Scheduler,
        instances: Mapping[str, Instance],
        devices: Callable[[], Mapping[str, Reading]],
        clock: IReactorTime,
        run: Callable[[list[Action]], None],
    ) -> None:
        self._scheduler = scheduler
        self._instances = instances
        self._devices = devices
        self._clock = clock
        self._run = run
        self._config: Config | None = None
        self._next: IDelayedCall | None = None

    def __repr__(self) -> str:
        return f"<MemoryWatch {'on' if self._next else 'off'}>"

    def apply(self, config: Config) -> None:
        """
        Begin, end, or go on with another configuration.

        :param config: with its ``memory``
        """
        self.end()
        if config.memory is None:
            self._run(self._scheduler.memory(None, self._clock.seconds()))
        else:
            self._config = config
            self._turn()

    def end(self) -> None:
        """Look no more."""
        self._config = None
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def look(self) -> None:
        """Look now, if bytes are counted: what is decided next is to be decided by it."""
        if self._config is None:
            return
        now = self._clock.seconds()
        for instance in list(self._instances.values()):
            own = _own(instance, self._scheduler)
            if own is not None:
                self._run(self._scheduler.measured(instance.key, own, now))
        capacity = capacities(self._devices(), self._config, self._held())
        self._run(self._scheduler.memory(capacity, now))

    def accounts(self) -> list[Account]:
        """The memory of each device, for people; empty if bytes are not counted."""
        if self._config is None:
            return []
        books = Books(model.charge for model in self._scheduler.room.in_memory)
        return accounts(self._devices(), self._config, self._held(), books.taken)

    def _turn(self) -> None:
        self._next = None
        self.look()
        wanted = bool(self._scheduler.room.wanting)
        self._next = self._clock.callLater(SOON_SEC if wanted else EVERY_SEC, self._turn)

    def _held(self) -> dict[str, int]:
        """Bytes of their own that our runs hold, by device; on a GPU, what they are charged."""
        held: dict[str, int] = {}
        for instance in self._instances.values():
            charge = _charge(instance, self._scheduler)
            if charge is None:
                continue
            own = _own(instance, self._scheduler) or {}
            for device in {*charge.devices, *own}:
                size = own.get(device, 0 if device == HOST else charge.devices[device])
                held[device] = held.get(device, 0) + size
        return held


def _charge(instance: Instance, scheduler: Scheduler) -> Need | None:
    """What the run of an instance is counted with; None without one."""
    model = scheduler.models.get(instance.key)
    return None if instance.life is None or model is None else model.charge


def _own(instance: Instance, scheduler: Scheduler) -> dict[str, int] | None:
    """The bytes of its own that the run of an instance was seen to hold; None if not known."""
    charge = _charge(instance, scheduler)
    if charge is None or instance.life is None:
        return None
    memory: Memory | None = instance.life.run.memory()
    if memory is None:
        return None
    files = total(charge).get(HOST, 0) - charge.devices.get(HOST, 0)
    anon = memory.anon if memory.anon is not None else max(memory.rss - files, 0)
    return {HOST: anon}
