"""The promises of llamagw.net.endpoints, kept alike by stock Twisted and by uvloop's transports.

A process has one reactor, so the classes here promise for whichever is installed, and
`InChildrenTests` runs this file once more in a child process whose reactor runs on uvloop.
"""

# ruff: noqa: ASYNC240 (a test may wait for its own small files)

from __future__ import annotations

import datetime
import importlib.util
import ipaddress
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import defer, error, reactor
from twisted.internet import ssl as twisted_ssl
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IListeningPort,
    IPushProducer,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
    ITCPTransport,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface import implementer
from zope.interface.verify import verifyObject

from llamagw.config import TlsEntry, endpoint_string
from llamagw.net import endpoints, read_tls

ROOT = Path(__file__).resolve().parents[2]
IN_CHILD = os.environ.get("LLAMAGW_TEST_CHILD")
ON_UVLOOP = IN_CHILD == "uvloop"
MEGABYTE = 1024 * 1024
BIG = bytes(range(256)) * (5 * MEGABYTE // 256)
# What a stalled connection can take: our 64 KiB, one write above it, and the kernel's buffers.
STALLED_BOUND = 24 * MEGABYTE


class Talk(Protocol):
    """Records what it receives and why it ended, and lets a test wait for either."""

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost: Deferred[BaseException] = Deferred()
        self.losses = 0
        self._waiting: list[tuple[int, Deferred[bytes]]] = []
        self.on_data: Any = None
        self.on_connect: Any = None
        self.in_call = False

    def connectionMade(self) -> None:
        if self.on_connect is not None:
            self.on_connect(self)

    def until(self, count: int) -> Deferred[bytes]:
        """Fire once `count` bytes have come."""
        waiter: Deferred[bytes] = Deferred()
        self._waiting.append((count, waiter))
        self._look()
        return waiter

    def _look(self) -> None:
        for count, waiter in list(self._waiting):
            if len(self.received) >= count:
                self._waiting.remove((count, waiter))
                waiter.callback(bytes(self.received[:count]))

    def dataReceived(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        self.received += data
        if self.on_data is not None:
            self.on_data(self, data)
        self._look()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert not self.in_call, "connectionLost from within a call on the transport"
        self.losses += 1
        assert reason.value is not None
        self.lost.callback(reason.value)


@implementer(IHalfCloseableProtocol)
class HalfCloseable(Talk):
    """A Talk that hears of each half."""

    def __init__(self) -> None:
        super().__init__()
        self.read_lost: Deferred[None] = Deferred()
        self.write_lost: Deferred[None] = Deferred()

    def readConnectionLost(self) -> None:
        self.read_lost.callback(None)

    def writeConnectionLost(self) -> None:
        self.write_lost.callback(None)


class Talks(Factory):
    """Builds Talks, and lets a test wait for the next that is connected."""

    noisy = False

    def __init__(self, kind: type[Talk] = Talk, on_connect: Any = None, on_data: Any = None):
        self.kind, self.on_connect, self.on_data = kind, on_connect, on_data
        self.built: list[Talk] = []
        self.connected: defer.DeferredQueue[Talk] = defer.DeferredQueue()
        self.peers: list[Any] = []
        self.started = self.stopped = 0

    def doStart(self) -> None:
        self.started += 1

    def doStop(self) -> None:
        self.stopped += 1

    def buildProtocol(self, addr: Any) -> Talk:
        self.peers.append(addr)
        talk = self.kind()
        talk.on_data = self.on_data

        def connected(talk: Talk) -> None:
            if self.on_connect is not None:
                self.on_connect(talk)
            self.connected.put(talk)

        talk.on_connect = connected
        self.built.append(talk)
        return talk


class NoProtocol(Talks):
    """Wants nobody."""

    def buildProtocol(self, addr: Any) -> Any:
        return None


class Brittle(Talks):
    """Cannot even build."""

    def buildProtocol(self, addr: Any) -> Any:
        raise ZeroDivisionError("in buildProtocol")


@implementer(IPushProducer)
class Firehose:
    """Writes as long as it may, a chunk each turn of the reactor, and counts."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.chunk = b"x" * 65536
        self.written = 0
        self.most = STALLED_BOUND
        self.running = True
        self.stopped = False
        self.done: Deferred[None] = Deferred()

    def run(self) -> None:
        if not self.running or self.stopped:
            return
        if self.written >= self.most:
            self.stopped = True
            self.transport.unregisterProducer()
            self.done.callback(None)
            return
        self.written += len(self.chunk)
        self.transport.write(self.chunk)
        reactor.callLater(0, self.run)

    def pauseProducing(self) -> None:
        self.running = False

    def resumeProducing(self) -> None:
        if not self.running:
            self.running = True
            reactor.callLater(0, self.run)

    def stopProducing(self) -> None:
        self.stopped = True


class Spoon:
    """A pull producer: one chunk for each resumeProducing."""

    def __init__(self, transport: Any, chunks: int) -> None:
        self.transport, self.left = transport, chunks
        self.stopped = False

    def resumeProducing(self) -> None:
        self.left -= 1
        self.transport.write(b"s" * 10_000)
        if not self.left:
            self.transport.unregisterProducer()

    def stopProducing(self) -> None:
        self.stopped = True


if TYPE_CHECKING:
    # What it is mixed into. Were it one at run time, trial would run the promises by themselves.
    Mixin = TestCase
else:
    Mixin = object


def number_of(port: IListeningPort) -> int:
    """The number of a TCP port."""
    host = port.getHost()
    assert isinstance(host, IPv4Address | IPv6Address)
    return host.port


def path_of(port: IListeningPort) -> str:
    """The path of a UNIX socket."""
    host = port.getHost()
    assert isinstance(host, UNIXAddress)
    return os.fsdecode(host.name or b"")


class Over(Mixin):
    """How a pair is joined, and the promises that hold however it is."""

    timeout = 30
    tcp = False

    def description(self) -> str:
        raise NotImplementedError

    def client(self, port: IListeningPort) -> IStreamClientEndpoint:
        raise NotImplementedError

    def run(self, result: unittest.TestResult | None = None) -> Any:
        if reactor.running:  # by pytest-twisted, so that trial cannot
            self.skip = "a child runs these instead"
        return super().run(result)

    def setUp(self) -> None:
        self.assertEqual(endpoints.uses_uvloop(reactor), ON_UVLOOP)
        self._ends: list[Talk] = []

    async def listen(
        self, factory: Any, description: str | None = None, files: TlsEntry | None = None
    ) -> IListeningPort:
        description = description or self.description()
        tls = read_tls(description, files)
        endpoint = endpoints.server_endpoint(reactor, description, tls)
        port = self.successResultOf(endpoint.listen(factory))
        self.addCleanup(port.stopListening)
        return port

    async def pair(
        self, server: Any = None, client: Any = None
    ) -> tuple[Talk, Talk, IListeningPort]:
        """Connect two Talks; both ends are gone again when the test is done."""
        servers = server or Talks()
        clients = client or Talks()
        port = await self.listen(servers)
        near = await self.connect(port, clients)
        far = await servers.connected.get()
        for end in (near, far):
            self.addCleanup(self.end, end)
        return near, far, port

    async def connect(self, port: IListeningPort, clients: Any) -> Talk:
        near = await self.client(port).connect(clients)
        assert isinstance(near, Talk)
        return near

    async def ended(self, talk: Any, reason: type[Exception]) -> None:
        """Wait for the end of a connection and look at why it ended."""
        self.assertIsInstance(await talk.lost, reason)
        self.assertEqual(talk.losses, 1)

    def end(self, talk: Talk) -> Deferred[BaseException] | None:
        if talk.lost.called:
            self.assertEqual(talk.losses, 1)
            return None
        talk.transport.abortConnection()
        return talk.lost

    def folder(self) -> Path:
        """A folder for this test; in /tmp, as the path of a UNIX socket has to be short."""
        folder = tempfile.mkdtemp(prefix="llamagw-")
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def certificate(self) -> tuple[str, str]:
        """Write a key and a self-signed certificate for localhost; return their paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        now = datetime.datetime.now(datetime.timezone.utc)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        cert = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(key, hashes.SHA256())
        )
        folder = self.folder()
        (folder / "key.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        (folder / "cert.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        return str(folder / "key.pem"), str(folder / "cert.pem")

    async def turns(self) -> None:
        """Let whatever the reactor has ready happen: a round trip over a connection of its own."""
        echo = Talks(on_data=lambda talk, data: talk.transport.write(data))
        near, _, _ = await self.pair(server=echo)
        for _ in range(3):
            near.received.clear()
            near.transport.write(b"tick")
            await near.until(4)
        near.transport.loseConnection()
        await near.lost

    async def test_big_both_ways(self) -> None:
        """Five megabytes come back as they went."""
        near, _, _ = await self.pair(
            server=Talks(on_data=lambda talk, data: talk.transport.write(data))
        )
        near.transport.write(BIG)
        self.assertTrue(await near.until(len(BIG)) == BIG)

    async def test_write_sequence(self) -> None:
        """writeSequence sends its pieces in order; only bytes are taken."""
        near, far, _ = await self.pair()
        near.transport.writeSequence([b"one ", b"", b"two ", b"three"])
        near.transport.write(b"")
        near.transport.write(b" four")
        self.assertEqual(await far.until(18), b"one two three four")
        self.assertRaises(TypeError, near.transport.write, "text")
        self.assertRaises(TypeError, near.transport.writeSequence, ["text"])

    async def test_lose_connection_flushes(self) -> None:
        """All that was written arrives before the end; what is written afterwards does not."""
        near, far, _ = await self.pair()
        near.transport.write(BIG)
        near.in_call = True
        near.transport.loseConnection()
        near.transport.loseConnection()
        near.in_call = False
        self.assertTrue(near.transport.disconnecting)
        await self.ended(far, error.ConnectionDone)
        self.assertTrue(bytes(far.received) == BIG)
        await self.ended(near, error.ConnectionDone)
        near.transport.write(b"late")
        near.transport.writeSequence([b"late"])
        near.transport.loseConnection()
        near.transport.abortConnection()
        self.assertFalse(near.transport.connected)
        self.assertEqual((near.losses, far.losses), (1, 1))

    async def test_lose_connection_waits_for_producer(self) -> None:
        """With a producer registered the connection stays until it is unregistered."""
        if not ON_UVLOOP:
            raise SkipTest("stock Twisted waits for a streaming producer only while it is paused")
        near, far, _ = await self.pair()
        hose = Firehose(near.transport)
        near.transport.registerProducer(hose, True)
        near.transport.loseConnection()
        await self.turns()
        self.assertEqual((near.losses, far.losses), (0, 0))
        near.transport.write(b"the last of it")
        near.transport.unregisterProducer()
        await self.ended(far, error.ConnectionDone)
        self.assertEqual(bytes(far.received), b"the last of it")
        await self.ended(near, error.ConnectionDone)
        self.assertFalse(hose.stopped)

    async def test_abort(self) -> None:
        """abortConnection ends it at once, unsent data or not, and not within the call."""
        near, far, _ = await self.pair()
        far.transport.pauseProducing()
        near.transport.write(BIG * 4)
        near.in_call = True
        near.transport.abortConnection()
        near.transport.abortConnection()
        near.in_call = False
        await self.ended(near, error.ConnectionAborted)
        far.transport.resumeProducing()
        # A UNIX socket knows no reset.
        await self.ended(far, error.ConnectionLost if self.tcp else error.ConnectionClosed)
        self.assertTrue(len(far.received) < len(BIG) * 4)

    async def test_abort_of_a_stuck_close(self) -> None:
        """A loseConnection that cannot flush can still be aborted."""
        near, far, _ = await self.pair()
        far.transport.pauseProducing()
        near.transport.write(BIG * 4)
        near.transport.loseConnection()
        await self.turns()
        self.assertEqual(near.losses, 0)
        near.transport.abortConnection()
        await self.ended(near, error.ConnectionAborted)

    async def test_push_producer_is_paused(self) -> None:
        """A reader that stalls stops the producer, memory stays bounded, and reading resumes it."""
        near, far, _ = await self.pair()
        far.transport.pauseProducing()
        hose = Firehose(near.transport)
        near.transport.registerProducer(hose, True)
        hose.run()
        written = -1
        while hose.running or hose.written != written:  # the kernel takes some before it stalls
            self.assertFalse(hose.done.called, "never paused")
            written = hose.written
            await self.turns()
        self.assertTrue(0 < written < STALLED_BOUND, written)
        far.transport.resumeProducing()
        await hose.done
        near.transport.loseConnection()
        await self.ended(far, error.ConnectionDone)
        self.assertEqual(len(far.received), hose.written)
        self.assertTrue(hose.written >= STALLED_BOUND)

    async def test_producer_is_stopped_at_the_end(self) -> None:
        """When the other side goes, the producer is told to stop; one that comes later, too."""
        near, far, _ = await self.pair()
        hose = Firehose(near.transport)
        near.transport.registerProducer(hose, True)
        self.assertRaises(RuntimeError, near.transport.registerProducer, hose, True)
        far.transport.loseConnection()
        await self.ended(near, error.ConnectionDone)
        self.assertTrue(hose.stopped)
        late = Firehose(near.transport)
        near.transport.registerProducer(late, True)
        self.assertTrue(late.stopped)

    async def test_pull_producer(self) -> None:
        """A pull producer is asked again and again, also across a stall, until it unregisters."""
        near, far, _ = await self.pair()
        far.transport.pauseProducing()
        spoon = Spoon(near.transport, 1000)
        near.transport.registerProducer(spoon, False)
        near.transport.loseConnection()
        await self.turns()
        far.transport.resumeProducing()
        await self.ended(far, error.ConnectionDone)
        self.assertEqual(len(far.received), 10_000 * 1000)
        self.assertFalse(spoon.stopped)

    async def test_pause_and_resume_reading(self) -> None:
        """Nothing is received between pauseProducing and resumeProducing."""
        near, far, _ = await self.pair()
        far.transport.pauseProducing()
        near.transport.write(b"wait for it")
        await self.turns()
        self.assertEqual(far.received, b"")
        far.transport.resumeProducing()
        self.assertEqual(await far.until(11), b"wait for it")

    async def test_pause_in_connection_made(self) -> None:
        """A pause that is asked for before the first read holds."""
        near, far, _ = await self.pair(
            server=Talks(on_connect=lambda talk: talk.transport.pauseProducing())
        )
        near.transport.write(b"wait ")
        await self.turns()
        near.transport.write(b"for it")
        await self.turns()
        self.assertEqual(far.received, b"")
        far.transport.resumeProducing()
        self.assertEqual(await far.until(11), b"wait for it")

    async def test_speaks_first(self) -> None:
        """What is written in connectionMade arrives, and so does a connection closed there."""

        def greet(talk: Talk) -> None:
            talk.transport.write(b"hello")
            talk.transport.loseConnection()

        near, far, _ = await self.pair(server=Talks(on_connect=greet))
        await self.ended(near, error.ConnectionDone)
        self.assertEqual(near.received, b"hello")
        await self.ended(far, error.ConnectionDone)

    async def test_half_close(self) -> None:
        """One side ends its half; the other hears of it and can still answer."""
        near, far, _ = await self.pair(server=Talks(HalfCloseable), client=Talks(HalfCloseable))
        assert isinstance(near, HalfCloseable)
        assert isinstance(far, HalfCloseable)
        near.transport.write(BIG)
        near.transport.loseWriteConnection()
        await near.write_lost
        near.transport.write(b"too late")
        await far.read_lost
        self.assertTrue(bytes(far.received) == BIG)
        self.assertEqual((near.losses, far.losses), (0, 0))
        if ON_UVLOOP:  # stock Twisted would tell of it once more
            await self.turns()
            far.transport.resumeProducing()
            await self.turns()
        far.transport.write(b"heard you")
        self.assertEqual(await near.until(9), b"heard you")
        far.transport.loseConnection()
        await self.ended(far, error.ConnectionDone)
        await near.read_lost
        near.transport.loseConnection()
        await self.ended(near, error.ConnectionDone)

    async def test_half_close_with_nothing_unsent(self) -> None:
        """The end of an empty buffer is told of as well."""
        near, far, _ = await self.pair(client=Talks(HalfCloseable))
        assert isinstance(near, HalfCloseable)
        near.transport.loseWriteConnection()
        await near.write_lost
        await self.ended(far, error.ConnectionDone)

    async def test_end_of_input_is_the_end(self) -> None:
        """A protocol that knows no halves is done when the peer's half is."""
        near, far, _ = await self.pair(client=Talks(HalfCloseable))
        near.transport.loseWriteConnection()
        await self.ended(far, error.ConnectionDone)
        self.assertFalse(far.transport.connected)

    async def test_exception_in_data_received(self) -> None:
        """It is logged, and ends the connection with that exception for the reason."""

        def fail(talk: Talk, data: bytes) -> None:
            raise ZeroDivisionError("in dataReceived")

        near, far, _ = await self.pair(server=Talks(on_data=fail))
        near.transport.write(b"boom")
        await self.ended(far, ZeroDivisionError)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        await self.ended(near, error.ConnectionClosed)

    async def test_build_protocol_none(self) -> None:
        """A server factory that builds none has the connection closed."""
        port = await self.listen(NoProtocol())
        near = await self.client(port).connect(Talks())
        await self.ended(near, error.ConnectionClosed)

    async def test_build_protocol_none_in_client(self) -> None:
        """A client factory that builds none fails the attempt with NoProtocol."""
        port = await self.listen(Talks())
        clients = NoProtocol()
        await self.assertFailure(self.client(port).connect(clients), error.NoProtocol)
        await self.turns()
        self.assertEqual((clients.started, clients.stopped), (1, 1))

    async def test_build_protocol_raises_in_client(self) -> None:
        """What buildProtocol raises is what the attempt fails with."""
        port = await self.listen(Talks())
        await self.assertFailure(self.client(port).connect(Brittle()), ZeroDivisionError)
        await self.turns()

    async def test_factories_are_started_and_stopped(self) -> None:
        """doStart and doStop are called once each, on both sides."""
        servers, clients = Talks(), Talks()
        near, far, port = await self.pair(servers, clients)
        self.assertEqual((servers.started, servers.stopped), (1, 0))
        self.assertEqual((clients.started, clients.stopped), (1, 0))
        near.transport.loseConnection()
        await near.lost
        await far.lost
        await self.turns()
        self.assertEqual((clients.started, clients.stopped), (1, 1))
        await defer.maybeDeferred(port.stopListening)
        await defer.maybeDeferred(port.stopListening)
        self.assertEqual((servers.started, servers.stopped), (1, 1))

    async def test_connected_before_anything_is_received(self) -> None:
        """The Deferred of connect fires with the protocol before its first data."""
        port = await self.listen(Talks(on_connect=lambda talk: talk.transport.write(b"banner")))
        clients = Talks()
        seen: list[bytes] = []

        def connected(talk: Any) -> Any:
            seen.append(bytes(talk.received))
            return talk

        near = await self.client(port).connect(clients).addCallback(connected)
        self.addCleanup(self.end, near)
        self.assertIs(near, clients.built[0])
        self.assertEqual(seen, [b""])
        self.assertEqual(await near.until(6), b"banner")

    async def test_stop_listening(self) -> None:
        """Nobody else is accepted; who is there already stays."""
        near, far, port = await self.pair()
        client = self.client(port)
        await defer.maybeDeferred(port.stopListening)
        await self.assertFailure(client.connect(Talks()), error.ConnectError)
        near.transport.write(b"still here")
        self.assertEqual(await far.until(10), b"still here")
        far.transport.write(b"me too")
        self.assertEqual(await near.until(6), b"me too")

    async def test_stop_listening_at_once(self) -> None:
        """A port stopped before the reactor has turned once is free again."""
        factory = Talks()
        endpoint = endpoints.server_endpoint(reactor, self.description())
        port = self.successResultOf(endpoint.listen(factory))
        client = self.client(port)
        await defer.maybeDeferred(port.stopListening)
        await self.assertFailure(client.connect(Talks()), error.ConnectError)
        self.assertEqual((factory.started, factory.stopped), (1, 1))

    async def test_cancelled_at_once(self) -> None:
        """A cancelled attempt never connects its protocol."""
        servers = Talks()
        port = await self.listen(servers)
        clients = Talks()
        attempt = self.client(port).connect(clients)
        attempt.cancel()
        await self.assertFailure(attempt, error.ConnectingCancelledError)
        await self.turns()
        self.assertEqual(clients.built, [])
        self.assertEqual((clients.started, clients.stopped), (1, 1))

    async def test_cancelled_at_any_moment(self) -> None:
        """An attempt either connects or is cancelled, never both."""
        port = await self.listen(Talks())
        cancelled = 0
        for moments in range(12):
            clients = Talks()
            attempt = self.client(port).connect(clients)
            for _ in range(moments):
                await deferLater(reactor, 0)
            if attempt.called:
                near = await attempt
                assert isinstance(near, Talk)
                near.transport.abortConnection()
                await near.lost
                await self.turns()
            else:
                cancelled += 1
                attempt.cancel()
                await self.assertFailure(attempt, error.ConnectingCancelledError)
                await self.turns()
                self.assertEqual(clients.built, [])
            self.assertEqual((clients.started, clients.stopped), (1, 1))
        self.assertTrue(0 < cancelled < 12, cancelled)

    async def test_interfaces(self) -> None:
        """The transport and the endpoints are what Twisted's users ask for."""
        near, far, port = await self.pair()
        for transport in (near.transport, far.transport):
            for interface in (ITransport, IConsumer, IPushProducer):
                verifyObject(interface, transport)
            if self.tcp:
                verifyObject(ITCPTransport, transport)
            else:
                transport.abortConnection()
        verifyObject(IListeningPort, port)
        verifyObject(IStreamClientEndpoint, self.client(port))
        verifyObject(IStreamServerEndpoint, endpoints.server_endpoint(reactor, self.description()))

    async def test_http(self) -> None:
        """twisted.web serves over it: kept alive, chunked, and a body of megabytes each way."""
        port = await self.listen(quiet_site())
        near = await self.client(port).connect(Talks())
        assert isinstance(near, Talk)
        self.addCleanup(self.end, near)
        near.transport.write(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BIG)
        )
        near.transport.write(BIG)
        await near.until(len(BIG))
        head, _, _ = bytes(near.received).partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200 OK\r\n"))
        await near.until(len(head) + 4 + len(BIG))
        self.assertTrue(bytes(near.received[len(head) + 4 :]) == BIG)
        near.received.clear()
        near.transport.write(b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await self.ended(near, error.ConnectionDone)
        head, _, body = bytes(near.received).partition(b"\r\n\r\n")
        self.assertIn(b"transfer-encoding: chunked", head.lower())
        self.assertEqual(body, b"".join(b"7\r\nevent %d\r\n" % n for n in range(5)) + b"0\r\n\r\n")


class Echo(Resource):
    """Answers with the body it was sent."""

    isLeaf = True

    def render_POST(self, request: Any) -> bytes:
        body: bytes = request.content.read()
        return body


class Stream(Resource):
    """Answers five pieces, one a turn."""

    isLeaf = True

    def render_GET(self, request: Any) -> int:
        def piece(number: int) -> None:
            if number == 5:
                request.finish()
                return
            request.write(b"event %d" % number)
            reactor.callLater(0, piece, number + 1)

        piece(0)
        return NOT_DONE_YET


def quiet_site() -> Site:
    root = Resource()
    root.putChild(b"echo", Echo())
    root.putChild(b"stream", Stream())
    site = Site(root, reactor=reactor)
    site.noisy = False
    site.log = lambda request: None  # type: ignore[method-assign]
    return site


@implementer(IStreamClientEndpoint)
class Says:
    """An endpoint whose connections begin with some bytes."""

    def __init__(self, endpoint: IStreamClientEndpoint, first: bytes) -> None:
        self.endpoint, self.first = endpoint, first

    def connect(self, factory: Any) -> Deferred[Any]:
        first = self.first

        class Beginning(ProtocolWrapper):
            def makeConnection(self, transport: Any) -> None:
                transport.write(first)
                super().makeConnection(transport)

        wrapping = WrappingFactory(factory)
        wrapping.noisy = False
        wrapping.protocol = Beginning
        connected: Deferred[Any] = self.endpoint.connect(wrapping)
        return connected.addCallback(lambda wrapper: wrapper.wrappedProtocol)


class OverTCP(Over, TestCase):
    """The promises over TCP, and those that only TCP can make."""

    tcp = True

    def description(self) -> str:
        return "127.0.0.1:0"

    def client(self, port: IListeningPort) -> IStreamClientEndpoint:
        return endpoints.client_endpoint(reactor, "127.0.0.1", number_of(port))

    async def test_addresses(self) -> None:
        """Both sides agree on who they are, and still know it afterwards."""
        servers = Talks()
        near, far, port = await self.pair(servers)
        self.assertEqual(near.transport.getPeer(), port.getHost())
        self.assertEqual(far.transport.getHost(), port.getHost())
        self.assertEqual(near.transport.getHost(), far.transport.getPeer())
        self.assertEqual(servers.peers, [near.transport.getHost()])
        self.assertEqual(port.getHost(), IPv4Address("TCP", "127.0.0.1", number_of(port)))

    async def test_ipv6(self) -> None:
        """IPv6 has its own kind of address."""
        if not has_ipv6():
            raise SkipTest("no IPv6 here")
        servers = Talks()
        port = await self.listen(servers, "[::1]:0")
        number = number_of(port)
        self.assertEqual(port.getHost(), IPv6Address("TCP", "::1", number))
        near = await endpoints.client_endpoint(reactor, "::1", number).connect(Talks())
        assert isinstance(near, Talk)
        self.addCleanup(self.end, near)
        far = await servers.connected.get()
        self.addCleanup(self.end, far)
        self.assertEqual(near.transport.getPeer(), IPv6Address("TCP", "::1", number))
        self.assertIsInstance(far.transport.getPeer(), IPv6Address)
        self.assertEqual(servers.peers, [near.transport.getHost()])

    async def test_by_name(self) -> None:
        """A host name is looked up, to listen and to connect."""
        servers = Talks()
        port = await self.listen(servers, "localhost:0")
        near = await endpoints.client_endpoint(reactor, "localhost", number_of(port)).connect(
            Talks()
        )
        assert isinstance(near, Talk)
        self.addCleanup(self.end, near)
        self.addCleanup(self.end, await servers.connected.get())
        self.assertEqual(near.transport.getPeer(), port.getHost())

    async def test_options(self) -> None:
        """TCP's two options can be set and read."""
        near, _, _ = await self.pair()
        transport = near.transport
        for enabled in (True, False, True):
            transport.setTcpNoDelay(enabled)
            self.assertIs(transport.getTcpNoDelay(), enabled)
            transport.setTcpKeepAlive(enabled)
            self.assertIs(transport.getTcpKeepAlive(), enabled)

    async def test_refused(self) -> None:
        """Where nobody listens, ConnectionRefusedError."""
        port = await self.listen(Talks())
        client = self.client(port)
        await defer.maybeDeferred(port.stopListening)
        clients = Talks()
        await self.assertFailure(client.connect(clients), error.ConnectionRefusedError)
        await self.turns()
        self.assertEqual((clients.started, clients.stopped), (1, 1))

    def deaf(self) -> int:
        """A port whose backlog is full, so that an attempt to connect hangs."""
        listener = socket.socket()
        self.addCleanup(listener.close)
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = socket.socket()
            self.addCleanup(filler.close)
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        number: int = listener.getsockname()[1]
        return number

    async def test_timeout(self) -> None:
        """An attempt that hangs fails with TimeoutError in time."""
        client = endpoints.client_endpoint(reactor, "127.0.0.1", self.deaf(), timeout=0.05)
        clients = Talks()
        await self.assertFailure(client.connect(clients), error.TimeoutError)
        await self.turns()
        self.assertEqual((clients.started, clients.stopped), (1, 1))

    async def test_cancelled_while_it_hangs(self) -> None:
        """An attempt that hangs can be given up."""
        attempt = endpoints.client_endpoint(reactor, "127.0.0.1", self.deaf()).connect(Talks())
        await self.turns()
        self.assertNoResult(attempt)
        attempt.cancel()
        self.failureResultOf(attempt, error.ConnectingCancelledError)

    async def test_port_taken(self) -> None:
        """A port that is taken shows at once."""
        port = await self.listen(Talks())
        again = endpoints.server_endpoint(reactor, f"127.0.0.1:{number_of(port)}")
        factory = Talks()
        self.failureResultOf(again.listen(factory), error.CannotListenError)
        self.assertEqual((factory.started, factory.stopped), (0, 0))

    async def test_tls(self) -> None:
        """An `ssl:` string serves TLS, megabytes of it, and closes cleanly."""
        key, cert = self.certificate()
        servers = Talks(on_data=lambda talk, data: talk.transport.write(data))
        port = await self.listen(
            servers, f"ssl:0:privateKey={key}:certKey={cert}:interface=127.0.0.1"
        )
        trust = twisted_ssl.Certificate.loadPEM(Path(cert).read_bytes())
        near = await wrapClientTLS(
            twisted_ssl.optionsForClientTLS("localhost", trust), self.client(port)
        ).connect(Talks())
        assert isinstance(near, Talk)
        far = await servers.connected.get()
        near.transport.write(BIG)
        self.assertTrue(await near.until(len(BIG)) == BIG)
        self.assertEqual(near.transport.getPeer(), port.getHost())
        near.transport.loseConnection()
        await self.ended(far, error.ConnectionDone)
        await self.ended(near, error.ConnectionDone)

    async def test_proxy_protocol(self) -> None:
        """Behind `haproxy:`, who connects is who the proxy says it is, with TLS and without."""
        key, cert = self.certificate()
        files = TlsEntry(cert=cert, key=key)
        echo = lambda talk, data: talk.transport.write(data)  # noqa: E731
        trust = twisted_ssl.Certificate.loadPEM(Path(cert).read_bytes())
        # Version 2: IPv4, TCP; from 203.0.113.7:4711 to 192.0.2.1:443.
        addresses = bytes([203, 0, 113, 7, 192, 0, 2, 1]) + struct.pack(">HH", 4711, 443)
        two = b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack(">H", 12) + addresses
        one = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"
        for header, tls in ((two, None), (one, None), (two, files)):
            servers = Talks(on_data=echo)
            port = await self.listen(servers, "haproxy:tcp:0:interface=127.0.0.1", tls)
            client: IStreamClientEndpoint = Says(self.client(port), header)
            if tls is not None:
                options = twisted_ssl.optionsForClientTLS("localhost", trust)
                client = wrapClientTLS(options, client)
            near = await client.connect(Talks())
            assert isinstance(near, Talk)
            near.transport.write(BIG)
            self.assertTrue(await near.until(len(BIG)) == BIG)
            far = await servers.connected.get()
            self.assertEqual(far.transport.getPeer(), IPv4Address("TCP", "203.0.113.7", 4711))
            near.transport.loseConnection()
            await self.ended(far, error.ConnectionDone)

    async def test_https(self) -> None:
        """twisted.web over TLS over it."""
        key, cert = self.certificate()
        port = await self.listen(
            quiet_site(), f"ssl:0:privateKey={key}:certKey={cert}:interface=127.0.0.1"
        )
        trust = twisted_ssl.Certificate.loadPEM(Path(cert).read_bytes())
        near = await wrapClientTLS(
            twisted_ssl.optionsForClientTLS("localhost", trust), self.client(port)
        ).connect(Talks())
        assert isinstance(near, Talk)
        near.transport.write(b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await self.ended(near, error.ConnectionDone)
        self.assertTrue(near.received.endswith(b"7\r\nevent 4\r\n0\r\n\r\n"))


class OverUNIX(Over, TestCase):
    """The promises over UNIX sockets, and those that only they can make."""

    async def test_https(self) -> None:
        """twisted.web over TLS over it."""
        key, cert = self.certificate()
        port = await self.listen(quiet_site(), files=TlsEntry(cert=cert, key=key))
        trust = twisted_ssl.Certificate.loadPEM(Path(cert).read_bytes())
        near = await wrapClientTLS(
            twisted_ssl.optionsForClientTLS("localhost", trust), self.client(port)
        ).connect(Talks())
        assert isinstance(near, Talk)
        near.transport.write(b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await self.ended(near, error.ConnectionDone)
        self.assertTrue(near.received.endswith(b"7\r\nevent 4\r\n0\r\n\r\n"))

    def description(self) -> str:
        return f"unix:{self.path()}"

    def path(self) -> str:
        return str(self.folder() / "socket")

    def client(self, port: IListeningPort) -> IStreamClientEndpoint:
        return endpoints.unix_client_endpoint(reactor, path_of(port))

    async def test_addresses(self) -> None:
        """The server is known by its path, the client has no name."""
        servers = Talks()
        near, far, port = await self.pair(servers)
        self.assertIsInstance(port.getHost(), UNIXAddress)
        self.assertEqual(near.transport.getPeer(), port.getHost())
        self.assertEqual(far.transport.getHost(), port.getHost())
        for nameless in (*servers.peers, far.transport.getPeer()):
            self.assertIsInstance(nameless, UNIXAddress)
            self.assertFalse(nameless.name)
        self.assertEqual(len(servers.peers), 1)

    async def test_mode_and_removal(self) -> None:
        """The file has the mode that was asked for, and is gone after stopListening."""
        path = self.path()
        port = await self.listen(Talks(), f"unix:{path}:mode=600")
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        await defer.maybeDeferred(port.stopListening)
        self.assertFalse(os.path.exists(path))

    async def test_nothing_there(self) -> None:
        """Without a file there, or a listener behind it, a ConnectError."""
        path = self.path()
        client = endpoints.unix_client_endpoint(reactor, path)
        await self.assertFailure(client.connect(Talks()), error.ConnectError)
        self.leave_stale(path)
        await self.assertFailure(client.connect(Talks()), error.ConnectionRefusedError)

    async def test_listener_that_is_slow(self) -> None:
        """Who connects while the listener's queue is full is connected when there is room."""
        if not ON_UVLOOP or sys.platform != "linux":
            raise SkipTest("stock Twisted gives up at once; elsewhere the system refuses")
        path = self.path()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(1)
            queued = [self.connected_to(path) for _ in range(2)]
            client = endpoints.unix_client_endpoint(reactor, path)
            connecting = client.connect(Talks())
            given_up = client.connect(Talks())
            late = endpoints.unix_client_endpoint(reactor, path, timeout=0.1).connect(Talks())
            await self.assertFailure(late, error.TimeoutError)
            self.assertNoResult(connecting)
            given_up.cancel()
            self.failureResultOf(given_up)
            accepted = [listener.accept()[0] for _ in queued]
            near = await connecting
            assert isinstance(near, Talk)
            self.addCleanup(self.end, near)
            for sock in (*accepted, *queued):
                sock.close()

    def connected_to(self, path: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        sock.connect(path)
        return sock

    async def test_taken(self) -> None:
        """A path on which somebody listens is left alone."""
        _, _, port = await self.pair()
        again = endpoints.server_endpoint(reactor, f"unix:{path_of(port)}")
        self.failureResultOf(again.listen(Talks()), error.CannotListenError)
        other = await self.client(port).connect(Talks())
        assert isinstance(other, Talk)
        self.addCleanup(self.end, other)

    async def test_not_a_socket(self) -> None:
        """A file that is no socket is left alone."""
        path = self.path()
        Path(path).write_text("precious")
        endpoint = endpoints.server_endpoint(reactor, f"unix:{path}")
        self.failureResultOf(endpoint.listen(Talks()), error.CannotListenError)
        self.assertEqual(Path(path).read_text(), "precious")

    def leave_stale(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)

    async def test_stale_file(self) -> None:
        """What a killed server left behind is no obstacle."""
        path = self.path()
        self.leave_stale(path)
        if not ON_UVLOOP:
            os.symlink(str(dead_process()), path + ".lock")  # how stock Twisted knows
        port = await self.listen(Talks(), f"unix:{path}")
        near = await self.client(port).connect(Talks())
        assert isinstance(near, Talk)
        self.addCleanup(self.end, near)
        self.assertTrue(near.transport.connected)

    async def test_successor_keeps_its_file(self) -> None:
        """stopListening does not remove a file that has become somebody else's."""
        if not ON_UVLOOP:
            raise SkipTest("stock Twisted removes whatever is there")
        path = self.path()
        port = await self.listen(Talks(), f"unix:{path}")
        os.unlink(path)
        Path(path).write_text("the successor's")
        await defer.maybeDeferred(port.stopListening)
        self.assertEqual(Path(path).read_text(), "the successor's")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def dead_process() -> int:
    """The number of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


class NormaliseTests(SynchronousTestCase):
    """How an address is written."""

    GOOD: ClassVar = {
        ":8000": "tcp:8000:interface=0.0.0.0",
        " :8000 ": "tcp:8000:interface=0.0.0.0",
        ":0": "tcp:0:interface=0.0.0.0",
        "0.0.0.0:8080": "tcp:8080:interface=0.0.0.0",
        "127.0.0.1:8000": "tcp:8000:interface=127.0.0.1",
        "localhost:8000": "tcp:8000:interface=localhost",
        "gpu-1.example.org:8000": "tcp:8000:interface=gpu-1.example.org",
        "gpu1:8000": "tcp:8000:interface=gpu1",
        "[::1]:8000": r"tcp6:8000:interface=\:\:1",
        "tcp:8000": "tcp:8000",
        "tcp:port=8000:interface=10.0.0.1": "tcp:port=8000:interface=10.0.0.1",
        "tcp:interface=10.0.0.1:port=8000": "tcp:interface=10.0.0.1:port=8000",
        r"tcp6:8000:interface=\:\:": r"tcp6:8000:interface=\:\:",
        "unix:/run/x.sock:mode=600": "unix:/run/x.sock:mode=600",
        "unix:address=/run/x.sock": "unix:address=/run/x.sock",
        "ssl:8443:privateKey=k.pem:certKey=c.pem": "ssl:8443:privateKey=k.pem:certKey=c.pem",
        "systemd:domain=INET:index=0": "systemd:domain=INET:index=0",
    }
    BAD: ClassVar = {
        "": "no host and no port",
        "foo": "no port",
        "8000": "no port",
        "foo:": "no port",
        ":": "port is ''",
        ":99999": "port 99999 is above 65535",
        ":-1": "port is '-1'",
        ":\N{SUPERSCRIPT TWO}": "not a number",
        ":http": "port is 'http', not a number",
        "localhost:80a": "port is '80a'",
        "1.2.3:8000": "'1.2.3' is neither",
        "300.1.1.1:8000": "'300.1.1.1' is neither",
        "a b:8000": "'a b' is neither",
        "::1:8000": "not a number",
        "[::1]": "no port",
        "[::g]:8000": "'::g' is not an IPv6 address",
        "[127.0.0.1]:8000": "'127.0.0.1' is not an IPv6 address",
        "tcp:99999": "above 65535",
        "tcp:127.0.0.1:8000": "port is '127.0.0.1'",
        "ssl:": "port is ''",
        "unix:": "path of the socket is missing",
        "http://0.0.0.0:8000": "URL",
    }

    def test_good(self) -> None:
        """Short forms become endpoint strings, endpoint strings stay."""
        for written, meant in self.GOOD.items():
            self.assertEqual(endpoint_string(written), meant)

    def test_bad(self) -> None:
        """Nonsense is a ValueError that says what is wrong and what would be right."""
        for written, why in self.BAD.items():
            with self.subTest(written):
                exc = self.assertRaises(ValueError, endpoint_string, written)
                self.assertIn(why, str(exc))
                self.assertIn(repr(written), str(exc))
                self.assertIn("':8000'", str(exc))

    def test_bad_for_twisted(self) -> None:
        """What only Twisted can tell to be nonsense is a ValueError as well."""
        for written in (
            "foo:bar",
            "tcp:8000:colour=blue",
            "unix:/x:mode=rwx",
            "ssl:8443:privateKey=/no/such/key.pem",
        ):
            with self.subTest(written):
                exc = self.assertRaises(ValueError, endpoints.server_endpoint, reactor, written)
                self.assertIn(repr(written), str(exc))

    def test_needs_no_reactor(self) -> None:
        """Importing the module and normalising installs no reactor."""
        code = (
            "import sys\n"
            "from llamagw.net import endpoints\n"
            "endpoints.uses_uvloop(object())\n"
            "sys.exit('twisted.internet.reactor' in sys.modules)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60)
        self.assertEqual(done.returncode, 0)

    def test_without_uvloop(self) -> None:
        """Where uvloop is missing the endpoints are Twisted's."""
        code = (
            "import sys\n"
            "sys.modules['uvloop'] = None\n"
            "from twisted.internet import asyncioreactor; asyncioreactor.install()\n"
            "from twisted.internet import endpoints as stock, reactor\n"
            "from llamagw.net import endpoints\n"
            "assert not endpoints.uses_uvloop(reactor)\n"
            "server = endpoints.server_endpoint(reactor, ':8000')\n"
            "assert isinstance(server, stock.TCP4ServerEndpoint), server\n"
            "client = endpoints.client_endpoint(reactor, '127.0.0.1', 8000)\n"
            "assert isinstance(client, stock.TCP4ClientEndpoint), client\n"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60)
        self.assertEqual(done.returncode, 0)


CHILD = """
import sys
from twisted.internet import asyncioreactor
if sys.argv.pop(1) == "uvloop":
    import uvloop
    asyncioreactor.install(uvloop.new_event_loop())
from twisted.scripts.trial import run
run()
"""


class InChildrenTests(SynchronousTestCase):
    """The same promises, each kind with a reactor of its own."""

    def test_on_uvloop(self) -> None:
        """All of this file passes on uvloop's transports."""
        if importlib.util.find_spec("uvloop") is None:
            raise SkipTest("uvloop is not installed")
        self.run_child("uvloop", skips=2 + (sys.platform != "linux"))

    def test_on_stock_twisted(self) -> None:
        """All of this file passes on Twisted's own, if it could not be run right here."""
        if not reactor.running:
            raise SkipTest("was run right here")
        self.run_child("stock", skips=6)

    def run_child(self, kind: str, skips: int) -> None:
        if IN_CHILD is not None:
            raise SkipTest("this is the child")
        with tempfile.TemporaryDirectory(prefix="llamagw-") as folder:
            done = subprocess.run(
                [sys.executable, "-c", CHILD, kind, "tests.net.test_endpoints"],
                cwd=folder,
                env={
                    **os.environ,
                    "LLAMAGW_TEST_CHILD": kind,
                    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=240,
            )
        self.assertEqual(done.returncode, 0, done.stdout)
        promises = sum(
            name.startswith("test_")
            for case in (OverTCP, OverUNIX, NormaliseTests, InChildrenTests)
            for name in dir(case)
        )
        ran = re.search(r"^Ran (\d+) tests", done.stdout, re.MULTILINE)
        self.assertEqual(ran and int(ran[1]), promises, done.stdout)
        skipped = re.search(r"skips=(\d+)", done.stdout)
        skips += not has_ipv6()
        self.assertEqual(skipped and int(skipped[1]), skips, done.stdout)
