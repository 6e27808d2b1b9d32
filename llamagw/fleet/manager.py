"""
The door of the fleet: whoever wants a model asks `Manager.acquire` and gets a `Lease`.

Whoever manages the models loads and unloads them here, watches what becomes of them, and reads what
their engines print. Joins the scheduler (what to do), the backends (what state they are in), the
processes and the probes, and carries the scheduler's actions out. Decides nothing itself.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Hashable, Iterable
from typing import Protocol

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from llamagw.config import Config, ModelConfig
from llamagw.errors import GatewayError, ModelNotFound, QueueTimeout
from llamagw.fleet.backend import Backend, Exit, Running, Watch, make_backend
from llamagw.fleet.health import Health, Probe, Readiness
from llamagw.fleet.listeners import Listeners
from llamagw.fleet.process import Log
from llamagw.fleet.scheduler import Action, Admit, Kill, Reject, Scheduler, Start, Status

_log = Logger(namespace="llamagw.manager")


#: Seconds within which a backend that broke off is seen to have ended, if it has.
AFTERMATH_SEC = 0.5


class Engine(Running, Protocol):
    """What a launcher returns: a running backend that can show that it gets on."""

    def progress(self) -> object:
        """Something that changes as long as it gets on."""


class Launches(Protocol):
    """Starts backends; `llamagw.fleet.process.Launcher` is one."""

    def launch(self, model: ModelConfig, backend: Backend, log: Log) -> Engine:
        """
        Start the model's backend; ``backend.ended`` follows, some time, whatever happens.

        :param log: gets what it prints
        """


class ModelReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    What can be told of a model.

    :ivar status: unloaded, loading, loaded, stopping or failed
    :ivar port: where its backend listens; None without one
    :ivar last_used: seconds since the epoch; None if it never was
    :ivar pinned: whether it is never unloaded for room
    :ivar exit_code: the status that its last process ended with; None while one runs, and if it was
        killed or never started
    :ivar error: why it is failed; None if it is not
    """

    id: str
    status: str
    port: int | None
    in_flight: int
    waiting: int
    last_used: float | None
    pinned: bool = False
    exit_code: int | None = None
    error: str | None = None


class Change(Struct, frozen=True):
    """
    Word of a model's new state.

    :ivar status: as in `ModelReport`
    :ivar progress: how far a load has got, from 0 to 1; None, since no engine tells
    :ivar error: why it is failed
    :ivar exit_code: the status that its process ended with, if one did
    """

    model: str
    status: str
    progress: float | None = None
    error: str | None = None
    exit_code: int | None = None


class Lease:
    """
    The right to send one request to a model's backend, which is not stopped for room meanwhile.

    :ivar model: the model as it was configured when it was asked for
    :ivar address: where the backend answers
    """

    __slots__ = ("_keeper", "_life", "_used", "address", "engine", "model")

    def __init__(self, keeper: _Keeper, used: bool) -> None:
        assert keeper.engine is not None, "a model that admits has a process"
        self._keeper: _Keeper | None = keeper
        self._life = keeper.life
        self._used = used
        self.model = keeper.model
        self.engine = keeper.engine
        self.address = keeper.engine.address

    @property
    def revoked(self) -> bool:
        """Whether the backend was unloaded by force: the request is not to be sent to another."""
        return self._life.revoked

    def moved(self) -> None:
        """
        Bytes came from the backend.

        The health check then knows that it works, even when it has no thread left for /health.
        """
        if self._keeper is not None:
            self._keeper.moved += 1

    def release(self) -> None:
        """The request is over. More than once is the same as once."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.manager._finished(keeper, self._used)


class _Life:
    """One run of a backend, from launch to exit."""

    __slots__ = ("revoked",)

    def __init__(self) -> None:
        self.revoked = False


class _Ticket:
    """Somebody who waits, or does not want to (see ``load``)."""

    __slots__ = ("deferred", "keeper", "load", "timer")

    def __init__(self, keeper: _Keeper, deferred: Deferred[Lease], load: bool) -> None:
        self.keeper = keeper
        self.deferred = deferred
        self.load = load
        self.timer: IDelayedCall | None = None

    def answered(self) -> Deferred[Lease]:
        """It waits no more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        return self.deferred


class Manager:
    """
    Holds the backends of all models.

    :param launcher: starts processes
    :param probe: asks whether a backend is well
    :param clock: the reactor, or a Clock
    """

    def __init__(
        self, config: Config, launcher: Launches, probe: Probe, clock: IReactorTime
    ) -> None:
        self.config = config
        self.launcher = launcher
        self.probe = probe
        self.clock = clock
        self.scheduler = Scheduler(
            (),
            limit=config.max_loaded_models,
            swap_after=config.swap_after_sec,
            max_queue=config.max_queue,
        )
        #: The models that are configured, by name, and all that have not ended yet, by key.
        self._keepers: dict[str, _Keeper] = {}
        self._by_key: dict[str, _Keeper] = {}
        self._generation = 0
        self._wake: IDelayedCall | None = None
        self._drained: Deferred[None] | None = None
        self._watchers = Listeners[Change | None]()
        #: By name, so that a model that is configured anew goes on with the log that it has.
        self._logs: dict[str, Log] = {}
        for model in config.models:
            self._add(model)

    @property
    def names(self) -> list[str]:
        """The names of the models, in the order of the configuration."""
        return list(self._keepers)

    def acquire(self, name: str, load: bool = True) -> Deferred[Lease]:
        """
        A lease on the model's backend, which is started if need be.

        Cancelling the Deferred leaves the queue. It fails with a `GatewayError` when there will
        be no lease.

        :param load: whether to wait for the backend; if not, it fails at once with
            `ModelNotLoaded` when there is none, and a lease does not count as use
        :raises ModelNotFound: at once
        """
        keeper = self._keeper(name)
        deferred: Deferred[Lease] = Deferred(lambda _: self._left(ticket))
        ticket = _Ticket(keeper, deferred, load)
        self.do(self.scheduler.arrived(keeper.key, ticket, self.clock.seconds(), load))
        if not deferred.called:
            patience = self.config.queue_timeout_sec
            ticket.timer = self.clock.callLater(patience, self._timed_out, ticket)
        return deferred

    def load(self, name: str) -> Deferred[None]:
        """
        Load the model as a request for it would, and ask nothing of it.

        Fires when it is loaded. Cancelling the Deferred leaves the queue. It fails with a
        `GatewayError` when the model will not be loaded.

        :raises ModelNotFound: at once
        """
        return self.acquire(name).addCallback(Lease.release)

    def unload(self, name: str, force: bool = False) -> Deferred[None]:
        """
        Unload the model, when it has finished what it has to do.

        Fires when its process is gone, at once if there is none; it may be started anew by then,
        for those who came meanwhile. Cancelling the Deferred does not take the order back.

        :param force: end its process at once; its answers break off, and who waits for it gets
            `llamagw.errors.ModelUnavailable`
        :raises ModelNotFound: at once
        """
        keeper = self._keeper(name)
        gone: Deferred[None] = Deferred()
        keeper.unloads.append(gone)
        self.do(self.scheduler.unload(keeper.key, self.clock.seconds(), force))
        if keeper.engine is None:
            keeper.gone()
        return gone

    def preload(self) -> None:
        """Begin to load the models that are to be loaded from the start. For once, at the start."""
        self._preload(self._keepers)

    def watch(self, tell: Callable[[Change | None], object]) -> Callable[[], None]:
        """
        Hear of each change of a model's state.

        :param tell: called with None when the gateway drains: there will be no more
        :return: call it to hear no more
        """
        if self.scheduler.draining:
            tell(None)
            return lambda: None
        return self._watchers.add(tell)

    def log(self, name: str) -> Log:
        """
        What the model's engines print: one object for all of its lives.

        :raises ModelNotFound: at once
        """
        return self._keeper(name).log

    def _keeper(self, name: str) -> _Keeper:
        keeper = self._keepers.get(name)
        if keeper is None:
            raise ModelNotFound(name, self._keepers)
        return keeper

    def _preload(self, names: Iterable[str]) -> None:
        for name in names:
            if self._keepers[name].model.preload:
                self.load(name).addErrback(self._not_preloaded, name)

    def _not_preloaded(self, failure: Failure, name: str) -> None:
        _log.warn("{name} is not preloaded: {error}", name=name, error=failure.value)

    def reconfigure(self, config: Config) -> None:
        """
        Go by another configuration from now on.

        A model that is the same in both goes on untouched. One that is gone or changed finishes
        the answers that it is giving, then its backend stops; who waits for a changed one waits
        for its successor. What is new or changed and to be preloaded is loaded.
        """
        old, self.config = self.config, config
        wanted = {model.name: model for model in config.models}
        homeless: list[Hashable] = []
        for name, keeper in list(self._keepers.items()):
            same = old.llama_server_path == config.llama_server_path
            if same and wanted.get(name) == keeper.model:
                continue
            del self._keepers[name]
            # From here on its name stands for its successor, if for anything.
            keeper.tell("unloaded")
            keeper.configured = False
            waited, actions = self.scheduler.retire(keeper.key, self.clock.seconds())
            homeless += waited
            self.do(actions)
            self._forget(keeper)
        fresh = [name for name in wanted if name not in self._keepers]
        for name in fresh:
            self._add(wanted[name])
        self._logs = {name: self._logs[name] for name in wanted}
        self._keepers = {name: self._keepers[name] for name in wanted}
        now = self.clock.seconds()
        for ticket in homeless:
            assert isinstance(ticket, _Ticket)
            name = ticket.keeper.model.name
            if name in self._keepers:
                ticket.keeper = self._keepers[name]
                self.do(self.scheduler.arrived(ticket.keeper.key, ticket, now))
            else:
                ticket.answered().errback(ModelNotFound(name, self._keepers))
        self.do(
            self.scheduler.limits(
                limit=config.max_loaded_models,
                swap_after=config.swap_after_sec,
                max_queue=config.max_queue,
                now=now,
            )
        )
        self._preload(fresh)

    def _add(self, model: ModelConfig) -> None:
        # A key is never used twice: a changed model and its successor may be there side by side.
        self._generation += 1
        log = self._logs.setdefault(model.name, Log(model.name))
        keeper = _Keeper(self, model, key=f"{model.name}#{self._generation}", log=log)
        self._keepers[model.name] = self._by_key[keeper.key] = keeper
        self.scheduler.add(keeper.key, model.name, model.pinned)

    async def aftermath(self, lease: Lease) -> None:
        """
        After a backend broke off: wait until its process is known to be gone.

        A connection can be lost before the process's end is noticed. When it does not end, it
        was not a crash, and nothing more is to be waited for.
        """
        waited = self.clock.seconds() + AFTERMATH_SEC
        while self.clock.seconds() < waited and any(
            keeper.engine is lease.engine for keeper in self._by_key.values()
        ):
            await deferLater(self.clock, 0.01)

    def report(self) -> list[ModelReport]:
        """All models, in the order of the configuration."""
        since_epoch = time.time() - self.clock.seconds()
        reports = []
        for name, keeper in self._keepers.items():
            model = self.scheduler.models[keeper.key]
            reports.append(
                ModelReport(
                    id=name,
                    status="loaded" if model.status is Status.READY else model.status.value,
                    port=keeper.engine.address.port if keeper.engine is not None else None,
                    in_flight=model.in_flight,
                    waiting=len(model.waiting),
                    last_used=None if model.last_used is None else since_epoch + model.last_used,
                    pinned=model.pinned,
                    exit_code=keeper.exit_code,
                    error=None if model.failure is None else model.failure.message,
                )
            )
        return reports

    def drain(self) -> Deferred[None]:
        """
        Admit nobody any more, turn away who waits, stop each backend as it falls idle.

        :return: fires when the last process is gone
        """
        self._watchers.tell(None)
        self._watchers.clear()
        self._drained = Deferred()
        drained = self._drained
        self.do(self.scheduler.drain(self.clock.seconds()))
        return drained

    def abandon(self) -> None:
        """After `drain`: stop the backends that are busy too; their answers break off."""
        self.do(self.scheduler.abandon())

    def do(self, actions: list[Action]) -> None:
        """Carry out what the scheduler has decided."""
        for action in actions:
            if isinstance(action, Admit):
                ticket = action.ticket
                assert isinstance(ticket, _Ticket)
                if ticket.deferred.called:
                    # It went away while those before it in the list were answered.
                    self._finished(ticket.keeper, ticket.load)
                else:
                    ticket.answered().callback(Lease(ticket.keeper, ticket.load))
            elif isinstance(action, Reject):
                ticket = action.ticket
                assert isinstance(ticket, _Ticket)
                # One error may be told to many; each needs a traceback of its own.
                if not ticket.deferred.called:
                    ticket.answered().errback(copy.copy(action.error))
            elif isinstance(action, Start):
                keeper = self._by_key[action.model]
                keeper.tell("loading")
                keeper.backend.start()
            elif isinstance(action, Kill):
                keeper = self._by_key[action.model]
                _log.info("killing {name}", name=keeper.model.name)
                keeper.life.revoked = True
                keeper.tell("stopping")
                keeper.backend.kill()
            else:
                keeper = self._by_key[action.model]
                _log.info("stopping {name}", name=keeper.model.name)
                keeper.tell("stopping")
                keeper.backend.stop()
        self._set_alarm()
        if self._drained is not None and not any(k.engine for k in self._by_key.values()):
            drained, self._drained = self._drained, None
            drained.callback(None)

    def _timed_out(self, ticket: _Ticket) -> None:
        ticket.timer = None
        patience = self.config.queue_timeout_sec
        self._left(ticket)
        ticket.deferred.errback(
            QueueTimeout(f"The request waited for `{ticket.keeper.model.name}` for {patience:g} s.")
        )

    def _left(self, ticket: _Ticket) -> None:
        ticket.answered()
        # The scheduler may have answered already, and the answer be on its way (see `do`).
        model = self.scheduler.models.get(ticket.keeper.key)
        if model is not None and ticket in model.waiting:
            self.do(self.scheduler.left(ticket.keeper.key, ticket, self.clock.seconds()))

    def _finished(self, keeper: _Keeper, used: bool) -> None:
        self.do(self.scheduler.finished(keeper.key, self.clock.seconds(), used))
        self._forget(keeper)

    def _forget(self, keeper: _Keeper) -> None:
        """Nothing is left of a model that is no longer configured."""
        if keeper.key not in self.scheduler.models:
            self._by_key.pop(keeper.key, None)

    def _set_alarm(self) -> None:
        """Have the scheduler look again when the next waiter runs out of patience."""
        due = self.scheduler.wake_at
        if self._wake is not None:
            if due is not None and self._wake.getTime() == due:
                return
            self._wake.cancel()
            self._wake = None
        if due is not None:
            # Carrying actions out takes time: it may be due already.
            self._wake = self.clock.callLater(max(0.0, due - self.clock.seconds()), self._tick)

    def _tick(self) -> None:
        self._wake = None
        self.do(self.scheduler.tick(self.clock.seconds()))


class _Keeper:
    """
    What the manager holds for one model; the `llamagw.fleet.backend.World` of its backend.

    :ivar key: its name in the scheduler
    :ivar engine: the process, from launch to exit
    :ivar moved: how often bytes were seen to come from it
    :ivar exit_code: see `ModelReport`
    :ivar configured: whether it is what its name stands for
    :ivar unloads: to be fired when its process is gone
    """

    def __init__(self, manager: Manager, model: ModelConfig, key: str, log: Log) -> None:
        self.manager = manager
        self.key = key
        self.model = model
        self.log = log
        self.engine: Engine | None = None
        self.life = _Life()
        self.moved = 0
        self.exit_code: int | None = None
        self.configured = True
        self.unloads: list[Deferred[None]] = []
        self._told = Change(model.name, "unloaded")
        self._rest: IDelayedCall | None = None
        self._got_on: object = None
        self.backend = make_backend(
            model.name, self, manager.clock, manager.config.load_timeout_sec
        )

    def _progress(self) -> object:
        """
        Something that changes as long as it gets on with its requests.

        An idle one has none: what it does then may be the handling of the probe itself.
        """
        if self.manager.scheduler.models[self.key].in_flight and self.engine is not None:
            self._got_on = self.moved, self.engine.progress()
        return self._got_on

    def tell(self, status: str, error: str | None = None) -> None:
        """Tell those who watch what state it is in now, if that is another one."""
        exit_code = self.exit_code if status in ("unloaded", "failed") else None
        change = Change(self.model.name, status, error=error, exit_code=exit_code)
        if self.configured and status != self._told.status:
            self._told = change
            self.manager._watchers.tell(change)

    def gone(self) -> None:
        """Its process is gone; so hear those who had it unloaded."""
        unloads, self.unloads = self.unloads, []
        for gone in unloads:
            gone.callback(None)

    def _look_whether_it_rests(self) -> None:
        """Have it unloaded if nobody has used it for ``idle_unload_sec``, or look again."""
        now = self.manager.clock.seconds()
        limit = self.model.idle_unload_sec
        actions, again = self.manager.scheduler.rest(self.key, limit, now)
        self._rest = None
        if again is not None:
            self._rest = self.manager.clock.callLater(again, self._look_whether_it_rests)
        if actions:
            _log.info("{name} was not used for {sec:g} s", name=self.model.name, sec=limit)
        self.manager.do(actions)

    # What the backend needs done

    def launch(self, backend: Backend) -> Running:
        self.life = _Life()
        self.exit_code = None
        self.engine = self.manager.launcher.launch(self.model, backend, self.log)
        return self.engine

    def await_ready(self, running: Running, backend: Backend) -> Watch:
        assert self.engine is not None
        self._since = self.manager.clock.seconds()
        return Readiness(
            self.manager.clock,
            self.manager.probe,
            address=lambda: running.address,
            progress=self.engine.progress,
            timeout=self.manager.config.load_timeout_sec,
            healthy=backend.healthy,
            give_up=backend.give_up,
        )

    def watch_health(self, running: Running, backend: Backend) -> Watch:
        return Health(
            self.manager.clock,
            self.manager.probe,
            address=running.address,
            interval=self.manager.config.health_check_sec,
            progress=self._progress,
            hung=backend.hung,
        )

    # What the backend tells

    def loaded(self) -> None:
        now = self.manager.clock.seconds()
        _log.info("{name} is loaded ({sec:.1f} s)", name=self.model.name, sec=now - self._since)
        self.tell("loaded")
        if self.model.idle_unload_sec:
            # One timer for each loaded model, which looks when it rings: a request costs nothing.
            limit = self.model.idle_unload_sec
            self._rest = self.manager.clock.callLater(limit, self._look_whether_it_rests)
        self.manager.do(self.manager.scheduler.loaded(self.key, now))

    def load_failed(self, error: GatewayError) -> None:
        _log.error("{error}", error=error.message)
        self.tell("stopping")
        now = self.manager.clock.seconds()
        self.manager.do(self.manager.scheduler.load_failed(self.key, error, now))

    def exited(self, exit: Exit, failure: GatewayError | None) -> None:
        self.engine = None
        self.exit_code = exit.code
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if failure is None:
            self.tell("unloaded")
        else:
            _log.error("{error}", error=failure.message)
            self.tell("failed", failure.message)
        now = self.manager.clock.seconds()
        self.manager.do(self.manager.scheduler.exited(self.key, failure, now))
        self.manager._forget(self)
        self.gone()

    def recovered(self) -> None:
        self.tell("unloaded")
        now = self.manager.clock.seconds()
        self.manager.do(self.manager.scheduler.recovered(self.key, now))
