"""What the tests of the proxy wing share: both ends of a relayed request, in memory, on a Clock.

A `Wire` is what a protocol takes for its transport; the test plays the peer at its other end. It
behaves as Twisted's own TCP transport does where that matters here: closing is told a turn later,
a write after loseConnection still goes out, a reader that stalls pauses the producer once, and
data for a protocol that has paused it waits. A `Bench` joins the real Api, Relay, Pool and Site,
with a manager that gives leases as the test says.
"""

from __future__ import annotations

import http.client
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, NamedTuple

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IPushProducer, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from llamagw.api import Api
from llamagw.config import ModelConfig, Names
from llamagw.errors import Dialect, ModelNotFound
from llamagw.fleet.listeners import Listeners
from llamagw.fleet.manager import Change, ModelReport
from llamagw.fleet.output import Log
from llamagw.net import Address, Connector, Pool
from llamagw.proxy.connections import Limits
from llamagw.proxy.origins import Origins
from llamagw.proxy.relay import Relay
from llamagw.proxy.site import Site

HIGH_WATER = 64 * 1024
CHAT = "/v1/chat/completions"
BACKEND = Address("127.0.0.1", 9001)


@implementer(ITCPTransport, IConsumer, IPushProducer)
class Wire:
    """One connection, as seen by the protocol; the methods named as verbs of the peer are ours.

    :ivar heard: what the peer has read so far
    :ivar waiting: what was written and the peer, which has stalled, has not read
    :ivar paused: whether the protocol has stopped reading
    :ivar ended: how the protocol's side closed: "lose", "half", "abort" or None
    :ivar connected: False once connectionLost was told
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.protocol: Any = None
        self.heard = bytearray()
        self.waiting = bytearray()
        self.most_waiting = 0
        self.stalled = False
        self.paused = False
        self.connected = True
        self.disconnecting = False
        self.ended: str | None = None
        self.producer: Any = None
        self.producer_paused = False
        self._held: list[bytes] = []

    def attach(self, protocol: Any) -> Any:
        self.protocol = protocol
        protocol.makeConnection(self)
        return protocol

    # What the peer does

    def says(self, data: bytes) -> None:
        """Send; what comes while the protocol does not read waits for it."""
        if not self.connected or self.ended == "abort":
            return
        if self.paused:
            self._held.append(data)
        else:
            self.protocol.dataReceived(data)

    def hangs_up(self, reset: bool = False) -> None:
        """Close the connection, cleanly or not."""
        self._lost(Failure(ConnectionLost()) if reset else connectionDone)

    def stalls(self) -> None:
        """Read no more."""
        self.stalled = True

    def reads_on(self) -> None:
        """Read all that waits, and go on reading."""
        self.stalled = False
        self._flush()

    def _flush(self) -> None:
        self.heard += self.waiting
        self.waiting.clear()
        if self.producer is not None and self.producer_paused:
            self.producer_paused = False
            self.producer.resumeProducing()
        if self.disconnecting:
            self.clock.callLater(0, self._maybe_close)

    # What the protocol calls

    def write(self, data: bytes) -> None:
        if not isinstance(data, bytes):
            raise TypeError("Data must be bytes")
        if not self.connected or self.ended in ("half", "abort"):
            return
        if not self.stalled:
            self.heard += data
            return
        self.waiting += data
        self.most_waiting = max(self.most_waiting, len(self.waiting))
        if self.producer is not None and not self.producer_paused:
            self._pause_if_full()

    def _pause_if_full(self) -> None:
        if len(self.waiting) > HIGH_WATER:
            self.producer_paused = True
            self.producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            self.ended = "lose"
            self.clock.callLater(0, self._maybe_close)

    def loseWriteConnection(self) -> None:
        if self.connected and self.ended is None:
            self.ended = "half"

    def abortConnection(self) -> None:
        if self.connected and self.ended != "abort":
            self.disconnecting = True
            self.ended = "abort"
            self.clock.callLater(0, self._lost, Failure(ConnectionAborted()))

    def _maybe_close(self) -> None:
        if self.ended == "lose" and not self.waiting and self.producer is None:
            self._lost(Failure(ConnectionDone()))

    def _lost(self, reason: Failure) -> None:
        if not self.connected:
            return
        self.connected = False
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        self.protocol.connectionLost(reason)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self.producer is not None:
            raise RuntimeError("there is a producer already")
        if not self.connected:
            producer.stopProducing()
            return
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None
        self.producer_paused = False
        if self.disconnecting:
            self.clock.callLater(0, self._maybe_close)

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        if self.connected and not self.disconnecting:
            self.paused = False
            self.clock.callLater(0, self._release)

    def _release(self) -> None:
        while self._held and not self.paused and self.connected:
            self.protocol.dataReceived(self._held.pop(0))

    def stopProducing(self) -> None:
        self.loseConnection()

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.7", 40000)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 8000)

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def getTcpNoDelay(self) -> bool:
        return True

    def setTcpKeepAlive(self, enabled: bool) -> None:
        pass

    def getTcpKeepAlive(self) -> bool:
        return False


class Answer(NamedTuple):
    """One HTTP answer, as the standard library understood it."""

    status: int
    reason: str
    headers: Any  # an email.message.Message: case is ignored, `get_all` for repeated ones
    body: bytes
    whole: bool

    def json(self) -> Any:
        return json.loads(self.body)


class _Bytes(io.BytesIO):
    def close(self) -> None:
        """Not yet: the next answer is in it too."""


def answers(data: bytes, *methods: str) -> list[Answer]:
    """All answers in what a client heard; `methods` are those that it asked with, GET else."""
    stream = _Bytes(data)
    sock: Any = SimpleNamespace(makefile=lambda *_: stream)
    found: list[Answer] = []
    while stream.tell() < len(data):
        method = methods[len(found)] if len(found) < len(methods) else "GET"
        response = http.client.HTTPResponse(sock, method=method)
        response.begin()
        whole = True
        try:
            body = response.read()
        except http.client.IncompleteRead as error:
            body, whole = error.partial, False
        found.append(Answer(response.status, response.reason, response.headers, body, whole))
    return found


def request(
    body: bytes | Mapping[str, object] | None = None,
    path: str = CHAT,
    method: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
    version: str = "HTTP/1.1",
) -> bytes:
    """The bytes of a request."""
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    method = method or ("GET" if content is None else "POST")
    lines = [f"{method} {path} {version}", "Host: gateway"]
    if content is not None:
        lines.append(f"Content-Length: {len(content)}")
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (content or b"")


def chunked(pieces: Iterable[bytes]) -> bytes:
    """A chunked body, whole."""
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces if p) + b"0\r\n\r\n"


def response(
    body: bytes = b"{}", status: str = "200 OK", headers: Iterable[tuple[str, str]] = ()
) -> bytes:
    """The bytes of an answer with a Content-Length."""
    lines = [f"HTTP/1.1 {status}", *(f"{n}: {v}" for n, v in headers)]
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def cut_at(data: bytes, places: Iterable[int]) -> list[bytes]:
    """`data` in pieces, cut at those places that are inside of it."""
    edges = [0, *sorted({p for p in places if 0 < p < len(data)}), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


class FakeLease:
    """Counts what becomes of it."""

    def __init__(self, address: Address, tries: int, **model: Any) -> None:
        self.address = address
        self.model = ModelConfig(name="fake", model_path="/dev/null", **model)
        self.revoked = False
        self.tries = tries
        self.releases = 0
        self.moves = 0

    def moved(self) -> None:
        self.moves += 1

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
        self.names = list(names)
        self.reports = [
            ModelReport(id=n, status="unloaded", port=None, in_flight=0, waiting=0, last_used=None)
            for n in self.names
        ]
        #: What the engines of loaded models say of them.
        self.said: dict[str, dict[str, Any]] = {}
        #: Orders of the management, such as ("load", "small"); answered by `orders_done`.
        self.orders: list[tuple[object, ...]] = []
        self.orders_done: Deferred[None] = succeed(None)
        self.watchers = Listeners[Change | None]()
        self.logs = {n: Log(n) for n in self.names}
        self.config = SimpleNamespace(
            max_loaded_models=2,
            default_model=None,
            models=[ModelConfig(name=n, model_path=f"/models/{n}.gguf") for n in self.names],
        )
        self.directory = Names((name, []) for name in self.names)
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
        lease = FakeLease(self.address, self.tries, **self.model)
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
        own = self.directory.find(name)
        if own is None:
            raise ModelNotFound(name, self.names)
        self.asked.append(name)
        if self.holding:
            waiter: Deferred[Any] = Deferred(self._left)
            self.waiting.append(waiter)
            return waiter
        lease = FakeLease(self.address, self.tries, **self.model)
        self.leases.append(lease)
        return succeed(lease)

    def own_name(self, name: str) -> str:
        own = self.directory.find(name)
        if own is None:
            raise ModelNotFound(name, self.names)
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

    async def aftermath(self, lease: FakeLease) -> bool:
        self.mourned.append(lease)
        if self.gone is not None:
            await self.gone
        return self.dead

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


def event(data: bytes) -> bytes:
    """One chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class BenchTestCase(SynchronousTestCase):
    """Has a bench, and knows what was logged above debug while the test ran."""

    def setUp(self) -> None:
        self.bench = Bench()
        self.events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self._observe)
        self.addCleanup(globalLogPublisher.removeObserver, self._observe)

    def _observe(self, event: dict[str, Any]) -> None:
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
        dialect: Dialect = Dialect.OPENAI,
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
        if dialect is Dialect.ANTHROPIC:
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
