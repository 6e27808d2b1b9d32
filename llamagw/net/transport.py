"""
A Twisted transport (ITCPTransport) that wraps a transport of uvloop.

A Twisted reactor on a uvloop loop does its socket I/O in Python. Here uvloop owns the socket, and
the Twisted protocol gets a thin wrapper. Connections are made by listening.py and connecting.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, cast

from twisted.internet import error
from twisted.internet._producer_helpers import _PullToPush
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableProtocol,
    IProducer,
    IProtocol,
    IPushProducer,
    ITCPTransport,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

#: A producer is paused while more bytes than this wait to be sent.
HIGH_WATER = 64 * 1024

#: Connections that are closed in one reactor turn because their peers have ended them; each takes
#: 10 µs.
ENDS_PER_TURN = 1000

#: After a read of this many bytes or more, other connections are served first.
LONG_READ = 64 * 1024

_log = Logger()


def _discard(data: bytes) -> None:
    """Used instead of uvloop's write when no more may be written."""


def address_of(name: Any) -> IAddress:
    """
    Convert a socket's name to Twisted's address.

    :param name: from `socket.getsockname`, of a TCP (IPv4 or IPv6) or UNIX socket
    """
    if not isinstance(name, tuple):
        return UNIXAddress(name or None)
    return IPv4Address("TCP", *name) if len(name) == 2 else IPv6Address("TCP", *name)


class Ends:
    """
    Closes connections that their peers have ended, at most `ENDS_PER_TURN` in a reactor turn.

    So when thousands are ended at once, others are served in between.

    :param loop: the event loop of the connections
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[UvloopTransport] = deque()

    def __repr__(self) -> str:
        return f"<Ends: {len(self._waiting)} to close>"

    def add(self, transport: UvloopTransport) -> None:
        """Close a connection in this turn or a later one."""
        self._waiting.append(transport)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._close_some)

    def _close_some(self) -> None:
        for _ in range(min(ENDS_PER_TURN, len(self._waiting))):
            self._waiting.popleft().drop()
        if self._waiting:
            self._loop.call_soon(self._close_some)


class IConnection(ITCPTransport, IConsumer, IPushProducer):
    """A transport that can be paused, and that pauses the producer which writes to it."""


@implementer(ITransport, IConsumer, IPushProducer)
class UvloopTransport(asyncio.Protocol):
    """
    A transport for a Twisted protocol, and a protocol for uvloop.

    connectionLost is never called within a call by the protocol, since uvloop never calls
    connection_lost within a call to its transport.

    :param loop: the event loop of the connection
    :param opened: called with the transport when it is connected; must call `attach` or `drop`
    :param lost: called after the protocol's connectionLost
    :param ends: closes the connection when the peer has ended it; None to close at once
    :ivar connected: whether a protocol is attached and the connection is open
    :ivar disconnecting: whether loseConnection was called
    :ivar disconnected: whether the connection has ended
    """

    __slots__ = (
        "_ends", "_full", "_held", "_host", "_loop", "_lost", "_opened", "_paused", "_peer",
        "_producer", "_read_ended", "_reason", "_send", "_uv", "_write_ended", "connected",
        "disconnected", "disconnecting", "protocol",
    )  # fmt: skip

    protocol: IProtocol
    _uv: asyncio.Transport
    _host: IAddress
    _peer: IAddress

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        opened: Callable[[UvloopTransport], None],
        lost: Callable[[], None] | None = None,
        ends: Ends | None = None,
    ) -> None:
        self._loop = loop
        self._ends = ends
        self._opened = opened
        self._lost = lost
        self._send: Callable[[bytes], None] = _discard
        self._producer: IPushProducer | None = None
        self._reason: Failure | None = None  # for connectionLost, if it was aborted here
        self._held = b""
        self._full = self._paused = self._read_ended = self._write_ended = False
        self.connected = self.disconnecting = self.disconnected = False

    def __repr__(self) -> str:
        states = [
            ("disconnected", self.disconnected),
            ("not connected", not self.connected and not self.disconnected),
            ("disconnecting", self.disconnecting and not self.disconnected),
            ("full", self._full),
            ("paused", self._paused),
        ]
        state = ", ".join(name for name, is_so in states if is_so) or "connected"
        return f"<{type(self).__name__} with {getattr(self, '_peer', None)}: {state}>"

    # uvloop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        uv = self._uv = cast(asyncio.Transport, transport)
        peer = uv.get_extra_info("peername")
        if peer is None:  # the client has disconnected already
            uv.abort()
            return
        uv.set_write_buffer_limits(high=HIGH_WATER)
        self._send = uv.write
        self._peer = address_of(peer)
        self._host = address_of(uv.get_extra_info("sockname"))
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        if self._paused:
            # Only after a pause in connectionMade: uvloop starts reading when that returns, even
            # if it was paused.
            self._held += data
            self._uv.pause_reading()
            return
        if len(data) >= LONG_READ:
            # libuv would read up to 32 times from this connection before it serves another.
            self._uv.pause_reading()
            self._loop.call_soon(self._read_on)
        try:
            self.protocol.dataReceived(data)
        except Exception:
            self._failed()

    def _read_on(self) -> None:
        if self.connected and not (self._paused or self.disconnecting or self._read_ended):
            self._uv.resume_reading()

    def eof_received(self) -> bool:
        self._read_ended = True
        half = IHalfCloseableProtocol(self.protocol, None)
        if half is not None:
            self._guarded(half.readConnectionLost)
        elif self._ends is not None:
            self._ends.add(self)
        else:
            self.drop()
        return True  # uvloop must not close the connection; that was done above if due

    def pause_writing(self) -> None:
        self._full = True
        if self._producer is not None:
            self._guarded(self._producer.pauseProducing)

    def resume_writing(self) -> None:
        self._full = False
        if self._write_ended:
            self._loop.call_soon(self._write_lost)
        elif self._producer is not None:
            self._guarded(self._producer.resumeProducing)

    def connection_lost(self, exc: BaseException | None) -> None:
        was_connected = self.connected
        self.connected, self.disconnected, self._send = False, True, _discard
        if not was_connected:  # dropped before a protocol was attached
            return
        reason = self._reason
        if reason is None:
            reason = Failure(error.ConnectionLost(str(exc)) if exc else error.ConnectionDone())
        protocol, producer, self._producer = self.protocol, self._producer, None
        del self.protocol  # breaks the reference cycle
        try:
            if producer is not None:
                producer.stopProducing()
        except Exception:
            _log.failure("Unhandled error in {producer}", producer=producer)
        try:
            protocol.connectionLost(reason)
        except Exception:
            _log.failure("Unhandled error in {protocol}", protocol=protocol)
        if self._lost is not None:
            self._lost()

    # The endpoints call

    def attach(self, protocol: IProtocol) -> Failure | None:
        """
        Connect the transport to its protocol.

        :return: the exception that makeConnection raised; the connection is closed then. None if it
            raised none
        """
        self.protocol = protocol
        self.connected = True
        try:
            protocol.makeConnection(self)
        except Exception:
            return self._failed()
        return None

    def drop(self) -> None:
        """Close at once; bytes that wait to be sent are dropped."""
        self._send = _discard
        self._uv.abort()

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:
            self._failed()

    def _failed(self) -> Failure:
        """Close because the protocol or producer raised; to be called within `except`."""
        failure = Failure()
        _log.failure("Unhandled error in {protocol}", failure, protocol=self.protocol)
        self._reason = self._reason or failure
        self.drop()
        return failure

    def _close(self) -> None:
        self._send = _discard
        self._uv.close()

    def _write_lost(self) -> None:
        half = IHalfCloseableProtocol(self.protocol, None) if self.connected else None
        if half is not None:
            self._guarded(half.writeConnectionLost)

    def _release(self) -> None:
        data = self._held
        if data and self.connected and not (self._paused or self.disconnecting):
            self._held = b""
            self._uv.resume_reading()  # before the data, which may pause it again
            self.data_received(data)

    # Protocols call (ITransport)

    def write(self, data: bytes) -> None:
        """
        Send bytes; ignored once closed, as in Twisted.

        :raises TypeError: unless they are bytes
        """
        if not isinstance(data, bytes):
            raise TypeError("Data must be bytes")
        self._send(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send pieces in one write."""
        self._send(b"".join(data))

    def loseConnection(self) -> None:
        """Close when all bytes are sent; with a producer, not before it is unregistered."""
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            if self._producer is None:
                self._close()
            else:
                self.pauseProducing()

    def loseWriteConnection(self) -> None:
        """Close the sending direction when all bytes are sent; reading goes on."""
        if not self.connected or self.disconnecting or self._write_ended:
            return
        self._write_ended = True
        self._send = _discard
        self._uv.write_eof()
        if self._uv.get_write_buffer_size():
            # With a limit of 0, uvloop calls resume_writing when all bytes are sent.
            self._uv.set_write_buffer_limits(high=0)
        else:
            self._loop.call_soon(self._write_lost)

    def abortConnection(self) -> None:
        """Reset the connection; connectionLost(ConnectionAborted) follows."""
        if self.connected and self._reason is None:
            self._reason = Failure(error.ConnectionAborted())
            with contextlib.suppress(OSError):
                # With a linger time of 0 the kernel sends a reset, so that the peer cannot mistake
                # what it has received for the whole.
                self._uv.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            self.drop()

    def getPeer(self) -> Any:
        """The remote IPv4Address, IPv6Address or UNIXAddress."""
        return self._peer

    def getHost(self) -> Any:
        """The local IPv4Address, IPv6Address or UNIXAddress."""
        return self._host

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing, as in Twisted: whoever speaks TLS asks for it, whatever is below that."""

    # IConsumer

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """
        Pause a producer while more than `HIGH_WATER` bytes wait to be sent.

        Its stopProducing is called when no more can be written.

        :param streaming: whether it is a push producer
        :raises RuntimeError: if one is registered already
        """
        if self._producer is not None:
            raise RuntimeError(
                f"Cannot register producer {producer}, because producer {self._producer} was "
                "never unregistered."
            )
        if self.disconnected or self.disconnecting:
            producer.stopProducing()
            return
        push = producer if streaming else _PullToPush(producer, self)
        self._producer = cast(IPushProducer, push)
        if isinstance(push, _PullToPush):
            push.startStreaming()
        if self._full:
            self._producer.pauseProducing()

    def unregisterProducer(self) -> None:
        """Remove the producer; a loseConnection that waited for it takes effect."""
        producer, self._producer = self._producer, None
        if isinstance(producer, _PullToPush):
            producer.stopStreaming()
        if self.connected and self.disconnecting:
            self._close()

    # IPushProducer

    def pauseProducing(self) -> None:
        """Stop reading."""
        self._paused = True
        if self.connected:
            self._uv.pause_reading()

    def resumeProducing(self) -> None:
        """Resume reading."""
        if self.connected and not self.disconnecting and not self._read_ended:
            self._paused = False
            if self._held:
                self._loop.call_soon(self._release)
            else:
                self._uv.resume_reading()

    def stopProducing(self) -> None:
        """The same as loseConnection."""
        self.loseConnection()


@implementer(ITCPTransport)
class UvloopTCPTransport(UvloopTransport):
    """A UvloopTransport with TCP's options; uvloop has set TCP_NODELAY from the start."""

    __slots__ = ()

    def getTcpNoDelay(self) -> bool:
        """Whether small segments are sent at once."""
        return self._option(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Send small segments at once, or collect them (Nagle)."""
        self._set_option(socket.IPPROTO_TCP, socket.TCP_NODELAY, enabled)

    def getTcpKeepAlive(self) -> bool:
        """Whether an idle connection is probed."""
        return self._option(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Probe an idle connection, or stop doing so."""
        self._set_option(socket.SOL_SOCKET, socket.SO_KEEPALIVE, enabled)

    def _option(self, level: int, option: int) -> bool:
        return self.connected and bool(self._uv.get_extra_info("socket").getsockopt(level, option))

    def _set_option(self, level: int, option: int, enabled: bool) -> None:
        if self.connected:
            self._uv.get_extra_info("socket").setsockopt(level, option, int(enabled))
