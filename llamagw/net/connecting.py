"""
Connecting with uvloop: a Twisted client endpoint whose connections uvloop makes.

The connections are `UvloopTransport`s (transport.py). Which endpoint a reactor gets is
endpoints.py's decision; TLS is added by connect.py.
"""

from __future__ import annotations

import asyncio
from typing import Any

from twisted.internet import error
from twisted.internet.address import HostnameAddress, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from llamagw.net.transport import UvloopTCPTransport, UvloopTransport

#: Seconds until a UNIX socket is tried again that has its queue of connections full.
FULL_SEC = 0.02


@implementer(IStreamClientEndpoint)
class UvloopClientEndpoint:
    """
    Connects with uvloop.

    :param loop: makes the connections
    :param address: host and port, or the path of a UNIX socket
    :param timeout: seconds for the whole attempt, including the look-up of the name
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

    def __repr__(self) -> str:
        return f"<UvloopClientEndpoint to {self._address}>"

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Start an attempt to connect.

        :return: fires with the protocol, before any data is received. Fails with an exception of
            `twisted.internet.error`: a ConnectError (ConnectionRefusedError, UnknownHostError,
            TimeoutError and others), or NoProtocol if the factory builds none. Cancelling it stops
            the attempt
        """
        return _Attempt(self._loop, self._address, self._timeout, protocolFactory).outcome


class _Attempt:
    """
    One attempt to connect, which succeeds, fails, times out or is cancelled.

    :ivar outcome: fires with the first of these
    """

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
        self._loop = loop
        self._connecting: asyncio.Task[Any] | asyncio.TimerHandle
        self._timer = loop.call_later(timeout, self._timed_out)
        self._connect()

    def _connect(self) -> None:
        loop, address = self._loop, self._address
        kind = UvloopTransport if isinstance(address, str) else UvloopTCPTransport

        def transport() -> UvloopTransport:
            return kind(loop, self._opened, self._factory.doStop)

        connecting: asyncio.Task[Any] = loop.create_task(
            loop.create_unix_connection(transport, address)
            if isinstance(address, str)
            else loop.create_connection(transport, *address)
        )
        self._connecting = connecting
        connecting.add_done_callback(self._ended)

    def _opened(self, transport: UvloopTransport) -> None:
        if self.outcome.called:  # cancelled or timed out in the meantime
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
        if not self.outcome.called:  # else connectionMade has cancelled it
            self.outcome.callback(protocol) if failure is None else self.outcome.errback(failure)

    def _ended(self, connecting: asyncio.Task[Any]) -> None:
        exc = None if connecting.cancelled() else connecting.exception()
        if not self.outcome.called:
            if isinstance(exc, BlockingIOError):
                # Over TCP, the kernel would try again (unix(7): EAGAIN).
                self._connecting = self._loop.call_later(FULL_SEC, self._connect)
                return
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
