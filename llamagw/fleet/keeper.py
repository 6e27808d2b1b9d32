"""
What the manager holds for a model: its backends, and what is known of them.

An `Entry` is a model as it is configured; it has one `Keeper` for its process, or one for each
server elsewhere that answers for it. A keeper is the `llamagw.fleet.backend.World` of its backend:
it has done what the backend needs done, and passes on what the backend tells. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from llamagw.config import LocalModel, ModelConfig, Replica
from llamagw.errors import GatewayError
from llamagw.fleet.backend import Backend, Exit, Running, Watch, make_backend
from llamagw.fleet.elsewhere import Reach, Server, address_of
from llamagw.fleet.health import Health, Readiness
from llamagw.fleet.output import Log
from llamagw.fleet.scheduler import Status

if TYPE_CHECKING:
    from llamagw.fleet.manager import Manager

_log = Logger(namespace="llamagw.manager")

#: Of several servers that answer for one model, the one that is furthest tells how the model is.
_FURTHEST = ("failed", "unloaded", "stopping", "loading", "loaded")


class Engine(Running, Protocol):
    """What a launcher returns: a running backend that can show that it gets on."""

    def progress(self) -> object:
        """Something that changes as long as it gets on."""

    def has_its_port(self) -> bool:
        """Whether what answers at its address is this backend; asked when it seems to be ready."""


class Launches(Protocol):
    """Starts backends; `llamagw.fleet.process.Launcher` is one."""

    def launch(self, model: LocalModel, backend: Backend, log: Log) -> Engine:
        """
        Start the model's backend; ``backend.ended`` follows, some time, whatever happens.

        :param log: gets what it prints
        """


class Change(Struct, frozen=True):
    """
    Word of a model's new state.

    :ivar status: as in `llamagw.fleet.manager.ModelReport`
    :ivar error: why it is failed
    :ivar exit_code: the status that its process ended with, if one did
    """

    model: str
    status: str
    error: str | None = None
    exit_code: int | None = None


class Life:
    """
    One run of a backend, from launch to exit.

    :ivar revoked: it was ended by force
    :ivar said: how it describes its model; None if it has not been asked
    :ivar curious: who waits for that while it is being asked
    """

    __slots__ = ("curious", "revoked", "said")

    def __init__(self) -> None:
        self.revoked = False
        self.said: dict[str, Any] | None = None
        self.curious: list[Deferred[None]] = []


class Entry:
    """
    A model as it is configured.

    :ivar keepers: one for its process, or one for each server elsewhere
    :ivar configured: whether it is what its name stands for; its successor is, after a reload
    :ivar told: the last that those who watch have heard of it
    """

    __slots__ = ("configured", "keepers", "model", "told")

    def __init__(self, model: ModelConfig) -> None:
        self.model = model
        self.keepers: Sequence[Keeper] = ()
        self.configured = True
        self.told = Change(model.name, "unloaded")

    def furthest(self) -> Change:
        """How the model is: as the furthest of its backends."""
        return max((k.state for k in self.keepers), key=lambda s: _FURTHEST.index(s.status))


class Keeper:
    """
    What there is of one backend.

    :ivar key: its name in the scheduler
    :ivar engine: the process, from launch to exit; or the server elsewhere
    :ivar moved: how often bytes were seen to come from it
    :ivar state: how it is, as it was told
    :ivar unloads: to be fired when its process is gone
    """

    def __init__(
        self, manager: Manager, entry: Entry, key: str, log: Log, replica: Replica | None
    ) -> None:
        self.manager = manager
        self.entry = entry
        self.model = entry.model
        self.key = key
        self.log = log
        self.replica = replica
        self.engine: Engine | None = None
        self.life = Life()
        self.moved = 0
        self.exit_code: int | None = None
        self.unloads: list[Deferred[None]] = []
        self.state = Change(entry.model.name, "unloaded")
        self._rest: IDelayedCall | None = None
        self._health: Health | None = None
        self._got_on: object = None
        #: What was said to be wrong since it was last well; None if it never was.
        self._told: set[str] | None = None

    @cached_property
    def backend(self) -> Backend:
        """Made when it is first needed: of thousands of models few ever are."""
        return make_backend(
            self.model.name,
            self,
            self.manager.clock,
            self.manager.config.load_timeout_sec,
            elsewhere=self.replica is not None,
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
        """Tell those who watch what state the model is in now, if that is another one."""
        exit_code = self.exit_code if status in ("unloaded", "failed") else None
        self.state = Change(self.model.name, status, error=error, exit_code=exit_code)
        change = self.entry.furthest()
        if self.entry.configured and change.status != self.entry.told.status:
            self.entry.told = change
            self.manager.watchers.tell(change)

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
        self.life = Life()
        self.exit_code = None
        self._since = self.manager.clock.seconds()
        if self.replica is not None:
            where = address_of(self.model, self.replica)
            self.engine = Server(where, self.replica.url, self.manager.clock, backend)
        else:
            assert not self.model.remote, "each keeper of a remote model has its replica"
            self.engine = self.manager.launcher.launch(self.model, backend, self.log)
        return self.engine

    def await_ready(self, running: Running, backend: Backend) -> Watch:
        assert self.engine is not None
        if isinstance(self.engine, Server):
            return Reach(self.engine, self.manager.probe.diagnose, self.manager.clock, backend)
        return Readiness(
            self.manager.clock,
            self.manager.probe,
            # Whoever answers there may be another process, which is not to have its key.
            address=lambda: running.address._replace(api_key=None),
            progress=self.engine.progress,
            confirm=self.engine.has_its_port,
            timeout=self.manager.config.load_timeout_sec,
            healthy=backend.healthy,
            give_up=backend.give_up,
        )

    def watch_health(self, running: Running, backend: Backend) -> Watch:
        self._health = Health(
            self.manager.clock,
            self.manager.probe,
            address=running.address,
            interval=self.manager.config.health_check_sec,
            progress=self._progress,
            hung=self._hung,
        )
        return self._health

    def check_every(self, interval: float) -> None:
        """Check its health at another interval, in seconds, from now on."""
        if self._health is not None:
            self._health.every(interval)

    def look_again(self) -> None:
        """
        Its server broke off a request: find out how it is, and give it nothing meanwhile.

        What else it is answering goes on.
        """
        # Others may have lost theirs in the same moment; one look will do for all.
        ready = self.manager.scheduler.models[self.key].status is Status.READY
        if ready and isinstance(self.engine, Server) and not self.engine.over:
            self.engine.end("broke off a request")
            self.backend.hung()

    def _hung(self) -> None:
        """The health check's word: it neither answers nor gets on."""
        engine = self.engine
        if not isinstance(engine, Server):
            self.backend.hung()
            return
        engine.end("does not answer any more")
        self.backend.hung()
        self._complain(f"{self.model.name}: {engine.url} does not answer any more")
        # A process that is killed takes its connections along; these nobody else would close.
        self.manager.on_hung(engine.address)

    def _complain(self, what: str) -> None:
        """
        Log what is wrong.

        A server elsewhere is asked again and again; each thing is said once until it is well.
        """
        told = self._told or set()
        if self.replica is None or what not in told:
            _log.error("{what}", what=what)
        self._told = {*told, what}

    # What the backend tells

    def loaded(self) -> None:
        now = self.manager.clock.seconds()
        if self.replica is not None:
            if self._told != set():
                _log.info("{name} is reached at {url}", name=self.model.name, url=self.replica.url)
            self._told = set()
        else:
            sec = now - self._since
            _log.info("{name} is loaded ({sec:.1f} s)", name=self.model.name, sec=sec)
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
            self._complain(failure.message)
            self.tell("failed", failure.message)
        now = self.manager.clock.seconds()
        self.manager.do(self.manager.scheduler.exited(self.key, failure, now))
        self.manager.forget(self)
        self.gone()

    def recovered(self) -> None:
        self.tell("unloaded")
        now = self.manager.clock.seconds()
        self.manager.do(self.manager.scheduler.recovered(self.key, now))
