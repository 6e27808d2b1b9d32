"""
A transport in memory: the protocol's end is real, the test plays the peer at the other.

It behaves as Twisted's own TCP transport does where that matters to the gateway: closing is told a
turn later, a write after loseConnection still goes out, a reader that stalls pauses the producer
once, and data for a protocol that has paused it waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IPushProducer, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from llamagw.net import Address

HIGH_WATER = 64 * 1024
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
