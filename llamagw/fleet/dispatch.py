"""
The entry point of the fleet: `Dispatcher.acquire` queues a request and gives it a `Lease`.

Runs event → scheduler → actions → instances, and nothing else. The scheduler decides what is done,
the instances and their launchers do it. Instances are made and found by registry.py, a new
configuration is applied by reload.py, and reports and changes of state are made by report.py.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from llamagw.config import Config
from llamagw.errors import BadRequest, QueueTimeout
from llamagw.fleet import pins
from llamagw.fleet.actions import in_words
from llamagw.fleet.alarm import Alarm
from llamagw.fleet.catalogue import Catalogue
from llamagw.fleet.descriptions import Descriptions
from llamagw.fleet.instance import (
    Event,
    Exited,
    Hung,
    Instance,
    Loaded,
    LoadFailed,
    Recovered,
    Settings,
)
from llamagw.fleet.lease import Lease, Waiter
from llamagw.fleet.ledger import Account
from llamagw.fleet.memory import MemoryWatch
from llamagw.fleet.model import Status, Why
from llamagw.fleet.needs import more_than
from llamagw.fleet.queue import ALIKE, Share
from llamagw.fleet.registry import LaunchersOf, Registry, freest, has_slot
from llamagw.fleet.reload import Reload
from llamagw.fleet.report import Change, ModelReport, Watchers, report
from llamagw.fleet.scheduler import Action, Admit, Kill, Reject, Scheduler, Start, Stop
from llamagw.fleet.standing import Progress, Standing, Standings, progress
from llamagw.fleet.totals import Totals, totals
from llamagw.fleet.turns import Turn, turn_of
from llamagw.fleet.waits import Waits
from llamagw.launch import Asks, Log
from llamagw.listeners import Listeners
from llamagw.net import Address

_log = Logger(namespace="llamagw.fleet")


class Dispatcher:
    """
    Dispatches requests for all models.

    :param config: the initial configuration
    :param launchers: makes the launchers of a model
    :param probe: checks the health of instances, and fetches their descriptions
    :param clock: the reactor, or a Clock
    :ivar config: the configuration in effect
    :ivar scheduler: decides; to be read by others, not called
    :ivar catalogue: the configured models, by name
    :ivar turns: told of the loads and unloads of models on this machine
    :ivar on_hung: called with the address of an instance that hangs; requests under way there are
        to be ended
    """

    def __init__(
        self, config: Config, launchers: LaunchersOf, probe: Asks, clock: IReactorTime
    ) -> None:
        self.config = config
        self._clock = clock
        self.scheduler = Scheduler(
            (),
            limit=config.limit,
            swap_after=config.swap_after,
            max_queue=config.max_queue,
        )
        self.catalogue = Catalogue(config)
        self._registry = Registry(launchers, self.scheduler, probe, clock, self.happened)
        # Aliases of the registry's dicts: a look-up costs no function call.
        self._instances = self._registry.instances
        self._entries = self._registry.entries
        self._standings = Standings(self.scheduler.models, self.scheduler.room, self._usual)
        self._unloads: dict[str, list[Deferred[None]]] = {}
        self._alarm = Alarm(clock, self._tick)
        self._memory = MemoryWatch(
            self.scheduler, self._instances, launchers.devices, clock, self._run
        )
        self._drained: Deferred[None] | None = None
        self._watchers = Watchers(self.scheduler.models)
        self._descriptions = Descriptions(probe, clock)
        self.on_hung: Callable[[Address], object] = lambda address: None
        self.turns = Listeners[Turn]()
        self._reload = Reload(
            self.scheduler, self.catalogue, self._registry, self._watchers, clock, self._run
        )
        settings = Settings.of(config)
        for model in config.models:
            self.catalogue.put(self._registry.add(model, Log(model.name), settings))

    def __repr__(self) -> str:
        running = sum(1 for instance in self._instances.values() if instance.life)
        return f"<Dispatcher: {running} of {len(self._instances)} instances run, {self.scheduler}>"

    # For requests and for management

    def acquire(
        self,
        name: str,
        load: bool = True,
        failed: Sequence[Lease] = (),
        anyway: bool = False,
        share: Share | None = ALIKE,
    ) -> Deferred[Lease]:
        """
        Get a lease on an instance of a model; the instance is started if necessary.

        Cancelling the Deferred removes the request from the queue.

        :param name: a model's name or alias, or a name that one of its patterns matches
        :param load: whether to load the model, and wait for it; if not, the lease does not count as
            use
        :param failed: leases on instances that broke off this request; another instance of the
            model is preferred
        :param anyway: whether the model is loaded even if the figures say that it never fits
        :param share: whose turn it is, if it has to wait; None if it takes no slot of the engine
        :return: fires with the lease; fails with a `GatewayError` when the request is rejected,
            with `ModelNotLoaded` at once if `load` is false and the model is not ready
        :raises ModelNotFound: if no model has this name; raised, not delivered by the Deferred
        """
        instance = freest(self.catalogue.find(name), self.scheduler.models, failed)
        deferred: Deferred[Lease] = Deferred(lambda _: self._left(waiter))
        waiter = Waiter(instance.key, deferred, load, share)
        now = self._clock.seconds()
        self._run(self.scheduler.arrived(instance.key, waiter, now, load, anyway, share))
        if not deferred.called:
            patience = self.config.queue_timeout_sec
            waiter.timer = self._clock.callLater(patience, self._timed_out, waiter)
            self._standings.add(waiter, self._now())
        return deferred

    def standing(self, waiting: Deferred[Lease]) -> Standing | None:
        """
        Where a request stands that waits.

        :param waiting: from `acquire`
        :return: None if it does not wait any more
        """
        return self._standings.of(waiting, self._now())

    def standings(self) -> dict[Deferred[Lease], Standing]:
        """Where all requests stand that wait, by the Deferreds that `acquire` has returned."""
        return self._standings.all(self._now())

    def progress(self, more: Iterable[str] = ()) -> dict[str, Progress]:
        """
        How far the models are that load on this machine, or have requests in their queues.

        :param more: names of further ones, if they are still configured
        :return: by name
        """
        models, room = self.scheduler.models, self.scheduler.room
        keys = {model.key for model in self._standings.models()}
        keys.update(model.key for model in room.in_memory if model.status is Status.LOADING)
        names = {*(self._entries[key].model.name for key in keys), *more}
        return {
            name: progress(self.catalogue.find(name), models, room, self._now())
            for name in sorted(names)
            if name in self.catalogue
        }

    def load(self, name: str, anyway: bool = False) -> Deferred[None]:
        """
        Load a model as a request for it would, without sending a request.

        Cancelling the Deferred removes the order from the queue; a load under way goes on.

        :param name: as in `acquire`
        :param anyway: as in `acquire`
        :return: fires when the model is loaded; fails with a `GatewayError` when it cannot be
        :raises ModelNotFound: if no model has this name
        """
        return self.acquire(name, anyway=anyway, share=None).addCallback(Lease.release)

    def admits(self, name: str) -> bool:
        """
        Whether a request that must not load the model would get a lease now.

        :param name: as in `acquire`
        :raises ModelNotFound: if no model has this name
        """
        models = self.scheduler.models
        model = models[freest(self.catalogue.find(name), models).key]
        return model.status is Status.READY and not model.closing

    def unload(self, name: str, force: bool = False) -> Deferred[None]:
        """
        Unload a model when its requests in flight have ended.

        One that has failed has not any more: it is unloaded, and the next request loads it.

        Cancelling the Deferred does not cancel the unload.

        :param name: as in `acquire`
        :param force: kill its run at once; requests in flight break off, and waiters are rejected
            with `llamagw.errors.ModelUnavailable`
        :return: fires when the run has ended, at once if there is none; by then the model may have
            been started again for requests that arrived in between
        :raises ModelNotFound: if no model has this name
        :raises BadRequest: if its instances are remote, and so cannot be unloaded
        """
        instance = freest(self.catalogue.find(name), self.scheduler.models)
        if not instance.launcher.takes_room:
            raise BadRequest(
                f"The model `{name}` lives elsewhere ({instance.launcher.name}); it cannot be "
                "unloaded from here.",
                param="model",
            )
        gone: Deferred[None] = Deferred()
        if instance.life is None:
            gone.callback(None)
        else:
            self._unloads.setdefault(instance.key, []).append(gone)
        self._touch(instance.key)
        self._run(self.scheduler.unload(instance.key, self._now(), force))
        return gone

    def pin(self, name: str, pinned: bool) -> None:
        """
        Pin or unpin a model, until its configuration changes.

        :param name: as in `acquire`
        :param pinned: whether it is never evicted
        :raises ModelNotFound: if no model has this name
        :raises BadRequest: if it is remote, or too many are pinned
        """
        key = self.catalogue.find(name).instances[0].key
        models = self.scheduler.models
        pins.check(models[key], pinned, models.values(), self.config.limit)
        if models[key].pinned != pinned:
            how = "pinned" if pinned else "not pinned any more"
            _log.info("{name} is {how}: asked by POST /models/pin", name=models[key].name, how=how)
        self._run(self.scheduler.pin(key, pinned, self._now()))

    def watch(self, tell: Callable[[Change | None], object]) -> Callable[[], None]:
        """
        Subscribe to the changes of the models' states.

        :param tell: called with each change, and with None when the gateway drains: no call follows
        :return: unsubscribes
        """
        return self._watchers.watch(tell)

    def log(self, name: str) -> Log:
        """
        The output of a model's instances, across all of their runs.

        :param name: as in `acquire`
        :raises ModelNotFound: if no model has this name
        """
        return self.catalogue.find(name).log

    def report(self, busy: bool = False) -> list[ModelReport]:
        """
        The state of all models, in the order of the configuration.

        :param busy: only models that run, have waiters, have failed, or are remote
        """
        models, since_epoch = self.scheduler.models, self._since_epoch()
        waits = Waits(self.scheduler.room, self._now())
        return [
            report(entry, models, since_epoch, waits)
            for entry in self.catalogue
            if not busy
            or any(
                i.life or models[i.key].waiting or models[i.key].failed or not i.launcher.takes_room
                for i in entry.instances
            )
        ]

    def totals(self) -> Totals:
        """All instances together, those of an earlier configuration that still run included."""
        return totals(self._instances.values(), self.scheduler.models)

    def accounts(self) -> list[Account]:
        """The memory of this machine and of its GPUs; empty if bytes are not counted."""
        return self._memory.accounts()

    async def descriptions(self) -> dict[str, dict[str, Any]]:
        """
        How the instances that are ready describe their models.

        :return: by name of the model; models without a description are left out
        """
        ready = [
            instance
            for entry in self.catalogue
            for instance in entry.instances
            if self._status_of(instance) is Status.READY
        ]
        return await self._descriptions.of(ready)

    async def metrics(self) -> dict[str, bytes]:
        """
        What the engines on this machine that are ready tell of themselves, for Prometheus.

        :return: by name of the model; models that told nothing in time are left out
        """
        ready = [
            instance
            for entry in self.catalogue
            for instance in entry.instances
            if self._status_of(instance) is Status.READY and instance.launcher.takes_room
        ]
        return await self._descriptions.metrics(ready)

    # For the service

    def begin(self) -> None:
        """Start the remote instances, and preload models. To be called once, at the start."""
        self._memory.apply(self.config)
        self._run(self.scheduler.tick(self._now()))
        self._preload(entry.model.name for entry in self.catalogue)

    def apply(self, config: Config) -> None:
        """
        Replace the configuration.

        A model that is the same in both is not affected. One that is gone or changed finishes its
        requests in flight, then its run is stopped; the waiters of a changed one wait for its
        successor. Models that are new or changed are preloaded if so configured.
        """
        previous, self.config = self.config, config
        changed = self._reload.apply(previous, config)
        self._memory.apply(config)
        self._preload(changed)

    def drain(self) -> Deferred[None]:
        """
        Admit no more requests, reject the waiters, and stop each instance as it falls idle.

        :return: fires when the last run has ended
        """
        self._watchers.end()
        drained: Deferred[None] = Deferred()
        self._drained = drained
        self._run(self.scheduler.drain(self._now()))
        return drained

    def abandon(self) -> None:
        """After `drain`: stop the busy instances too; their requests in flight break off."""
        self._run(self.scheduler.abandon())

    # Events, and what follows from them

    def happened(self, event: Event) -> None:
        """Handle an event of an instance."""
        asked_for = isinstance(event, Exited) and event.failure is None
        # What it had on a GPU is not free before the driver says so.
        if not asked_for or not self._memory.waits_for(event.key, partial(self._happened, event)):
            self._happened(event)

    def _happened(self, event: Event) -> None:
        key, now = event.key, self._now()
        self._touch(key)
        instance, model = self._instances[key], self.scheduler.models[key]
        before = model.status
        self._follow(event, key, now)
        turn = turn_of(event, instance.model.name, before, model)
        if turn is not None and instance.launcher.takes_room:
            self.turns.tell(turn)

    def _follow(self, event: Event, key: str, now: float) -> None:
        if isinstance(event, Loaded):
            self._run(self.scheduler.loaded(key, now))
            self._relieve(key)
        elif isinstance(event, LoadFailed):
            self._run(self.scheduler.load_failed(key, event.error, now))
        elif isinstance(event, Exited):
            charge = self.scheduler.models[key].charge
            self._run(
                self.scheduler.exited(key, event.failure, now, event.hold, event.out_of_memory)
            )
            if event.out_of_memory and charge is not None:
                self._instances[key].launcher.fell_short(more_than(charge))
            self._registry.forget(key)
            self._unloaded(key)
        elif isinstance(event, Recovered):
            self._run(self.scheduler.recovered(key, now))
        elif isinstance(event, Hung):
            self.on_hung(event.address)
        else:
            self._check_idle_timeout(self._instances[key])

    def _check_idle_timeout(self, instance: Instance) -> None:
        """Unload the instance if unused for ``idle_unload_sec``, else check again later."""
        limit = instance.model.idle_unload_sec
        actions, again = self.scheduler.idle_timeout(instance.key, limit, self._now())
        if again is not None:
            instance.start_idle_timer(again)
        self._run(actions)

    def _run(self, actions: list[Action]) -> None:
        """Carry out the scheduler's actions, then send what has changed to the watchers."""
        for action in actions:
            if isinstance(action, Admit):
                self._admit(action.ticket)
            elif isinstance(action, Reject):
                waiter = action.ticket
                assert isinstance(waiter, Waiter)
                # Several waiters may get the same error; each needs a traceback of its own.
                if not waiter.deferred.called and not self._moved_on(waiter):
                    waiter.answered().errback(copy.copy(action.error))
            else:
                self._act(action)
        if self.scheduler.wake_at is not None or self._alarm.due is not None:
            self._alarm.set(self.scheduler.wake_at)
        if self._watchers.touched:
            self._watchers.send(self.catalogue.holds, self._since_epoch())
        if self._drained is not None and not any(i.life for i in self._instances.values()):
            self._memory.end()
            drained, self._drained = self._drained, None
            drained.callback(None)

    def _act(self, action: Start | Stop | Kill) -> None:
        instance = self._instances[action.key]
        self._touch(action.key)
        name = instance.model.name
        if isinstance(action, Start):
            instance.start(action.need)
        elif isinstance(action, Kill):
            _log.info("killing {name}: asked by POST /models/unload with force", name=name)
            self.turns.tell(Turn(name, False, Why.ASKED.value))
            instance.kill()
        else:
            if instance.launcher.takes_room:
                stays = any(model.name == name for model in self.config.models)
                why = in_words(action, instance.model.idle_unload_sec, stays)
                _log.info("stopping {name}{why}", name=name, why=why)
                self.turns.tell(Turn(name, False, action.why.value))
            instance.stop()

    def _admit(self, waiter: Hashable) -> None:
        assert isinstance(waiter, Waiter)
        key, used, slot = waiter.key, waiter.load, waiter.share is not None
        if waiter.deferred.called:
            # It was cancelled while the actions before it were carried out.
            self._released(key, used, slot)
            return
        instance, entry = self._instances[key], self._entries[key]
        assert instance.life is not None, "an instance that admits has a run"
        lease = Lease(
            key,
            instance.model,
            instance.life,
            entry.tries,
            len(entry.instances) > 1,
            instance.launcher.relaunches,
            release=partial(self._released, key, used, slot),
        )
        waiter.answered().callback(lease)

    def _released(self, key: str, used: bool, slot: bool) -> None:
        self._run(self.scheduler.finished(key, self._clock.seconds(), used, slot))
        if key not in self.scheduler.models:
            self._registry.forget(key)
        elif len(self._entries[key].instances) > 1:
            self._relieve(key)

    def _relieve(self, key: str) -> None:
        """Have an instance with free slots serve who waits for another of its model."""
        models, model = self.scheduler.models, self.scheduler.models[key]
        if len(self._entries[key].instances) == 1 or model.retired:
            return
        others = [models[one.key] for one in self._entries[key].instances if one.key != key]
        while has_slot(model):
            waited = [other for other in others if other.waiting]
            if not waited:
                return
            longest = min(waited, key=lambda other: other.waiting.since)
            tickets, actions = self.scheduler.relieve(longest.key, self._now())
            for waiter in tickets:
                assert isinstance(waiter, Waiter)
                waiter.key = key
                now, load, share = self._now(), waiter.load, waiter.share
                actions += self.scheduler.arrived(key, waiter, now, load, share=share)
            self._run(actions)

    def _moved_on(self, waiter: Waiter) -> bool:
        """Have another ready instance of its model serve a waiter that is to be rejected."""
        entry = self._entries[waiter.key]
        instance = freest(entry, self.scheduler.models)
        model = self.scheduler.models[instance.key]
        if instance.key == waiter.key or model.closing or model.status is not Status.READY:
            return False
        waiter.key = instance.key
        now, load, share = self._now(), waiter.load, waiter.share
        self._run(self.scheduler.arrived(instance.key, waiter, now, load, share=share))
        return True

    # Waiters

    def _timed_out(self, waiter: Waiter) -> None:
        waiter.timer = None
        patience = self.config.queue_timeout_sec
        name = self._entries[waiter.key].model.name
        self._left(waiter)
        waiter.deferred.errback(
            QueueTimeout(f"The request waited for `{name}` for {patience:g} s.")
        )

    def _left(self, waiter: Waiter) -> None:
        waiter.answered()
        # It may have been admitted or rejected by an action that is not carried out yet (`_run`).
        model = self.scheduler.models.get(waiter.key)
        if model is not None and waiter in model.waiting:
            self._run(self.scheduler.left(waiter.key, waiter, self._now()))

    # Unloads and preloads

    def _unloaded(self, key: str) -> None:
        """Fire the Deferreds of the unloads of an instance: its run has ended."""
        for gone in self._unloads.pop(key, ()):
            if not gone.called:
                gone.callback(None)

    def _preload(self, names: Iterable[str]) -> None:
        for name in list(names):
            if self.catalogue.find(name).model.preload:
                self.load(name).addErrback(_not_preloaded, name)

    # Shorthands

    def _touch(self, key: str) -> None:
        entry = self._entries.get(key)
        if entry is not None:
            self._watchers.touch(entry)

    def _status_of(self, instance: Instance) -> Status:
        return self.scheduler.models[instance.key].status

    def _usual(self, key: str) -> float | None:
        """What a load of an instance usually takes, in seconds."""
        return self._instances[key].launcher.usual()

    def _now(self) -> float:
        return self._clock.seconds()

    def _since_epoch(self) -> float:
        """Seconds since the epoch at which the clock was 0."""
        return time.time() - self._now()

    def _tick(self) -> None:
        self._run(self.scheduler.tick(self._now()))


def _not_preloaded(failure: Failure, name: str) -> None:
    _log.warn("{name} is not preloaded: {error}", name=name, error=failure.value)
