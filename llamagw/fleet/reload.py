"""
A reload: what changes in the running fleet when another configuration takes effect.

Retires and adds models, and moves the waiters of a changed model to its successor. Which models
those are is catalogue.py's comparison; what a retirement does to an instance is the scheduler's
decision.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from llamagw.config import Config
from llamagw.errors import ModelNotFound
from llamagw.fleet import pins
from llamagw.fleet.actions import Action
from llamagw.fleet.catalogue import Catalogue, diff
from llamagw.fleet.instance import Settings
from llamagw.fleet.lease import Waiter
from llamagw.fleet.registry import Registry, freest
from llamagw.fleet.report import Watchers
from llamagw.fleet.scheduler import Scheduler
from llamagw.launch import Log

_log = Logger(namespace="llamagw.fleet")


class Reload:
    """
    Applies configurations to the parts of a fleet.

    :param scheduler: is told which models are retired and added
    :param catalogue: gets the models of the new configuration
    :param registry: makes and drops the instances
    :param watchers: are told which models are retired
    :param clock: the reactor, or a Clock
    :param run: carries out the scheduler's actions
    """

    def __init__(
        self,
        scheduler: Scheduler,
        catalogue: Catalogue,
        registry: Registry,
        watchers: Watchers,
        clock: IReactorTime,
        run: Callable[[list[Action]], None],
    ) -> None:
        self._scheduler = scheduler
        self._catalogue = catalogue
        self._registry = registry
        self._watchers = watchers
        self._clock = clock
        self._run = run

    def apply(self, old: Config, new: Config) -> list[str]:
        """
        Retire and add models, and change the limits; see `Dispatcher.apply`.

        :param old: the configuration that was in effect until now
        :param new: the one that takes effect
        :return: the names of models that are new or changed
        """
        plan = diff(old, new, self._registry.launchers.depends_on)
        retired = [self._catalogue.take(name) for name in plan.retired]
        logs = {entry.model.name: entry.log for entry in retired}
        for name in plan.retired:
            self._watchers.retired(name)
        leaving = [instance.key for entry in retired for instance in entry.instances]
        waiters, actions = self._scheduler.retire(leaving, self._clock.seconds())
        names = {key: self._registry.entries[key].model.name for key in leaving}
        self._run(actions)
        for key in leaving:
            self._registry.forget(key)
        settings = Settings.of(new)
        for model in plan.added:
            log = logs.get(model.name) or Log(model.name)
            self._catalogue.put(self._registry.add(model, log, settings))
        self._catalogue.apply(new)
        self._requeue(waiters, names)
        self._give_up_pins(new.limit)
        self._run(
            self._scheduler.limits(
                limit=new.limit,
                swap_after=new.swap_after,
                max_queue=new.max_queue,
                now=self._clock.seconds(),
            )
        )
        for instance in self._registry.instances.values():
            instance.check_every(new.health_check_sec)
        return [model.name for model in plan.added]

    def _give_up_pins(self, limit: int) -> None:
        """Have the models pinned that the configuration pins, if more would be too many."""
        models = self._scheduler.models
        if not pins.too_many(models.values(), limit):
            return
        for entry in self._catalogue:
            key = entry.instances[0].key
            if models[key].pinned and not entry.model.pinned:
                _log.warn("{name} is not pinned any more: too many are", name=entry.model.name)
                self._run(self._scheduler.pin(key, False, self._clock.seconds()))

    def _requeue(self, waiters: Iterable[Hashable], names: dict[str, str]) -> None:
        """
        Have the waiters of retired models wait for the successors, or reject them without one.

        :param names: of the retired models, by key
        """
        for waiter in waiters:
            assert isinstance(waiter, Waiter)
            name = names[waiter.key]
            if name in self._catalogue:
                entry = self._catalogue.find(name)
                waiter.key = freest(entry, self._scheduler.models).key
                now = self._clock.seconds()
                self._run(self._scheduler.arrived(waiter.key, waiter, now, share=waiter.share))
            else:
                waiter.answered().errback(ModelNotFound(name, self._catalogue.names.exact))
