"""
Listening with uvloop: a Twisted endpoint and port whose sockets uvloop accepts on.

Accepted connections are `UvloopTransport`s (transport.py). Which endpoint a reactor gets is
endpoints.py's decision; TLS is added by tls.py.
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
from twisted.internet.abstract import isIPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from zope.interface import implementer

from llamagw.net.transport import Ends, UvloopTCPTransport, UvloopTransport, address_of

#: Connections that may wait to be accepted; the kernel's somaxconn caps it.
BACKLOG = 4096

_log = Logger(namespace="llamagw.net.endpoints")


@implementer(IStreamServerEndpoint)
class UvloopServerEndpoint:
    """
    Listens with uvloop.

    Twisted parses the description and makes its own endpoint from it, with a reactor whose
    listenTCP and listenUNIX use uvloop.

    :param reactor: used for everything but listening
    :param loop: the reactor's event loop
    :param description: a Twisted server endpoint string
    :raises ValueError: as `twisted.internet.endpoints.serverFromString`
    """

    def __init__(self, reactor: Any, loop: asyncio.AbstractEventLoop, description: str) -> None:
        self._endpoint = endpoints.serverFromString(ListenWithUvloop(reactor, loop), description)

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Bind and listen at once.

        :return: has fired already, with the port or with CannotListenError
        """
        return cast("Deferred[IListeningPort]", self._endpoint.listen(protocolFactory))


class ListenWithUvloop:
    """
    A reactor that listens with uvloop, and otherwise behaves as the one that it wraps.

    :param reactor: used for everything but listening
    :param loop: the reactor's event loop
    """

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
        # Twisted detects a stale socket file by a lock (wantPID); here a connection is attempted.
        return UvloopPort(self._loop, factory, os.fsdecode(address), backlog, mode)


@implementer(IListeningPort)
class UvloopPort:
    """
    One listening socket.

    :param loop: accepts connections
    :param factory: builds a protocol for each
    :param address: interface and port, or the path of a UNIX socket
    :param backlog: how many connections may wait to be accepted; raised to `BACKLOG`
    :param mode: permissions of a UNIX socket's file
    :raises CannotListenError: if the address cannot be bound
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
        self._ends = Ends(loop)
        self._factory = factory
        self._address = address
        self._backlog = max(backlog, BACKLOG)
        self._mode = mode
        self._socket: socket.socket | None = None
        self.startListening()

    def __repr__(self) -> str:
        state = "listening" if self._socket is not None else "stopped"
        return f"<UvloopPort {self._address}: {state}>"

    def startListening(self) -> None:
        """
        Bind and listen at once.

        :raises CannotListenError: if the address cannot be bound
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
        # A task: the loop may not run yet, as services start before the reactor does.
        self._serving = self._loop.create_task(
            self._loop.create_server(
                lambda: kind(self._loop, self._opened, ends=self._ends),
                sock=sock,
                backlog=self._backlog,
            )
        )

    def stopListening(self) -> Deferred[None]:
        """
        Stop accepting; accepted connections are not affected.

        :return: has fired already
        """
        sock, self._socket = self._socket, None
        if sock is not None:
            if self._serving.done():
                # Without wait_closed(), which would wait for the accepted connections as well.
                self._serving.result().close()
            else:
                self._serving.cancel()
            sock.close()
            if isinstance(self._address, str):
                _remove_socket_file(self._address, self._inode)
            self._factory.doStop()
        return succeed(None)

    def getHost(self) -> IAddress:
        """The bound address; for port 0, with the port that the kernel chose."""
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
            # So that "[::]:8000" and ":8000" can both be bound.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            where = socket.getaddrinfo(interface, port, sock.family, socket.SOCK_STREAM)[0][4]
            sock.bind(where)  # has the scope of an address such as "fe80::1%eth0"
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
        probe.setblocking(False)  # or a listener with a full backlog would block
        return probe.connect_ex(path) == errno.ECONNREFUSED


def _remove_socket_file(path: str, inode: int) -> None:
    with contextlib.suppress(OSError):
        if os.stat(path).st_ino == inode:  # else another process has replaced it
            os.unlink(path)
