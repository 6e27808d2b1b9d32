"""Stream endpoints over uvloop's own transports, and the house's way to write an address.

A Twisted reactor on a uvloop loop still does its socket work in Python.  Here uvloop keeps the
socket and the Twisted protocol gets a thin ITransport over uvloop's transport, which makes an
event of a stream nearly a third cheaper.  Where the reactor does not run on uvloop, Twisted's own
endpoints are given out and nothing else changes.

What is said over a connection is the protocols' affair, which address to listen on the config's,
and installing a reactor tap.py's: nothing here touches the global one.
"""

# mypy: disable-error-code="no-untyped-call"
# (much of Twisted that is called here has no annotations)

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import socket
import stat
import struct
from collections.abc import Callable, Iterable
from typing import Any, cast

from twisted.internet import endpoints, error
from twisted.internet._producer_helpers import _PullToPush
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableProtocol,
    IListeningPort,
    IProducer,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
    ITCPTransport,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = [
    "UvloopClientEndpoint",
    "UvloopServerEndpoint",
    "client_endpoint",
    "normalise",
    "server_endpoint",
    "unix_client_endpoint",
    "uses_uvloop",
]

HIGH_WATER = 64 * 1024  # bytes waiting to be sent above which a producer is paused
BACKLOG = 4096  # connections that may wait to be accepted; the kernel's somaxconn caps it

_log = Logger()


# How an address is written.


def normalise(description: str) -> str:
    """Turn a listen address into a Twisted server endpoint string.

    `:8000`, `127.0.0.1:8000`, `[::1]:8000` and `localhost:8000` are understood; an endpoint string
    (`tcp:...`, `unix:/path`, `ssl:...`, or a plugin's) comes back as it is.  Needs no reactor.

    Raises ValueError, saying what is wrong and what would be right.
    """
    text = description.strip()
    kind, colon, rest = text.partition(":")
    if "://" in text:
        raise _nonsense(description, "that is a URL")
    if kind in ("tcp", "tcp6", "ssl"):
        first = rest.partition(":")[0].removeprefix("port=")
        if "=" not in first:
            _port(description, first)
    elif kind == "unix":
        if not rest.partition(":")[0].removeprefix("address="):
            raise _nonsense(description, "the path of the socket is missing")
    elif text.startswith("[") or not kind or kind == "localhost" or "." in kind or rest.isdigit():
        short = re.fullmatch(r"\[(?P<six>.*)\]:(?P<sixport>.*)|(?P<host>[^:[]*):(?P<port>.*)", text)
        if short is None:
            raise _nonsense(description, "there is no port" if colon else "no host and no port")
        if short["six"] is not None:
            if not isIPv6Address(short["six"]):
                raise _nonsense(description, f"{short['six']!r} is not an IPv6 address")
            interface = endpoints.quoteStringArgument(short["six"])
            return f"tcp6:{_port(description, short['sixport'])}:interface={interface}"
        host = short["host"] or "0.0.0.0"
        if not (isIPAddress(host) or re.fullmatch(r"(?=.*[A-Za-z])[A-Za-z0-9.-]+", host)):
            raise _nonsense(description, f"{host!r} is neither an IPv4 address nor a host name")
        return f"tcp:{_port(description, short['port'])}:interface={host}"
    elif not rest:
        raise _nonsense(description, "there is no port")
    return text


def _port(description: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise _nonsense(description, f"the port is {text!r}, not a number")
    if int(text) > 65535:
        raise _nonsense(description, f"port {text} is above 65535")
    return int(text)


def _nonsense(description: str, why: str) -> ValueError:
    return ValueError(
        f"cannot listen on {description!r}: {why}; write ':8000', '127.0.0.1:8000', '[::1]:8000', "
        "'unix:/path/to/socket' or another Twisted server endpoint string"
    )


# Which endpoints a reactor gets.


def _uvloop_of(reactor: Any) -> asyncio.AbstractEventLoop | None:
    # AsyncioSelectorReactor publishes its loop under no public name; this is the one place that
    # knows the private one.
    loop = getattr(reactor, "_asyncioEventloop", None)
    try:
        from uvloop import Loop
    except ImportError:
        return None
    return cast(asyncio.AbstractEventLoop, loop) if isinstance(loop, Loop) else None


def uses_uvloop(reactor: Any) -> bool:
    """Say whether this reactor runs on uvloop, so that its endpoints here use its transports."""
    return _uvloop_of(reactor) is not None


def server_endpoint(reactor: Any, description: str) -> IStreamServerEndpoint:
    """Make the endpoint to listen on.

    `description` is anything `normalise` takes.  Raises ValueError when it makes no sense.  A
    taken port shows later: the Deferred of `listen` has then failed with CannotListenError.
    """
    text = normalise(description)
    if text != description.strip():  # ours to complete: Twisted's own default is a backlog of 50
        text += f":backlog={BACKLOG}"
    loop = _uvloop_of(reactor)
    try:
        if loop is None:
            return cast(IStreamServerEndpoint, endpoints.serverFromString(reactor, text))
        return UvloopServerEndpoint(reactor, loop, text)
    except Exception as exc:  # ValueError, TypeError for an unknown option, OSError for a lost key
        raise _nonsense(description, str(exc) or type(exc).__name__) from exc


def client_endpoint(
    reactor: Any, host: str, port: int, timeout: float = 10
) -> IStreamClientEndpoint:
    """Make the endpoint to connect to a TCP server with; `timeout` is in seconds."""
    loop = _uvloop_of(reactor)
    if loop is not None:
        return UvloopClientEndpoint(loop, (host, port), timeout)
    if isIPAddress(host):
        return endpoints.TCP4ClientEndpoint(reactor, host, port, timeout)
    if isIPv6Address(host):
        return endpoints.TCP6ClientEndpoint(reactor, host, port, timeout)
    return endpoints.HostnameEndpoint(reactor, host, port, timeout)


def unix_client_endpoint(reactor: Any, path: str, timeout: float = 10) -> IStreamClientEndpoint:
    """Make the endpoint to connect to a UNIX socket with; `timeout` is in seconds."""
    loop = _uvloop_of(reactor)
    if loop is not None:
        return UvloopClientEndpoint(loop, path, timeout)
    return endpoints.UNIXClientEndpoint(reactor, path, timeout)


# The transport.


def _discard(data: bytes) -> None:
    """Stand in for uvloop's write once nothing may be written any more."""


def _address(name: Any) -> IAddress:
    if not isinstance(name, tuple):
        return UNIXAddress(name or None)
    return IPv4Address("TCP", *name) if len(name) == 2 else IPv6Address("TCP", *name)


@implementer(ITransport, IConsumer, IPushProducer)
class UvloopTransport(asyncio.Protocol):
    """What a Twisted protocol takes for its transport, and uvloop for its protocol.

    `opened` is told of the connection and answers with `attach` or `drop`; `lost` is called after
    the protocol's connectionLost.  uvloop never calls connection_lost from within one of our
    calls, so neither do we.
    """

    __slots__ = (
        "_full", "_held", "_host", "_loop", "_lost", "_opened", "_paused", "_peer", "_producer",
        "_read_ended", "_reason", "_send", "_uv", "_write_ended", "connected", "disconnected",
        "disconnecting", "protocol",
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
    ) -> None:
        self._loop = loop
        self._opened = opened
        self._lost = lost
        self._send: Callable[[bytes], None] = _discard
        self._producer: IPushProducer | None = None
        self._reason: Failure | None = None  # why we ended it, where it was not a clean close
        self._held = b""
        self._full = self._paused = self._read_ended = self._write_ended = False
        self.connected = self.disconnecting = self.disconnected = False

    # What uvloop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        uv = self._uv = cast(asyncio.Transport, transport)
        peer = uv.get_extra_info("peername")
        if peer is None:  # gone again before we came to it
            uv.abort()
            return
        uv.set_write_buffer_limits(high=HIGH_WATER)
        self._send = uv.write
        self._peer = _address(peer)
        self._host = _address(uv.get_extra_info("sockname"))
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        if self._paused:
            # Only after a pause in connectionMade: uvloop begins to read when that returns,
            # whatever was asked for in it.
            self._held += data
            self._uv.pause_reading()
            return
        try:
            self.protocol.dataReceived(data)
        except Exception:
            self._failed()

    def eof_received(self) -> bool:
        self._read_ended = True
        half = IHalfCloseableProtocol(self.protocol, None)
        if half is None:
            self.drop()
        else:
            self._tell(half.readConnectionLost)
        return True  # uvloop is not to close it: what is due has been done here

    def pause_writing(self) -> None:
        self._full = True
        if self._producer is not None:
            self._tell(self._producer.pauseProducing)

    def resume_writing(self) -> None:
        self._full = False
        if self._write_ended:
            self._loop.call_soon(self._write_lost)
        elif self._producer is not None:
            self._tell(self._producer.resumeProducing)

    def connection_lost(self, exc: BaseException | None) -> None:
        was_connected = self.connected
        self.connected, self.disconnected, self._send = False, True, _discard
        if not was_connected:  # dropped before it had a protocol
            return
        reason = self._reason
        if reason is None:
            reason = Failure(error.ConnectionLost(str(exc)) if exc else error.ConnectionDone())
        protocol, producer, self._producer = self.protocol, self._producer, None
        del self.protocol  # or the two would wait for the garbage collector
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

    # What the endpoints call.

    def attach(self, protocol: IProtocol) -> Failure | None:
        """Begin: hand the connection to its protocol.  Returns what the protocol raised, if so."""
        self.protocol = protocol
        self.connected = True
        try:
            protocol.makeConnection(self)
        except Exception:
            return self._failed()
        return None

    def drop(self) -> None:
        """Close at once, whatever still waits to be sent."""
        self._send = _discard
        self._uv.abort()

    def _tell(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:
            self._failed()

    def _failed(self) -> Failure:
        """End it because the protocol (or producer) has just raised: within `except` only."""
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
            self._tell(half.writeConnectionLost)

    def _release(self) -> None:
        data = self._held
        if data and self.connected and not (self._paused or self.disconnecting):
            self._held = b""
            self._uv.resume_reading()  # first, so that a pause in dataReceived holds
            self.data_received(data)

    # What protocols call: ITransport.

    def write(self, data: bytes) -> None:
        """Send `data` (bytes, else TypeError).  Ignored once closed, as in Twisted."""
        if not isinstance(data, bytes):
            raise TypeError("Data must be bytes")
        self._send(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send some pieces as one."""
        self._send(b"".join(data))

    def loseConnection(self) -> None:
        """Close when all is sent; with a producer registered, when it has been unregistered."""
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            if self._producer is None:
                self._close()
            else:
                self.pauseProducing()

    def loseWriteConnection(self) -> None:
        """Say that no more will be sent, when all is sent; reading goes on."""
        if not self.connected or self.disconnecting or self._write_ended:
            return
        self._write_ended = True
        self._send = _discard
        self._uv.write_eof()
        if self._uv.get_write_buffer_size():
            # resume_writing is the only word uvloop has for "all is sent".
            self._uv.set_write_buffer_limits(high=0)
        else:
            self._loop.call_soon(self._write_lost)

    def abortConnection(self) -> None:
        """Reset the connection.  connectionLost(ConnectionAborted) follows."""
        if self.connected and self._reason is None:
            self._reason = Failure(error.ConnectionAborted())
            with contextlib.suppress(OSError):
                # With no time to linger the kernel sends a reset: the peer must not take what it
                # has got for the whole.
                self._uv.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            self.drop()

    def getPeer(self) -> Any:
        """The other side's IPv4Address, IPv6Address or UNIXAddress."""
        return self._peer

    def getHost(self) -> Any:
        """Our side's."""
        return self._host

    # IConsumer.

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Pause and resume `producer` with the room there is for what it writes.

        Raises RuntimeError when there is one already.  When nothing can be written any more,
        the producer is told to stop.
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
        """Forget the producer; a loseConnection that waited for it goes ahead."""
        producer, self._producer = self._producer, None
        if isinstance(producer, _PullToPush):
            producer.stopStreaming()
        if self.connected and self.disconnecting:
            self._close()

    # IPushProducer.

    def pauseProducing(self) -> None:
        """Stop reading."""
        self._paused = True
        if self.connected:
            self._uv.pause_reading()

    def resumeProducing(self) -> None:
        """Read again."""
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
    """A UvloopTransport with TCP's options.  uvloop has set TCP_NODELAY from the start."""

    __slots__ = ()

    def getTcpNoDelay(self) -> bool:
        """Whether small segments are sent at once."""
        return self._option(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Send small segments at once, or gather them."""
        self._set_option(socket.IPPROTO_TCP, socket.TCP_NODELAY, enabled)

    def getTcpKeepAlive(self) -> bool:
        """Whether an idle connection is probed."""
        return self._option(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Probe an idle connection, or do not."""
        self._set_option(socket.SOL_SOCKET, socket.SO_KEEPALIVE, enabled)

    def _option(self, level: int, option: int) -> bool:
        return self.connected and bool(self._uv.get_extra_info("socket").getsockopt(level, option))

    def _set_option(self, level: int, option: int, enabled: bool) -> None:
        if self.connected:
            self._uv.get_extra_info("socket").setsockopt(level, option, int(enabled))


# Listening.


@implementer(IStreamServerEndpoint)
class UvloopServerEndpoint:
    """Listen with uvloop where `description`, a Twisted server endpoint string, says.

    Twisted parses the string and makes its own endpoint of it; that endpoint is given a reactor
    whose listenTCP, listenUNIX and listenSSL are uvloop's.  Raises ValueError as
    twisted.internet.endpoints.serverFromString does.
    """

    def __init__(self, reactor: Any, loop: asyncio.AbstractEventLoop, description: str) -> None:
        self._endpoint = endpoints.serverFromString(_ListenWithUvloop(reactor, loop), description)

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Bind and listen at once.

        The Deferred has fired already: with the port, or with CannotListenError.
        """
        return cast("Deferred[IListeningPort]", self._endpoint.listen(protocolFactory))


class _ListenWithUvloop:
    """The reactor, but what it listens on is uvloop's."""

    def __init__(self, reactor: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._reactor = reactor
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = BACKLOG, interface: str = ""
    ) -> UvloopPort:
        return UvloopPort(self._loop, factory, (interface, port), backlog)

    def listenUNIX(
        self,
        address: str | bytes,
        factory: IProtocolFactory,
        backlog: int = BACKLOG,
        mode: int = 0o666,
        wantPID: bool = False,
    ) -> UvloopPort:
        # wantPID is how Twisted tells a stale file; here the file itself is asked.
        return UvloopPort(self._loop, factory, os.fsdecode(address), backlog, mode)

    def listenSSL(
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: Any,
        backlog: int = BACKLOG,
        interface: str = "",
    ) -> UvloopPort:
        from twisted.protocols.tls import TLSMemoryBIOFactory  # needs pyOpenSSL

        tls = TLSMemoryBIOFactory(contextFactory, False, factory, clock=self._reactor)
        return self.listenTCP(port, tls, backlog, interface)


@implementer(IListeningPort)
class UvloopPort:
    """One listening socket.  `address` is (interface, port), or the path of a UNIX socket."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        factory: IProtocolFactory,
        address: tuple[str, int] | str,
        backlog: int,
        mode: int = 0o666,
    ) -> None:
        self._loop = loop
        self._factory = factory
        self._address = address
        self._backlog = max(backlog, BACKLOG)
        self._mode = mode
        self._socket: socket.socket | None = None
        self.startListening()

    def startListening(self) -> None:
        """Bind and listen, at once.  Raises CannotListenError."""
        kind: type[UvloopTransport] = UvloopTCPTransport
        try:
            if isinstance(self._address, str):
                kind = UvloopTransport
                sock = _bound_unix(self._address, self._mode)
                self._inode = os.stat(self._address).st_ino
            else:
                sock = _bound_tcp(*self._address)
            sock.listen(self._backlog)
        except OSError as exc:
            where = self._address if isinstance(self._address, tuple) else ("", self._address)
            raise error.CannotListenError(where[0], where[1], exc) from exc
        self._socket = sock
        self._host = _address(sock.getsockname())
        self._factory.doStart()
        # The loop may not run yet: services start before the reactor does.
        self._serving = self._loop.create_task(
            self._loop.create_server(
                lambda: kind(self._loop, self._opened), sock=sock, backlog=self._backlog
            )
        )

    def stopListening(self) -> Deferred[None]:
        """Accept no more.  Accepted connections live on; the Deferred has fired already."""
        sock, self._socket = self._socket, None
        if sock is not None:
            if self._serving.done():
                # Not wait_closed(): that would wait for the accepted connections too.
                self._serving.result().close()
            else:
                self._serving.cancel()
            sock.close()
            if isinstance(self._address, str):
                _remove_socket_file(self._address, self._inode)
            self._factory.doStop()
        return succeed(None)

    def getHost(self) -> IAddress:
        """The address listened on, with the port the kernel chose where 0 was asked for."""
        return self._host

    def _opened(self, transport: UvloopTransport) -> None:
        try:
            protocol = self._factory.buildProtocol(transport.getPeer())
        except Exception:
            _log.failure("Unhandled error in buildProtocol of {factory}", factory=self._factory)
            protocol = None
        if protocol is None:
            transport.drop()
        else:
            transport.attach(protocol)


def _bound_tcp(interface: str, port: int) -> socket.socket:
    six = isIPv6Address(interface)
    sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if six:
            # "[::]:8000" beside ":8000" must not be a clash.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            where = socket.getaddrinfo(interface, port, sock.family, socket.SOCK_STREAM)[0][4]
            sock.bind(where)  # with the scope that "fe80::1%eth0" names
        else:
            sock.bind((interface, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _bound_unix(path: str, mode: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        try:
            sock.bind(path)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or not _is_stale(path):
                raise
            os.unlink(path)
            sock.bind(path)
        os.chmod(path, mode)
    except BaseException:
        sock.close()
        raise
    return sock


def _is_stale(path: str) -> bool:
    """Whether this is a socket file on which nobody listens."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a listener too busy to accept is a listener
        return probe.connect_ex(path) == errno.ECONNREFUSED


def _remove_socket_file(path: str, inode: int) -> None:
    with contextlib.suppress(OSError):
        if os.stat(path).st_ino == inode:  # or somebody else listens there by now
            os.unlink(path)


# Connecting.


@implementer(IStreamClientEndpoint)
class UvloopClientEndpoint:
    """Connect with uvloop to `address`: (host, port), or the path of a UNIX socket.

    `timeout` is in seconds, for the whole attempt, looking up the name included.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: tuple[str, int] | str,
        timeout: float = 10,
    ) -> None:
        self._loop = loop
        self._address = address
        self._timeout = timeout

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; the Deferred fires with the protocol, before it receives anything.

        It fails with one of twisted.internet.error's: a ConnectError (ConnectionRefusedError,
        UnknownHostError, TimeoutError and others), or NoProtocol when the factory builds none.
        Cancelling it stops the attempt.
        """
        return _Attempt(self._loop, self._address, self._timeout, protocolFactory).outcome


class _Attempt:
    """One attempt to connect: succeeds, fails, times out or is cancelled, whichever is first."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: tuple[str, int] | str,
        timeout: float,
        factory: IProtocolFactory,
    ) -> None:
        self._factory = factory
        self._address = address
        self.outcome: Deferred[IProtocol] = Deferred(self._cancelled)
        factory.doStart()
        kind = UvloopTransport if isinstance(address, str) else UvloopTCPTransport

        def transport() -> UvloopTransport:
            return kind(loop, self._opened, factory.doStop)

        self._connecting: asyncio.Task[Any] = loop.create_task(
            loop.create_unix_connection(transport, address)
            if isinstance(address, str)
            else loop.create_connection(transport, *address)
        )
        self._connecting.add_done_callback(self._ended)
        self._timer = loop.call_later(timeout, self._timed_out)

    def _opened(self, transport: UvloopTransport) -> None:
        if self.outcome.called:  # cancelled or timed out as it was about to succeed
            transport.drop()
            return
        try:
            protocol = self._factory.buildProtocol(transport.getPeer())
            if protocol is None:
                raise error.NoProtocol()
        except Exception:
            transport.drop()
            self._fail(Failure())
            return
        self._timer.cancel()
        failure = transport.attach(protocol)
        if not self.outcome.called:  # else cancelled from connectionMade
            self.outcome.callback(protocol) if failure is None else self.outcome.errback(failure)

    def _ended(self, connecting: asyncio.Task[Any]) -> None:
        exc = None if connecting.cancelled() else connecting.exception()
        if not self.outcome.called:
            if isinstance(exc, OSError):
                exc = error.getConnectError(exc)
            self._fail(Failure(exc or error.ConnectError(string="lost as soon as it was made")))

    def _timed_out(self) -> None:
        self._fail(Failure(error.TimeoutError()))

    def _cancelled(self, outcome: Deferred[IProtocol]) -> None:
        address: IAddress
        if isinstance(self._address, str):
            address = UNIXAddress(self._address)
        else:
            host, port = self._address
            address = HostnameAddress(host.encode("utf-8"), port)
        self._fail(Failure(error.ConnectingCancelledError(address)))

    def _fail(self, reason: Failure) -> None:
        self._timer.cancel()
        self._connecting.cancel()
        self._factory.doStop()
        self.outcome.errback(reason)
