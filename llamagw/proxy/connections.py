"""
What all connections of clients share: the limits, the room for bodies, the clock, and the registry.

A `Channel` is given it when it is made; the `Site` that listens makes it. It knows no HTTP.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from llamagw.proxy.origins import Origins

_log = Logger(namespace="llamagw.server")

#: A body of more bytes is parsed in a turn of its own: at 60 MB each pass takes 20 to 100 ms.
LARGE = 1024 * 1024


class Limits(NamedTuple):
    """
    What a client may do.

    :ivar max_body: bytes that a request's body may have
    :ivar max_bodies: bytes that all bodies together may have that are held at a time
    :ivar request_timeout: seconds that a request may take to arrive, and a connection be idle
    :ivar client_stall: seconds that a client may stop reading an answer
    :ivar max_connections: how many may be open at once
    :ivar origins: what web pages may do
    """

    max_body: int
    max_bodies: int
    request_timeout: float
    client_stall: float
    max_connections: int
    origins: Origins


class Bodies:
    """
    The room for all bodies that are held: arriving, waiting, or being answered.

    :ivar limit: bytes
    :ivar held: bytes that are taken
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def __repr__(self) -> str:
        return f"<Bodies: {self.held} of {self.limit} bytes>"

    def has_room(self, count: int) -> bool:
        """Whether so many bytes would fit now."""
        return self.held + count <= self.limit

    def take(self, count: int) -> bool:
        """
        Take so many bytes, if they fit.

        :return: whether they do
        """
        if self.held + count > self.limit:
            return False
        self.held += count
        return True

    def give_back(self, count: int) -> None:
        """So many bytes are free again."""
        self.held -= count


class Turns:
    """
    Work that takes long: one piece of it in a turn of the reactor, so that others come between.

    :param clock: the reactor
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: deque[Callable[[], object]] = deque()

    def take(self, work: Callable[[], object]) -> None:
        """Do this when its turn comes."""
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
    """A connection, as the registry knows it."""

    def close_when_idle(self) -> None:
        """Close now, or after the answer that is under way."""

    def forceAbortClient(self) -> None:
        """Close at once."""


class Connections:
    """
    The open connections of clients, and what they share.

    :param clock: keeps time
    :param limits: what a client may do
    :ivar open: those that are open
    :ivar bodies: the room for the bodies of their requests
    :ivar turns: for work that takes long
    :ivar loopback: whether clients come from this machine only
    """

    loopback = False

    def __init__(self, clock: IReactorTime, limits: Limits) -> None:
        self.clock = clock
        self.bodies = Bodies(limits.max_bodies)
        self.turns = Turns(clock)
        self.allow(limits)
        self.open: set[Closable] = set()
        self._logged_full = float("-inf")
        self._drained: Deferred[None] | None = None

    def __repr__(self) -> str:
        return f"<Connections: {len(self.open)} of {self.max_connections}, {self.bodies}>"

    def allow(self, limits: Limits) -> None:
        """Go by other limits from now on."""
        self.max_body = limits.max_body
        self.request_timeout = limits.request_timeout
        self.client_stall = limits.client_stall
        self.max_connections = limits.max_connections
        self.bodies.limit = limits.max_bodies
        self.origins = limits.origins

    def add(self, connection: Closable) -> int:
        """
        Register a connection.

        An excess is logged, once a minute at most.

        :return: by how many there are too many now; 0 or less if there are not
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
        """A connection is closed."""
        self.open.discard(connection)
        self._check_drained()

    def drain(self) -> Deferred[None]:
        """
        Close each connection when its answer is out.

        :return: fires when the last one is closed
        """
        drained = self._drained = Deferred[None]()
        for connection in list(self.open):
            connection.close_when_idle()
        self._check_drained()
        return drained

    def abort(self) -> None:
        """Close the connections that are left, at once."""
        for connection in list(self.open):
            connection.forceAbortClient()

    def _check_drained(self) -> None:
        if self._drained is not None and not self.open:
            drained, self._drained = self._drained, None
            drained.callback(None)
