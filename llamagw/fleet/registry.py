"""
The instances by key: made for a configured model, kept until the last run and lease have ended.

Also chooses the instance of a model that a request goes to. When an instance is started or stopped
is the scheduler's decision; names are resolved by catalogue.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from llamagw.config import Config, ModelConfig
from llamagw.fleet.catalogue import Entry
from llamagw.fleet.instance import Event, Instance, Settings
from llamagw.fleet.lease import Lease
from llamagw.fleet.model import Model, Status
from llamagw.fleet.scheduler import Scheduler
from llamagw.launch import Asks, Launcher, Log, Reading


class LaunchersOf(Protocol):
    """Makes launchers; `llamagw.launch.Launchers` is one."""

    def of(self, model: ModelConfig, log: Log) -> Sequence[Launcher]:
        """
        The launchers of a model's instances, at least one.

        :param log: gets what the instances print
        """

    def devices(self) -> Mapping[str, Reading]:
        """The memory of this machine and of its GPUs, by name of the device."""

    def depends_on(self, model: ModelConfig, config: Config) -> object:
        """
        What the launchers of a model depend on, beside the model.

        :param config: the configuration that the model is part of
        :return: equal to another one exactly if the model's instances need not be replaced
        """


class Registry:
    """
    All instances that have not ended, including those of retired models.

    :param launchers: makes the launchers of a model
    :param scheduler: is given each instance when it is added
    :param probe: checks the health of the instances
    :param clock: the reactor, or a Clock
    :param tell: called with each event of each instance
    :ivar launchers: as given
    :ivar instances: by key
    :ivar entries: the configured model of each, by key of the instance
    """

    def __init__(
        self,
        launchers: LaunchersOf,
        scheduler: Scheduler,
        probe: Asks,
        clock: IReactorTime,
        tell: Callable[[Event], object],
    ) -> None:
        self.instances: dict[str, Instance] = {}
        self.entries: dict[str, Entry] = {}
        self.launchers = launchers
        self._scheduler = scheduler
        self._probe = probe
        self._clock = clock
        self._tell = tell
        self._generation = 0

    def __repr__(self) -> str:
        return f"<Registry {list(self.instances)}>"

    def add(self, model: ModelConfig, log: Log, settings: Settings) -> Entry:
        """
        Make the instances of a model; none is started.

        :param log: gets what they print
        :param settings: for all of them
        :return: the model, to be put into the catalogue
        """
        entry = Entry(model, log)
        instances = []
        for launcher in self.launchers.of(model, log):
            # Keys are not reused: a changed model and its successor may exist at the same time.
            self._generation += 1
            key = f"{model.name}#{self._generation}"
            self._scheduler.add(
                key,
                model.name,
                model.pinned,
                not launcher.takes_room,
                launcher.needs,
                launcher.slots,
            )
            of_scheduler = self._scheduler.models[key]
            instance = Instance(
                key,
                model,
                launcher,
                self._probe,
                self._clock,
                settings,
                idle_since=partial(_idle_since, of_scheduler),
                tell=self._tell,
            )
            self.instances[key], self.entries[key] = instance, entry
            instances.append(instance)
        entry.instances = instances
        return entry

    def forget(self, key: str) -> None:
        """Drop an instance if the scheduler has dropped it: retired, without run and leases."""
        if key not in self._scheduler.models:
            self.instances.pop(key, None)
            self.entries.pop(key, None)


def _idle_since(model: Model) -> float | None:
    """Since when it has no requests in flight (s, of the clock); None while it has."""
    return None if model.in_flight else model.last_used or 0.0


def has_slot(model: Model) -> bool:
    """Whether an instance would be sent one more request, and nobody waits for it."""
    return (
        model.status is Status.READY
        and not model.closing
        and not model.waiting
        and model.free_slots != 0
    )


def freest(entry: Entry, models: Mapping[str, Model], failed: Sequence[Lease] = ()) -> Instance:
    """
    The instance of a model with the fewest requests in flight and waiting.

    Of those with equally many, the least recently used. Instances that are ready come before those
    that are not, and those on which this request has failed come last.

    :param models: the scheduler's, by key
    :param failed: leases on instances that broke off this request
    """
    if len(entry.instances) == 1:
        return entry.instances[0]
    tried = [lease.key for lease in failed]

    def rank(instance: Instance) -> tuple[bool, bool, bool, int, float]:
        model = models[instance.key]
        return (
            instance.key in tried,
            model.status is not Status.READY,
            model.status is Status.FAILED,
            model.in_flight + len(model.waiting),
            model.last_used or 0.0,
        )

    return min(entry.instances, key=rank)
