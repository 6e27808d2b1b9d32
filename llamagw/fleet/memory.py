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
from llamagw.launch import Reading
from llamagw.models import HOST

#: Seconds between two looks; and while somebody waits for room, which others may give back.
EVERY_SEC, SOON_SEC = 2.0, 0.5

#: Seconds that a driver may take to give back what a run had on its GPU, and between two looks.
DRIVER_SEC, AGAIN_SEC = 2.0, 0.1

#: Of that, the part that may still be in use: others take some at any time.
KEPT = 0.05


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

    def waits_for(self, key: str, then: Callable[[], None]) -> bool:
        """
        Wait until the driver of a GPU has given back what a run had there that has ended.

        :param key: of its instance
        :param then: called when it has, or after `DRIVER_SEC`, if this returns True
        """
        if self._is_given_back(key):
            return False
        until = self._clock.seconds() + DRIVER_SEC

        def look_again() -> None:
            if self._clock.seconds() >= until or self._is_given_back(key):
                then()
            else:
                self._clock.callLater(AGAIN_SEC, look_again)

        self._clock.callLater(AGAIN_SEC, look_again)
        return True

    def _is_given_back(self, key: str) -> bool:
        """Whether no more is in use on its GPUs than others had there, as far as that is known."""
        model, before = self._scheduler.models.get(key), self._scheduler.room.capacity
        if self._config is None or before is None or model is None or model.charge is None:
            return True
        gone = {device: size for device, size in model.charge.devices.items() if device != HOST}
        if not any(gone.values()):
            return True
        held = self._held()
        for device, size in gone.items():
            held[device] = held.get(device, 0) - size
        now = capacities(self._devices(), self._config, held)
        return all(
            now[device].others - before[device].others <= size * KEPT
            for device, size in gone.items()
            if device in now and device in before
        )

    def accounts(self) -> list[Account]:
        """The memory of each device, for people; empty if bytes are not counted."""
        if self._config is None:
            return []
        books = Books(model.charge for model in self._scheduler.room.in_memory)
        return accounts(self._devices(), self._config, self._held(), books.taken)

    def _turn(self) -> None:
        config = self._config
        assert config is not None, "it is on"
        # First, so that a failure does not end it.
        wanted = bool(self._scheduler.room.wanting)
        self._next = self._clock.callLater(SOON_SEC if wanted else EVERY_SEC, self._turn)
        for instance in list(self._instances.values()):
            own = _own(instance, self._scheduler)
            if own is not None:
                now = self._clock.seconds()
                self._run(self._scheduler.measured(instance.key, own, now))
        capacity = capacities(self._devices(), config, self._held())
        self._run(self._scheduler.memory(capacity, self._clock.seconds()))

    def _held(self) -> dict[str, int]:
        """Bytes of their own that our runs hold, by device; on a GPU, what they are charged."""
        held: dict[str, int] = {}
        for instance in self._instances.values():
            model = self._scheduler.models.get(instance.key)
            charge = None if model is None else model.charge
            if charge is None:
                continue
            own = _own(instance, self._scheduler) or {}
            for device in {*charge.devices, *own}:
                size = own.get(device, 0 if device == HOST else charge.devices[device])
                held[device] = held.get(device, 0) + size
        return held


def _own(instance: Instance, scheduler: Scheduler) -> dict[str, int] | None:
    """The bytes of its own that the run of an instance was seen to hold; None if not known."""
    model = scheduler.models.get(instance.key)
    charge = None if model is None else model.charge
    memory = None if instance.life is None else instance.life.run.memory()
    if charge is None or memory is None:
        return None
    files = total(charge).get(HOST, 0) - charge.devices.get(HOST, 0)
    anon = memory.anon if memory.anon is not None else max(memory.rss - files, 0)
    return {HOST: anon}
