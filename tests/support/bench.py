"""
The gateway's proxy in memory: `Bench` joins the real Api, Relay, Pool and Site.

The test plays the client and the backend at both ends (`Wire`); a manager that gives leases as the
test says takes the fleet's place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent, LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from llamagw.api import Api
from llamagw.config import ModelConfig, Names
from llamagw.dialects import ANTHROPIC, OPENAI, Dialect
from llamagw.errors import ModelNotFound
from llamagw.fleet import Change, ModelReport
from llamagw.launch import Log
from llamagw.listeners import Listeners
from llamagw.net import Connector, Pool
from llamagw.proxy.connections import Limits
from llamagw.proxy.origins import Origins
from llamagw.proxy.relay import Relay
from llamagw.proxy.site import Site
from tests.support.configs import local_model, remote_model
from tests.support.messages import STREAM_HEAD, Answer, answers, event, request
from tests.support.wire import BACKEND, Wire


class FakeLease:
    """Counts what becomes of it."""

    def __init__(self, manager: FakeManager, **model: Any) -> None:
        self.manager = manager
        self.address = manager.address
        replicas = model.pop("replicas", None)
        self.others = bool(replicas)
        self.relaunches = not replicas
        self.model: ModelConfig = (
            local_model("fake", **model)
            if replicas is None
            else remote_model("fake", *replicas, **model)
        )
        self.revoked = False
        self.tries = manager.tries
        self.releases = 0
        self.moves = 0

    def moved(self) -> None:
        self.moves += 1

    def broke_off(self) -> Deferred[bool]:
        self.manager.mourned.append(self)
        gone = succeed(None) if self.manager.gone is None else self.manager.gone
        return gone.addCallback(lambda _: self.manager.dead or self.others)

    def release(self) -> None:
        self.releases += 1


class FakeManager:
    """Gives a lease at once, or, after `hold`, when told to.

    :ivar asked: the names that leases were asked for
    :ivar leases: those given
    :ivar left: how many gave up waiting
    :ivar mourned: leases whose backend broke off; whoever tells waits for `gone`, if that is set
    """

    def __init__(self, names: Iterable[str]) -> None:
        names = list(names)
        self.reports = [
            ModelReport(id=n, status="unloaded", port=None, in_flight=0, waiting=0, last_used=None)
            for n in names
        ]
        #: What the engines of loaded models say of them.
        self.said: dict[str, dict[str, Any]] = {}
        #: Orders of the management, such as ("load", "small"); answered by `orders_done`.
        self.orders: list[tuple[object, ...]] = []
        self.orders_done: Deferred[None] = succeed(None)
        self.watchers = Listeners[Change | None]()
        self.logs = {n: Log(n) for n in names}
        self.config = SimpleNamespace(
            max_loaded_models=2,
            default_model=None,
            models=[local_model(n) for n in names],
        )
        self.names = Names((name, []) for name in names)
        #: The names of those that were asked for without being loaded for it.
        self.looked: list[str] = []
        #: More of the configuration of the model that a lease is for.
        self.model: dict[str, Any] = {}
        #: Where its backend is, and how many of them are worth a try.
        self.address, self.tries = BACKEND, 2
        #: The leases that were said to have failed, with each that was asked for.
        self.failed: list[list[object]] = []
        self.asked: list[str] = []
        self.leases: list[FakeLease] = []
        self.waiting: list[Deferred[Any]] = []
        self.left = 0
        self.mourned: list[FakeLease] = []
        self.gone: Deferred[None] | None = None
        #: Whether the processes of backends that broke off are gone then.
        self.dead = False
        self.holding = False

    def hold(self) -> None:
        """Let the next ones wait."""
        self.holding = True

    def admit(self) -> FakeLease:
        """Give the lease that was waited for longest."""
        lease = FakeLease(self, **self.model)
        self.leases.append(lease)
        self.waiting.pop(0).callback(lease)
        return lease

    def reject(self, error: Exception) -> None:
        """Turn away who has waited longest."""
        self.waiting.pop(0).errback(error)

    def acquire(self, name: str, load: bool = True, failed: Sequence[object] = ()) -> Deferred[Any]:
        self.failed.append([*failed])
        if not load:
            self.looked.append(name)
        own = self.names.find(name)
        if own is None:
            raise ModelNotFound(name, self.names.exact)
        self.asked.append(name)
        if self.holding:
            waiter: Deferred[Any] = Deferred(self._left)
            self.waiting.append(waiter)
            return waiter
        lease = FakeLease(self, **self.model)
        self.leases.append(lease)
        return succeed(lease)

    def own_name(self, name: str) -> str:
        own = self.names.find(name)
        if own is None:
            raise ModelNotFound(name, self.names.exact)
        return own

    def load(self, name: str) -> Deferred[None]:
        self.orders.append(("load", self.own_name(name)))
        return self.orders_done

    def unload(self, name: str, force: bool) -> Deferred[None]:
        self.orders.append(("unload", self.own_name(name), force))
        return self.orders_done

    def watch(self, tell: Callable[[Change | None], object]) -> Callable[[], None]:
        return self.watchers.add(tell)

    def log(self, name: str) -> Log:
        return self.logs[self.own_name(name)]

    async def descriptions(self) -> dict[str, dict[str, Any]]:
        return self.said

    def _left(self, waiter: Deferred[Any]) -> None:
        self.waiting.remove(waiter)
        self.left += 1

    @property
    def catalogue(self) -> FakeManager:
        return self

    def report(self, busy: bool = False) -> list[ModelReport]:
        if not busy:
            return self.reports
        return [r for r in self.reports if r.elsewhere or r.port is not None or r.waiting]


class Bench:
    """The gateway's whole proxy wing between a client and a backend that the test plays."""

    def __init__(
        self,
        names: Iterable[str] = ("small", "org/big"),
        max_body: int = 1024 * 1024,
        max_connections: int = 1000,
        keepalive: float = 0,
        access_log: bool = False,
        max_bodies: int = 16 * 1024 * 1024,
        origins: Iterable[str] = ("*",),
        poison: float = 0,
    ) -> None:
        self.reactor = MemoryReactorClock()
        self.manager = FakeManager(names)
        self.pool = Pool(self.reactor, Connector(self.reactor))
        manager: Any = self.manager
        self.relay = Relay(manager, self.pool, self.reactor, keepalive, poison)
        self.api = Api(manager, self.relay, self.reactor)
        self.site = Site(
            self.api.tree,
            self.api.table,
            clock=self.reactor,
            limits=Limits(max_body, max_bodies, 60, 600, max_connections, Origins(origins)),
            access_log=access_log,
        )
        self.accepted = 0

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
        self.assertEqual([lease.releases for lease in self.bench.manager.leases], [1])


#: For tests that only want a handler called.
Handler = Callable[[Any], object]
