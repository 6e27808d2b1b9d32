"""
The connections to backends: idle ones are kept for a short time, and reused.

HTTP on a connection is handled by client.py; the endpoint for an address is made by connect.py.
"""

from __future__ import annotations

from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory

from llamagw.net.address import Address
from llamagw.net.client import Upstream
from llamagw.net.connect import Connect

#: Seconds that an idle connection is kept. llama-server (cpp-httplib) closes it after 5.
IDLE_SEC = 3.0


class Pool:
    """
    All connections to backends, of which it keeps the idle ones for reuse.

    :param reactor: its clock is used
    :param connect: makes the endpoint for an address
    """

    def __init__(self, reactor: IReactorTime, connect: Connect) -> None:
        self._reactor = reactor
        self._connect = connect
        self._open: set[Upstream] = set()
        self._idle: dict[Address, list[Upstream]] = {}
        self._sweep: IDelayedCall | None = None

    def __repr__(self) -> str:
        idle = sum(map(len, self._idle.values()))
        return f"<Pool: {len(self._open)} open, {idle} idle>"

    def take(self, address: Address) -> Upstream | None:
        """
        Remove an idle connection from the pool, to send a request over it.

        :return: the most recently used one, if that was at most `IDLE_SEC` ago; None without one
        """
        idle = self._idle.get(address)
        while idle:
            upstream = idle.pop()
            if self._reactor.seconds() - upstream.idle_since <= IDLE_SEC:
                return upstream
            upstream.abort()
        return None

    def connect(self, address: Address) -> Deferred[Upstream]:
        """
        Make a new connection.

        :return: fires with the connection; fails as the endpoint's `connect` does. Cancelling it
            cancels the attempt
        :raises ConnectError: if the address's ``ca_file`` cannot be used
        """
        factory = Factory.forProtocol(lambda: Upstream(self, address))
        factory.noisy = False
        return cast("Deferred[Upstream]", self._connect(address).connect(factory))

    def put(self, upstream: Upstream) -> None:
        """Keep a connection whose answer has ended for reuse, for at most `IDLE_SEC`."""
        upstream.idle_since = self._reactor.seconds()
        self._idle.setdefault(upstream.address, []).append(upstream)
        if self._sweep is None:
            self._sweep = self._reactor.callLater(IDLE_SEC, self._close_stale)

    def opened(self, upstream: Upstream) -> None:
        """Called by a connection: it is established."""
        self._open.add(upstream)

    def break_off(self, why: str, address: Address | None = None) -> None:
        """
        Close connections at once; requests under way on them end with `UpstreamLost`.

        :param why: as in `UpstreamLost`
        :param address: close only connections to this address; None for all
        """
        for upstream in list(self._open):
            if address is None or upstream.address == address:
                upstream.break_off(why)

    def forget(self, upstream: Upstream) -> None:
        """Called by a connection: it is closed, or must not be reused."""
        self._open.discard(upstream)
        idle = self._idle.get(upstream.address)
        if idle is not None and upstream in idle:
            idle.remove(upstream)

    def close(self) -> None:
        """Close all idle connections."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for idle in self._idle.values():
            for upstream in idle[:]:
                upstream.abort()
        self._idle.clear()

    def _close_stale(self) -> None:
        self._sweep = None
        oldest = self._reactor.seconds() - IDLE_SEC
        for address, idle in list(self._idle.items()):
            fresh = [upstream for upstream in idle if upstream.idle_since > oldest]
            for upstream in idle[: len(idle) - len(fresh)]:
                upstream.abort()
            if fresh:
                self._idle[address] = fresh
            else:
                del self._idle[address]
        if self._idle:
            self._sweep = self._reactor.callLater(IDLE_SEC, self._close_stale)
