"""
What all clients' connections share: limits, memory for bodies, clock, and the registry.

The `Site` makes one `Connections` and gives it to each `Channel`; HTTP is handled there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from llamagw.gate import Gate
from llamagw.proxy.forwarded import Forwarded
from llamagw.proxy.origins import Origins

_log = Logger(namespace="llamagw.server")

#: A body of more bytes is parsed in a reactor turn of its own: each pass over 60 MB takes 20 to
#: 100 ms.
LARGE = 1024 * 1024


class Limits(NamedTuple):
    """
    The limits of clients.

    :ivar max_body: maximum size of a request's body, in bytes
    :ivar max_bodies: maximum size of all bodies in memory together, in bytes
    :ivar request_timeout: seconds that a request may take to arrive, and a connection may be idle
    :ivar client_stall: seconds for which a client may stop reading an answer
    :ivar max_connections: how many may be open at once
    :ivar origins: which web pages may send requests
    :ivar forwarded: which proxies are believed in who their clients are; None for none
    """

    max_body: int
    max_bodies: int
    request_timeout: float
    client_stall: float
    max_connections: int
    origins: Origins
    forwarded: Forwarded | None = None


class Bodies:
    """
    Counts the bytes of all bodies in memory, of requests that arrive, wait, or are being answered.

    :param limit: maximum, in bytes
    :ivar held: current count, in bytes
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def __repr__(self) -> str:
        return f"<Bodies: {self.held} of {self.limit} bytes>"

    def has_room(self, count: int) -> bool:
        """
        Whether more bytes would be within the limit now.

        :param count: bytes
        """
        return self.held + count <= self.limit

    def take(self, count: int) -> bool:
        """
        Count more bytes as held, if they are within the limit.

        :param count: bytes
        :return: whether they are
        """
        if self.held + count > self.limit:
            return False
        self.held += count
        return True

    def give_back(self, count: int) -> None:
        """
        Count bytes as no longer held.

        :param count: bytes
        """
        self.held -= count


class Turns:
    """
    Runs slow functions one at a time, each in a reactor turn of its own, so that I/O can intervene.

    :param clock: the reactor, or a Clock
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: deque[Callable[[], object]] = deque()

    def take(self, work: Callable[[], object]) -> None:
        """Call a function in a later turn, after those that were passed before."""
        self._waiting.append(work)
        if len(self._waiting) == 1:
            self._clock.callLater(0, self._next)

    def _next(self) -> None:
        work = self._waiting[0]
        try:
            work()
        finally:
            self._waiting.popleft()
            if self._waiting:
                self._clock.callLater(0, self._next)


class Closable(Protocol):
    """
    A connection in the registry.

    :ivar requests: those that it has; the first may be under way
    """

    @property
    def requests(self) -> Sequence[object]: ...

    def close_when_idle(self) -> None:
        """Close now if idle, else after the answer under way."""

    def forceAbortClient(self) -> None:
        """Close at once."""


class Connections:
    """
    The open connections of clients, and what they share.

    :param clock: the reactor, or a Clock
    :param limits: the initial limits; as attributes they are named as in `Limits`
    :ivar open: the connections
    :ivar bodies: counts the bytes of request bodies in memory
    :ivar turns: runs what takes long
    :ivar gate: lets requests in; None if everybody may do everything
    :ivar loopback: whether the gateway listens on loopback addresses only
    """

    loopback = False

    def __init__(self, clock: IReactorTime, limits: Limits) -> None:
        self.clock = clock
        self.bodies = Bodies(limits.max_bodies)
        self.turns = Turns(clock)
        self.allow(limits)
        self.open: set[Closable] = set()
        self.gate: Gate | None = None
        self._logged_full = float("-inf")
        self._drained: Deferred[None] | None = None

    def __repr__(self) -> str:
        return f"<Connections: {len(self.open)} of {self.max_connections}, {self.bodies}>"

    def allow(self, limits: Limits) -> None:
        """Change the limits; open connections are not closed."""
        self.max_body = limits.max_body
        self.request_timeout = limits.request_timeout
        self.client_stall = limits.client_stall
        self.max_connections = limits.max_connections
        self.bodies.limit = limits.max_bodies
        self.origins = limits.origins
        self.forwarded = limits.forwarded

    def add(self, connection: Closable) -> int:
        """
        Register a connection.

        An excess is logged, once a minute at most.

        :return: by how many connections the limit is exceeded; 0 or less if it is not
        """
        self.open.add(connection)
        excess = len(self.open) - self.max_connections
        if excess > 0 and self.clock.seconds() - self._logged_full >= 60:
            self._logged_full = self.clock.seconds()
            _log.error(
                "{count} connections are open, as many as the limit of open files allows "
                "(ulimit -n, LimitNOFILE); more are refused",
                count=self.max_connections,
            )
        return excess

    def remove(self, connection: Closable) -> None:
        """Remove a connection that was closed."""
        self.open.discard(connection)
        self._check_drained()

    def drain(self) -> Deferred[None]:
        """
        Close each connection when it is idle.

        :return: fires when the last one is closed
        """
        drained = self._drained = Deferred[None]()
        for connection in list(self.open):
            connection.close_when_idle()
        self._check_drained()
        return drained

    def abort(self) -> None:
        """Close all connections at once."""
        for connection in list(self.open):
            connection.forceAbortClient()

    def _check_drained(self) -> None:
        if self._drained is not None and not self.open:
            drained, self._drained = self._drained, None
            drained.callback(None)
