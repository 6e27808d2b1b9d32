"""
Stream endpoints over uvloop's own transports.

Where the reactor runs on uvloop, listening and connecting is uvloop's (see transport.py); where it
does not, Twisted's own endpoints are given out and nothing else changes. What goes over a
connection is the protocols' affair, which address to listen on the configuration's, and installing
a reactor tap.py's: nothing here touches the global one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from typing import Any, cast

from twisted.internet import endpoints, error
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import HostnameAddress, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from llamagw.config import cannot_listen, endpoint_string
from llamagw.net.tls import TlsEndpoint, read_tls
from llamagw.net.transport import UvloopTCPTransport, UvloopTransport, address_of

__all__ = [
    "UvloopClientEndpoint",
    "UvloopServerEndpoint",
    "client_endpoint",
    "server_endpoint",
    "unix_client_endpoint",
    "uses_uvloop",
]

BACKLOG = 4096  # connections that may wait to be accepted; the kernel's somaxconn caps it

_log = Logger()


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
    """Whether this reactor runs on uvloop, so that its endpoints here use uvloop's transports."""
    return _uvloop_of(reactor) is not None


def server_endpoint(reactor: Any, description: str) -> IStreamServerEndpoint:
    """
    The endpoint to listen on.

    A port that is in use shows later: the Deferred of `listen` has then failed with
    CannotListenError.

    :param description: anything that `llamagw.config.endpoint_string` takes
    :raises ValueError: when it makes no sense; says what would
    """
    text = endpoint_string(description)
    if text != description.strip():  # ours to complete: Twisted's own default is a backlog of 50
        text += f":backlog={BACKLOG}"
    loop = _uvloop_of(reactor)
    tls = read_tls(description)
    if tls is not None:
        return TlsEndpoint(reactor if loop is None else _ListenWithUvloop(reactor, loop), tls)
    try:
        if loop is None:
            return cast(IStreamServerEndpoint, endpoints.serverFromString(reactor, text))
        return UvloopServerEndpoint(reactor, loop, text)
    except Exception as exc:  # ValueError, TypeError for an unknown option
        raise cannot_listen(description, str(exc) or type(exc).__name__) from exc


def client_endpoint(
    reactor: Any, host: str, port: int, timeout: float = 10
) -> IStreamClientEndpoint:
    """
    The endpoint to connect to a TCP server with.

    :param host: an address or a name
    :param timeout: seconds for the whole attempt, looking up the name included
    """
    loop = _uvloop_of(reactor)
    if loop is not None:
        return UvloopClientEndpoint(loop, (host, port), timeout)
    if isIPAddress(host):
        return endpoints.TCP4ClientEndpoint(reactor, host, port, timeout)
    if isIPv6Address(host):
        return endpoints.TCP6ClientEndpoint(reactor, host, port, timeout)
    return endpoints.HostnameEndpoint(reactor, host, port, timeout)


def unix_client_endpoint(reactor: Any, path: str, timeout: float = 10) -> IStreamClientEndpoint:
    """
    The endpoint to connect to a UNIX socket with.

    :param timeout: seconds for the whole attempt
    """
    loop = _uvloop_of(reactor)
    if loop is not None:
        return UvloopClientEndpoint(loop, path, timeout)
    return endpoints.UNIXClientEndpoint(reactor, path, timeout)


# Listening.


@implementer(IStreamServerEndpoint)
class UvloopServerEndpoint:
    """
    Listens with uvloop.

    Twisted parses the description and makes its own endpoint of it; that endpoint is given a
    reactor whose listenTCP and listenUNIX are uvloop's.

    :param reactor: for all but listening
    :param loop: the reactor's
    :param description: a Twisted server endpoint string
    :raises ValueError: as `twisted.internet.endpoints.serverFromString` does
    """

    def __init__(self, reactor: Any, loop: asyncio.AbstractEventLoop, description: str) -> None:
        self._endpoint = endpoints.serverFromString(_ListenWithUvloop(reactor, loop), description)

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Bind and listen at once.

        :return: has fired already: with the port, or with CannotListenError
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


@implementer(IListeningPort)
class UvloopPort:
    """
    One listening socket.

    :param loop: accepts
    :param factory: makes the protocols
    :param address: interface and port, or the path of a UNIX socket
    :param backlog: connections that may wait to be accepted; `BACKLOG` at least
    :param mode: the permissions of a UNIX socket
    :raises CannotListenError: when the address cannot be listened on
    """

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
        """
        Bind and listen, at once.

        :raises CannotListenError: when the address cannot be listened on
        """
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
        self._host = address_of(sock.getsockname())
        self._factory.doStart()
        # The loop may not run yet: services start before the reactor does.
        self._serving = self._loop.create_task(
            self._loop.create_server(
                lambda: kind(self._loop, self._opened), sock=sock, backlog=self._backlog
            )
        )

    def stopListening(self) -> Deferred[None]:
        """
        Accept no more; accepted connections live on.

        :return: has fired already
        """
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
        """The address listened on, with the port that the kernel chose where 0 was asked for."""
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
    """Whether this is a socket file on which no process listens."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a listener too busy to accept is a listener
        return probe.connect_ex(path) == errno.ECONNREFUSED


def _remove_socket_file(path: str, inode: int) -> None:
    with contextlib.suppress(OSError):
        if os.stat(path).st_ino == inode:  # or another process listens there by now
            os.unlink(path)


# Connecting.


@implementer(IStreamClientEndpoint)
class UvloopClientEndpoint:
    """
    Connects with uvloop.

    :param loop: connects
    :param address: host and port, or the path of a UNIX socket
    :param timeout: seconds for the whole attempt, looking up the name included
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
        """
        Connect.

        :return: fires with the protocol, before that receives anything. Fails with one of
            `twisted.internet.error`: a ConnectError (ConnectionRefusedError, UnknownHostError,
            TimeoutError and others), or NoProtocol when the factory builds none. Cancelling it
            stops the attempt
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
