"""
The connections to backends: idle ones are kept for a short time, and reused.

HTTP on a connection is client.py's affair; how one is made, connect.py's.
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
    Connections to backends: takes an idle one where there is one, makes one where there is not.

    :param reactor: keeps time
    :param connect: makes the endpoint for an address
    """

    def __init__(self, reactor: IReactorTime, connect: Connect) -> None:
        self._reactor = reactor
        self._connect = connect
        self._open: set[Upstream] = set()
        self._idle: dict[Address, list[Upstream]] = {}
        self._sweep: IDelayedCall | None = None

    def take(self, address: Address) -> Upstream | None:
        """
        Take an idle connection; it is the caller's from now on.

        :return: the one that was used last, at most `IDLE_SEC` ago; None without one
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

        :return: fires with it; fails as the endpoint does. Cancelling it gives the attempt up
        """
        factory = Factory.forProtocol(lambda: Upstream(self, address))
        factory.noisy = False
        return cast("Deferred[Upstream]", self._connect(address).connect(factory))

    def put(self, upstream: Upstream) -> None:
        """Keep a connection whose answer has ended, for at most `IDLE_SEC`."""
        upstream.idle_since = self._reactor.seconds()
        self._idle.setdefault(upstream.address, []).append(upstream)
        if self._sweep is None:
            self._sweep = self._reactor.callLater(IDLE_SEC, self._close_stale)

    def opened(self, upstream: Upstream) -> None:
        """Called by a connection: it is established."""
        self._open.add(upstream)

    def break_off(self, why: str, address: Address | None = None) -> None:
        """
        Close connections at once; the receivers of their answers are called with `UpstreamLost`.

        :param why: for a person
        :param address: only those to there; None for all
        """
        for upstream in list(self._open):
            if address is None or upstream.address == address:
                upstream.break_off(why)

    def forget(self, upstream: Upstream) -> None:
        """Called by a connection: it is closed, or not to be used again."""
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
