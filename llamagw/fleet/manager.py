"""
The door of the fleet: whoever wants a model asks `Manager.acquire` and gets a `Lease`.

Whoever manages the models loads and unloads them here, watches what becomes of them, and reads what
their engines print. Joins the scheduler (what to do), the backends (what state they are in), the
processes and the probes, and carries the scheduler's actions out. Decides nothing itself.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from llamagw.config import Config, ModelConfig, Names, Replica
from llamagw.errors import BadRequest, ModelNotFound, QueueTimeout
from llamagw.fleet.health import Asks
from llamagw.fleet.keeper import Change, Engine, Entry, Keeper, Launches
from llamagw.fleet.lease import Lease, Ticket
from llamagw.fleet.listeners import Listeners
from llamagw.fleet.output import Log
from llamagw.fleet.scheduler import Action, Admit, Kill, Reject, Scheduler, Start, Status
from llamagw.net import Address

_log = Logger(namespace="llamagw.manager")


__all__ = ["Change", "Engine", "Launches", "Lease", "Manager", "ModelReport"]

#: Seconds that a backend has to describe its model; one that is busy may have no thread for it.
DESCRIBE_SEC = 1.0

#: Seconds within which a backend that broke off is seen to have ended, if it has.
AFTERMATH_SEC = 0.5


class ReplicaReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What can be told of one of the servers of a model that lives elsewhere."""

    url: str
    status: str
    in_flight: int
    error: str | None = None


class ModelReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    What can be told of a model.

    :ivar status: unloaded, loading, loaded, stopping or failed
    :ivar port: where its backend listens; None without one
    :ivar last_used: seconds since the epoch; None if it never was
    :ivar pinned: whether it is never unloaded for room
    :ivar elsewhere: whether it is no process of ours
    :ivar exit_code: the status that its last process ended with; None while one runs, and if it was
        killed or never started
    :ivar error: why it is failed; None if it is not
    :ivar replicas: its servers, if it lives elsewhere
    """

    id: str
    status: str
    port: int | None
    in_flight: int
    waiting: int
    last_used: float | None
    pinned: bool = False
    elsewhere: bool = False
    exit_code: int | None = None
    error: str | None = None
    replicas: list[ReplicaReport] = []


class Manager:
    """
    Holds the backends of all models.

    :param launcher: starts processes
    :param probe: asks whether a backend is well
    :param clock: the reactor, or a Clock
    """

    def __init__(
        self, config: Config, launcher: Launches, probe: Asks, clock: IReactorTime
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
        self._entries: dict[str, Entry] = {}
        self._by_key: dict[str, Keeper] = {}
        self._generation = 0
        self.directory = _directory(config)
        self._wake: IDelayedCall | None = None
        self._drained: Deferred[None] | None = None
        #: Told of a server elsewhere that hangs: nobody is to wait there any longer.
        self.on_hung: Callable[[Address], object] = lambda address: None
        self.watchers = Listeners[Change | None]()
        #: By name, so that a model that is configured anew goes on with the log that it has.
        self._logs: dict[str, Log] = {}
        for model in config.models:
            self._add(model)

    @property
    def names(self) -> list[str]:
        """The names of the models, in the order of the configuration."""
        return list(self._entries)

    def own_name(self, name: str) -> str:
        """
        The own name of the model that a name, an alias or a pattern means.

        :raises ModelNotFound: when it means none
        """
        own = self.directory.find(name)
        if own is None:
            raise ModelNotFound(name, self.directory.exact)
        return own

    def acquire(
        self, name: str, load: bool = True, failed: Sequence[Lease] = ()
    ) -> Deferred[Lease]:
        """
        A lease on the model's backend, which is started if need be.

        Cancelling the Deferred leaves the queue. It fails with a `GatewayError` when there will
        be no lease.

        :param load: whether to wait for the backend; if not, it fails at once with
            `ModelNotLoaded` when there is none, and a lease does not count as use
        :param failed: leases on backends that broke off; another one is taken if there is one
        :raises ModelNotFound: at once
        """
        keeper = self._keeper(name, failed)
        deferred: Deferred[Lease] = Deferred(lambda _: self._left(ticket))
        ticket = Ticket(keeper, deferred, load)
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
        if keeper.replica is not None:
            raise BadRequest(
                f"The model `{name}` lives elsewhere ({keeper.replica.url}); it cannot be unloaded "
                "from here.",
                param="model",
            )
        gone: Deferred[None] = Deferred()
        keeper.unloads.append(gone)
        self.do(self.scheduler.unload(keeper.key, self.clock.seconds(), force))
        if keeper.engine is None:
            keeper.gone()
        return gone

    def begin(self) -> None:
        """Reach the servers elsewhere, and load what is to be preloaded. For once, at the start."""
        self.do(self.scheduler.tick(self.clock.seconds()))
        self._preload(self._entries)

    def watch(self, tell: Callable[[Change | None], object]) -> Callable[[], None]:
        """
        Hear of each change of a model's state.

        :param tell: called with None when the gateway drains: there will be no more
        :return: call it to hear no more
        """
        if self.scheduler.draining:
            tell(None)
            return lambda: None
        return self.watchers.add(tell)

    def log(self, name: str) -> Log:
        """
        What the model's engines print: one object for all of its lives.

        :raises ModelNotFound: at once
        """
        return self._keeper(name).log

    def _keeper(self, name: str, failed: Sequence[Lease] = ()) -> Keeper:
        entry = self._entries.get(name)
        if entry is None:
            entry = self._entries[self.own_name(name)]
        if len(entry.keepers) == 1:
            return entry.keepers[0]
        return self._freest(entry.keepers, failed)

    def _freest(self, keepers: Sequence[Keeper], failed: Sequence[Lease] = ()) -> Keeper:
        """
        Of several servers, the one with the fewest requests in flight; of those alike, the one that
        was used longest ago. One that is ready comes before one that is not, and one that has
        failed last.
        """
        tried = [lease.key for lease in failed]

        def rank(keeper: Keeper) -> tuple[bool, bool, bool, int, float]:
            model = self.scheduler.models[keeper.key]
            return (
                keeper.key in tried,
                model.status is not Status.READY,
                model.status is Status.FAILED,
                model.in_flight + len(model.waiting),
                model.last_used or 0.0,
            )

        return min(keepers, key=rank)

    def _preload(self, names: Iterable[str]) -> None:
        for name in names:
            if self._entries[name].model.preload:
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
        self.directory = _directory(config)
        wanted = {model.name: model for model in config.models}
        leaving: list[Keeper] = []
        for name, entry in list(self._entries.items()):
            same = entry.model.elsewhere or old.llama_server_path == config.llama_server_path
            if same and wanted.get(name) == entry.model:
                continue
            del self._entries[name]
            # From here on its name stands for its successor, if for anything.
            for keeper in entry.keepers:
                keeper.tell("unloaded")
            entry.configured = False
            leaving += entry.keepers
        now = self.clock.seconds()
        homeless, actions = self.scheduler.retire([keeper.key for keeper in leaving], now)
        self.do(actions)
        for keeper in leaving:
            self.forget(keeper)
        fresh = [name for name in wanted if name not in self._entries]
        for name in fresh:
            self._add(wanted[name])
        self._logs = {name: self._logs[name] for name in wanted}
        self._entries = {name: self._entries[name] for name in wanted}
        for ticket in homeless:
            assert isinstance(ticket, Ticket)
            name = ticket.keeper.model.name
            if name in self._entries:
                ticket.keeper = self._keeper(name)
                self.do(self.scheduler.arrived(ticket.keeper.key, ticket, now))
            else:
                ticket.answered().errback(ModelNotFound(name, self.directory.exact))
        self.do(
            self.scheduler.limits(
                limit=config.max_loaded_models,
                swap_after=config.swap_after_sec,
                max_queue=config.max_queue,
                now=now,
            )
        )
        for keeper in self._by_key.values():
            keeper.check_every(config.health_check_sec)
        self._preload(fresh)

    def _add(self, model: ModelConfig) -> None:
        log = self._logs.get(model.name)
        if log is None:
            log = self._logs[model.name] = Log(model.name)
        entry = self._entries[model.name] = Entry(model)
        keepers = []
        replicas: Sequence[Replica | None] = model.replicas or [None]
        for replica in replicas:
            # A key is never used twice: a changed model and its successor may be there together.
            self._generation += 1
            keeper = Keeper(self, entry, f"{model.name}#{self._generation}", log, replica)
            self._by_key[keeper.key] = keeper
            self.scheduler.add(keeper.key, model.name, model.pinned, model.elsewhere)
            keepers.append(keeper)
        entry.keepers = keepers

    async def aftermath(self, lease: Lease) -> bool:
        """
        After a backend broke off: wait until its process is known to be gone.

        A connection can be lost before the process's end is noticed. When it does not end, it
        was not a crash, and nothing more is to be waited for. A server elsewhere is looked at
        at once, and meanwhile gets nothing more to do.

        :return: whether the process is gone; True for a server elsewhere, whose process is unknown
        """
        waited = self.clock.seconds() + AFTERMATH_SEC
        while keeper := self._runs(lease.engine):
            if keeper.replica is not None:
                keeper.look_again()
                return True
            if self.clock.seconds() >= waited:
                return False
            await deferLater(self.clock, 0.01)
        return True

    def _runs(self, engine: Engine) -> Keeper | None:
        return next((k for k in self._by_key.values() if k.engine is engine), None)

    def report(self, busy: bool = False) -> list[ModelReport]:
        """
        All models, in the order of the configuration.

        :param busy: only those that are in memory, on their way, waited for, or remote
        """
        since_epoch = time.time() - self.clock.seconds()
        return [
            self._report(entry, since_epoch)
            for entry in self._entries.values()
            if not busy or any(map(self._is_busy, entry.keepers))
        ]

    def _is_busy(self, keeper: Keeper) -> bool:
        model = self.scheduler.models[keeper.key]
        return bool(keeper.engine is not None or keeper.replica is not None or model.waiting)

    def _report(self, entry: Entry, since_epoch: float) -> ModelReport:
        models = [self.scheduler.models[keeper.key] for keeper in entry.keepers]
        first, used = entry.keepers[0], [m.last_used for m in models if m.last_used is not None]
        state = entry.furthest()
        port = None if first.engine is None or first.replica else first.engine.address.port
        return ModelReport(
            id=entry.model.name,
            status=state.status,
            port=port,
            in_flight=sum(model.in_flight for model in models),
            waiting=sum(len(model.waiting) for model in models),
            last_used=since_epoch + max(used) if used else None,
            pinned=entry.model.pinned,
            elsewhere=entry.model.elsewhere,
            exit_code=state.exit_code,
            error=state.error,
            replicas=[
                ReplicaReport(
                    url=keeper.replica.url,
                    status=keeper.state.status,
                    in_flight=model.in_flight,
                    error=keeper.state.error,
                )
                for keeper, model in zip(entry.keepers, models, strict=True)
                if keeper.replica is not None
            ],
        )

    async def descriptions(self) -> dict[str, dict[str, Any]]:
        """What the backends that are loaded say of their models, by the models' names."""
        asked = [
            keeper
            for keeper in self._by_key.values()
            if keeper.entry.configured
            and self.scheduler.models[keeper.key].status is Status.READY
            and not keeper.life.said
        ]
        await gatherResults([self._describe(keeper) for keeper in asked])
        return {
            keeper.model.name: keeper.life.said
            for keeper in self._by_key.values()
            if keeper.entry.configured and keeper.engine is not None and keeper.life.said
        }

    def _describe(self, keeper: Keeper) -> Deferred[None]:
        """Fires when it has described its model, or has not in time; it is asked once for all."""
        assert keeper.engine is not None, "a model that is ready has a process"
        life = keeper.life
        waiting: Deferred[None] = Deferred()
        life.curious.append(waiting)
        if len(life.curious) == 1:

            def said(entry: dict[str, Any]) -> None:
                life.said = entry

            def over(_: None) -> None:
                curious, life.curious = life.curious, []
                for one in curious:
                    one.callback(None)

            asking = self.probe.describe(keeper.engine.address)
            asking.addTimeout(DESCRIBE_SEC, self.clock)
            asking.addCallbacks(said, lambda _: None).addCallback(over)
        # One whose client has left is cancelled, and the others wait on.
        return waiting.addErrback(lambda _: None)

    def drain(self) -> Deferred[None]:
        """
        Admit nobody any more, turn away who waits, stop each backend as it falls idle.

        :return: fires when the last process is gone
        """
        self.watchers.tell(None)
        self.watchers.clear()
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
                assert isinstance(ticket, Ticket)
                if ticket.deferred.called:
                    # It went away while those before it in the list were answered.
                    self.finished(ticket.keeper, ticket.load)
                else:
                    ticket.answered().callback(Lease(ticket.keeper, ticket.load))
            elif isinstance(action, Reject):
                ticket = action.ticket
                assert isinstance(ticket, Ticket)
                # One error may be told to many; each needs a traceback of its own.
                if not ticket.deferred.called and not self._moved_on(ticket):
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
                if keeper.replica is None:
                    _log.info("stopping {name}", name=keeper.model.name)
                keeper.tell("stopping")
                keeper.backend.stop()
        self._set_alarm()
        if self._drained is not None and not any(k.engine for k in self._by_key.values()):
            drained, self._drained = self._drained, None
            drained.callback(None)

    def _moved_on(self, ticket: Ticket) -> bool:
        """Whether another server that is ready answers for the one that it waited for in vain."""
        keeper = self._freest(ticket.keeper.entry.keepers)
        if keeper is ticket.keeper or self.scheduler.models[keeper.key].closing:
            return False
        if self.scheduler.models[keeper.key].status is not Status.READY:
            return False
        ticket.keeper = keeper
        self.do(self.scheduler.arrived(keeper.key, ticket, self.clock.seconds(), ticket.load))
        return True

    def _timed_out(self, ticket: Ticket) -> None:
        ticket.timer = None
        patience = self.config.queue_timeout_sec
        self._left(ticket)
        ticket.deferred.errback(
            QueueTimeout(f"The request waited for `{ticket.keeper.model.name}` for {patience:g} s.")
        )

    def _left(self, ticket: Ticket) -> None:
        ticket.answered()
        # The scheduler may have answered already, and the answer be on its way (see `do`).
        model = self.scheduler.models.get(ticket.keeper.key)
        if model is not None and ticket in model.waiting:
            self.do(self.scheduler.left(ticket.keeper.key, ticket, self.clock.seconds()))

    def finished(self, keeper: Keeper, used: bool) -> None:
        """Told by a lease: it has ended."""
        self.do(self.scheduler.finished(keeper.key, self.clock.seconds(), used))
        self.forget(keeper)

    def forget(self, keeper: Keeper) -> None:
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


def _directory(config: Config) -> Names:
    return Names((model.name, model.aliases) for model in config.models)
