"""
The gateway's proxy in memory: `Bench` joins the real Api, Relay, Pool and Site.

They stand on the fleet's real Dispatcher. The test plays the client and the backend at both ends
(`Wire`), and says how it goes with the engines (`Engines`), whose processes are in the mind only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent, LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from llamagw.api import Api, Charts, Configuration, Devices, Live, Metrics
from llamagw.config import Config, ConfigError, LocalModel, ModelConfig
from llamagw.dialects import ANTHROPIC, OPENAI, Dialect
from llamagw.fleet import ALIKE, Dispatcher, Lease, Share
from llamagw.gate import Gate, Tally, UsageFile
from llamagw.launch import Log, Watch
from llamagw.listeners import Listeners
from llamagw.net import Connector, Pool
from llamagw.observe import Activity, Begin, History, Record
from llamagw.proxy.connections import Limits
from llamagw.proxy.origins import Origins
from llamagw.proxy.relay import Relay
from llamagw.proxy.site import Site
from tests.support.configs import configuration, local_model
from tests.support.fleet import FakeLaunchers, FakeProbe, FakeRun
from tests.support.messages import STREAM_HEAD, Answer, answers, event, request
from tests.support.wire import BACKEND, Wire


class EngineRun(FakeRun):
    """
    The life of an engine in the mind only: loaded and gone at once, unless the test holds it up.

    Nothing of it happens within a call, as with a process.

    :ivar mourned: how often it was asked what became of it, when it had broken off a request
    """

    def __init__(self, engines: Engines, model: LocalModel, log: Log, port: int) -> None:
        super().__init__(engines, model, log, port)
        self._engines = engines
        self.loading: Loading | None = None
        self.mourned = 0
        self._unsure: list[Deferred[bool]] = []

    def await_ready(self, ready: Callable[[], None], give_up: Callable[[], None]) -> Watch:
        self.loading = Loading(self._engines, self, ready, give_up)
        return self.loading

    def stop(self) -> None:
        super().stop()
        if not self._engines.lingers:
            self._engines.clock.callLater(0, self.end, "exited with status 0", "", 0)

    def kill(self, why: str) -> None:
        super().kill(why)
        self._engines.clock.callLater(0, self.end, "was killed by SIGKILL")

    def broke_off(self) -> Deferred[bool]:
        self.mourned += 1
        if not self._engines.slow_to_die:
            return super().broke_off()
        unsure: Deferred[bool] = Deferred()
        self._unsure.append(unsure)
        return unsure

    def end(
        self,
        how: str = "exited with status 1",
        last_words: str = "",
        code: int | None = None,
        out_of_memory: bool = False,
    ) -> None:
        if not self.is_over:
            super().end(how, last_words, code, out_of_memory)
            unsure, self._unsure = self._unsure, []
            for one in unsure:
                if not one.called:
                    one.callback(True)


class Loading:
    """Leads to ``ready`` in the next turn, or when the engines are held up no more."""

    def __init__(
        self,
        engines: Engines,
        run: EngineRun,
        ready: Callable[[], None],
        give_up: Callable[[], None],
    ) -> None:
        self._run = run
        self._ready = ready
        self._clock = engines.clock
        self._timers = [engines.clock.callLater(engines.load_timeout, give_up)]
        if not engines.holding:
            self.finish()

    def finish(self) -> None:
        self._timers.append(self._clock.callLater(0, self._ready))

    def stop(self) -> None:
        self._run.loading = None
        for timer in self._timers:
            if timer.active():
                timer.cancel()


class Engines(FakeLaunchers):
    """
    Launches `EngineRun`\\ s; remote servers it reaches as ever.

    :ivar holding: whether a load that begins does not finish
    :ivar lingers: whether an engine that is to stop does not, until the test ends it
    :ivar slow_to_die: whether it is known only when an engine has ended what became of it
    """

    runs: list[EngineRun]  # type: ignore[assignment]

    def __init__(self, probe: FakeProbe, clock: IReactorTime, load_timeout: float) -> None:
        super().__init__(probe, clock, load_timeout)
        self.holding = self.lingers = self.slow_to_die = False

    def make_run(self, model: LocalModel, log: Log) -> EngineRun:
        return EngineRun(self, model, log, BACKEND.port + len(self.runs))

    def last(self, name: str) -> EngineRun:
        run = super().last(name)
        assert isinstance(run, EngineRun)
        return run


class Watched(Dispatcher):
    """
    The real one, which also keeps a list of what the proxy and the management want of it.

    :ivar asked: the names that leases were asked for, loads among them
    :ivar looked: those of them that were asked for without being loaded for it
    :ivar failed: the leases that were said to have failed, with each that was asked for
    :ivar given: the leases that were given
    :ivar orders: of the management, such as ("load", "small")
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.forget()

    def forget(self) -> None:
        """Begin the lists anew."""
        self.asked: list[str] = []
        self.looked: list[str] = []
        self.failed: list[list[Lease]] = []
        self.given: list[Lease] = []
        self.orders: list[tuple[object, ...]] = []

    def acquire(
        self,
        name: str,
        load: bool = True,
        failed: Sequence[Lease] = (),
        anyway: bool = False,
        share: Share | None = ALIKE,
    ) -> Deferred[Lease]:
        deferred = super().acquire(name, load, failed, anyway, share)
        self.asked.append(name)
        self.failed.append([*failed])
        if not load:
            self.looked.append(name)
        return deferred.addCallback(self._give)

    def _give(self, lease: Lease) -> Lease:
        self.given.append(lease)
        return lease

    def load(self, name: str, anyway: bool = False) -> Deferred[None]:
        self.orders.append(("load", name, anyway) if anyway else ("load", name))
        return super().load(name, anyway)

    def unload(self, name: str, force: bool = False) -> Deferred[None]:
        gone = super().unload(name, force)
        self.orders.append(("unload", name, force))
        return gone


class Service:
    """What is asked about the configuration, of which there is no file."""

    def described(self, only: str | None) -> Deferred[bytes]:
        return succeed(b"{}")

    def check(self, text: bytes) -> Deferred[Any]:
        return self.reloaded()

    def reloaded(self) -> Deferred[Any]:
        return fail(ConfigError([]))


class Bench:
    """
    The whole proxy wing on its fleet, between a client and a backend that the test plays.

    :param names: the models: local ones by their names, or as they are configured
    :param loaded: whether the local ones are loaded from the start
    :param trace: begins the spans of a request, if it has any
    :param gate: lets requests in; None if everybody may do everything
    :param folder: for the file of what keys have used; None for no file
    :param keys: more of the configuration
    """

    def __init__(
        self,
        names: Iterable[str | ModelConfig] = ("small", "org/big"),
        max_body: int = 1024 * 1024,
        max_connections: int = 1000,
        keepalive: float = 0,
        access_log: bool = False,
        max_bodies: int = 16 * 1024 * 1024,
        origins: Iterable[str] = ("*",),
        poison: float = 0,
        loaded: bool = True,
        trace: Begin | None = None,
        gate: Gate | None = None,
        folder: str | None = None,
        **keys: Any,
    ) -> None:
        self.reactor = MemoryReactorClock()
        self.keys = keys
        self.config = self._configuration(names)
        self.probe = FakeProbe(well=True)
        self.engines = Engines(self.probe, self.reactor, self.config.load_timeout_sec)
        self.dispatcher = Watched(self.config, self.engines, self.probe, self.reactor)
        self.pool = Pool(self.reactor, Connector(self.reactor))
        self.dispatcher.on_hung = partial(self.pool.break_off, "it does not answer any more")
        self.relay = Relay(self.dispatcher, self.pool, self.reactor, keepalive, poison)
        self.devices = Devices(self.dispatcher.totals, self.reactor)
        self.metrics = Metrics(
            self.dispatcher,
            self.devices,
            lambda: len(self.site.connections.open),
            "memory",
            self.reactor,
        )
        self.history = History(self.metrics.counts, lambda: self.dispatcher.totals()[:4])
        self.charts = Charts(self.history, self.reactor, self.wall)
        #: What is asked about the configuration, in the place of `llamagw.service.Gateway`.
        self.gateway: Any = Service()
        self.activity = Activity(self.config.activity_size, self.relay.capture)
        self.records = Listeners[Record]()
        self.live = Live(
            self.dispatcher,
            lambda: self.site.under_way(),
            self.activity,
            self.records,
            self.reactor,
        )
        counted = self.metrics.counts.count_key
        file = UsageFile(folder)
        self.tally = Tally(file, counted, self.reactor, maybeDeferred, self.wall)
        self.api = Api(
            self.dispatcher,
            self.relay,
            self.reactor,
            self.metrics,
            self.activity,
            self.live,
            self.devices,
            self.charts,
            Configuration(lambda: self.gateway),
            self.tally,
        )
        self.records.add(self.metrics.counts.count)
        self.records.add(self.activity.add)
        self.site = Site(
            self.api.tree,
            self.api.table,
            clock=self.reactor,
            limits=Limits(max_body, max_bodies, 60, 600, max_connections, Origins(origins)),
            records=self.records,
            access_log=access_log,
            trace=trace,
        )
        self.site.connections.gate = gate
        if gate is not None:
            self.records.add(self.tally.count)
            gate.meters.used = self.tally.used
        self.accepted = 0
        self.dispatcher.begin()
        self.settle()
        if loaded:
            self.load()

    def wall(self) -> float:
        """Seconds since the epoch, as far as charts are concerned."""
        return 1_800_000_000 + self.reactor.seconds()

    def _configuration(self, models: Iterable[str | ModelConfig]) -> Config:
        named = [local_model(m) if isinstance(m, str) else m for m in models]
        return configuration(*named, **{"max_loaded_models": 2, **self.keys})

    # The life of the engines

    def load(self, *names: str) -> None:
        """Have models loaded, all if none is named, as if that had been so from the start."""
        for name in names or [m.name for m in self.config.models if not m.remote]:
            self.dispatcher.load(name)
            self.settle()
        self.dispatcher.forget()

    def reload(self, *models: str | ModelConfig) -> None:
        """Have the configuration name these models instead, and all of them be ready."""
        self.config = self._configuration(models)
        self.dispatcher.apply(self.config)
        self.settle()
        for model in self.config.models:
            if not model.remote:
                Dispatcher.acquire(self.dispatcher, model.name).addCallback(Lease.release)
                self.settle()

    def shape(self, **keys: Any) -> None:
        """Have the configuration say this of the model `small`."""
        self.reload(local_model("small", **keys), *self.config.models[1:])

    def hold(self) -> None:
        """Unload what is idle; from now on a load does not finish before `ready`."""
        for report in self.dispatcher.report():
            if report.status == "loaded" and not report.in_flight and not report.elsewhere:
                Dispatcher.unload(self.dispatcher, report.id)
        self.settle()
        self.hold_loads()

    def hold_loads(self) -> None:
        """From now on a load does not finish before `ready`."""
        self.engines.holding = True

    def ready(self) -> None:
        """The loads that were held up are done."""
        for run in self.engines.runs:
            if run.loading is not None:
                run.loading.finish()
        self.settle()

    def go_on(self) -> None:
        """Hold up no load any more."""
        self.engines.holding = False
        self.ready()

    def crash(self, name: str = "small", *how: Any) -> None:
        """The engine of a model, loaded or not, has ended; how, as `FakeRun.end` takes it."""
        self.engines.last(name).end(*(how or ("was killed by SIGKILL",)))

    # What the fleet's books say

    @property
    def asked(self) -> list[str]:
        """The names that leases were asked for."""
        return self.dispatcher.asked

    @property
    def in_flight(self) -> int:
        """Leases that are out, those on instances of models that a reload has changed too."""
        return sum(model.in_flight for model in self.dispatcher.scheduler.models.values())

    @property
    def waiting(self) -> int:
        """Those who wait for a model."""
        return sum(len(model.waiting) for model in self.dispatcher.scheduler.models.values())

    @property
    def leases(self) -> tuple[int, int]:
        """How many were ever given, and how many of them are out."""
        return len(self.dispatcher.given), self.in_flight

    # Who is at both ends

    def client(self, *says: bytes) -> Wire:
        """A client that has connected, and what it says first."""
        wire = Wire(self.reactor)
        wire.attach(self.site.buildProtocol(wire.getPeer()))
        for data in says:
            wire.says(data)
        return wire

    def asks(self, *says: bytes) -> list[Answer]:
        """What a client is answered that gets its answer from the gateway itself."""
        wire = self.client(*says)
        self.settle()
        return answers(bytes(wire.heard))

    @property
    def connects(self) -> int:
        """Connections to backends that were ever asked for."""
        return len(self.reactor.tcpClients)

    def wanted(self) -> bool:
        """Whether the gateway waits for a connection; those that it has given up do not count."""
        while self.accepted < self.connects:
            factory: Any = self.reactor.tcpClients[self.accepted][2]
            if not factory._onConnection.called:
                return True
            self.accepted += 1
        return False

    def backend(self) -> Wire:
        """The next connection to a backend, accepted."""
        factory = self.reactor.tcpClients[self.accepted][2]
        self.accepted += 1
        wire = Wire(self.reactor)
        wire.attach(factory.buildProtocol(IPv4Address("TCP", BACKEND.host, BACKEND.port)))
        return wire

    def refuse(self, error: Exception) -> None:
        """The next connection to a backend does not come about."""
        factory = self.reactor.tcpClients[self.accepted][2]
        connector = self.reactor.connectors[self.accepted]
        self.accepted += 1
        factory.clientConnectionFailed(connector, Failure(error))

    def streaming(self) -> tuple[Wire, Wire]:
        """A client and a backend in the middle of a stream of events."""
        client = self.client(request({"model": "small", "stream": True}))
        backend = self.backend()
        backend.says(STREAM_HEAD + event(b"data: 1\n\n"))
        return client, backend

    def settle(self) -> None:
        """Let everything happen that happens at once."""
        for _ in range(10):
            self.reactor.advance(0)


class BenchTestCase(SynchronousTestCase):
    """Has a bench, and knows what was logged above debug while the test ran."""

    def setUp(self) -> None:
        self.bench = Bench()
        self.events: list[dict[str, Any]] = []
        observer: Any = self._observe  # an ILogObserver, which takes a decorator to say so
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def _observe(self, event: LogEvent) -> None:
        if event.get("log_level", LogLevel.info) > LogLevel.debug:
            self.events.append(event)

    def assert_quiet(self) -> None:
        """Nothing was logged that an operator would see, and no error at all."""
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual([e for e in self.events if e.get("log_namespace") != "warnings"], [])

    def assert_envelope(
        self,
        answer: Answer,
        status: int,
        dialect: Dialect = OPENAI,
        open_to_all: bool = True,
    ) -> Mapping[str, Any]:
        """It is an error as the dialect has it; returns what is inside.

        :param open_to_all: whether a page of any origin may read it
        """
        self.assertEqual(answer.status, status)
        self.assertEqual(answer.headers["Content-Type"], "application/json")
        allowed = answer.headers["Access-Control-Allow-Origin"]
        self.assertEqual(allowed, "*" if open_to_all else None)
        self.assertTrue(answer.whole)
        error: Mapping[str, Any] = answer.json()["error"]
        if dialect is ANTHROPIC:
            self.assertEqual(answer.json()["type"], "error")
            self.assertEqual(set(error), {"type", "message"})
        else:
            self.assertEqual(set(error), {"message", "type", "param", "code"})
        self.assertIsInstance(error["message"], str)
        self.assertGreater(len(error["message"]), 10)
        return error

    def assert_over(self, backend: Wire) -> None:
        """The gateway has dropped this backend's connection, and its one lease, once."""
        self.bench.settle()
        self.assertEqual(backend.ended, "abort")
        self.assertEqual(self.bench.leases, (1, 0))


#: For tests that only want a handler called.
Handler = Callable[[Any], object]
