"""
Twisted's Site, which makes a `Channel` for each connection of a client.

The handler of a request is looked up in the table and the resource tree that it is given. What
connections share is in connections.py, one connection in channel.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from twisted.internet.interfaces import IAddress, IProtocol, IReactorTime
from twisted.web import server
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import IResource

from llamagw.dialects import only_looks
from llamagw.gate import Gate
from llamagw.listeners import Listeners
from llamagw.observe import Begin, Record, log
from llamagw.proxy.channel import Channel
from llamagw.proxy.connections import Connections, Limits
from llamagw.proxy.in_clear import InClear
from llamagw.proxy.request import Request


class Site(server.Site):
    """
    Makes the connections, and knows the handlers of their requests.

    :param tree: the resource tree
    :param table: handlers of POST, by path; looked up before the tree
    :param clock: the reactor, or a Clock
    :param limits: the limits of clients
    :param records: told of each request that has ended
    :param access_log: whether each request is logged
    :param trace: begins the spans of a request, by its headers; None if it has none
    :ivar connections: the open ones
    """

    noisy = False

    def __init__(
        self,
        tree: IResource,
        table: Mapping[bytes, Callable[[Request], object]],
        clock: IReactorTime,
        limits: Limits,
        records: Listeners[Record],
        access_log: bool = False,
        trace: Begin | None = None,
    ) -> None:
        super().__init__(tree, Request, timeout=None, reactor=clock)
        self.table = table
        self.tell = records.tell
        self.trace = trace
        self._records = records
        self._silence: Callable[[], None] | None = None
        self.connections = Connections(clock, limits)
        self.allow(limits, access_log)
        # Twisted's default would stand between each read and the channel, to offer HTTP/2.
        self.protocol = partial(Channel, self.connections)  # type: ignore[assignment]

    def in_clear(self, addr: IAddress) -> IProtocol:
        """
        Make what answers a client who does not speak TLS, where TLS is spoken.

        :param addr: of the client
        """
        channel = InClear(self.connections)
        channel.factory = channel.site = self
        channel.requestFactory = self.requestFactory
        channel.callLater = self.reactor.callLater  # type: ignore[assignment, method-assign]
        channel.timeOut = None
        return channel

    @property
    def access_log(self) -> bool:
        """Whether each request is logged."""
        return self._silence is not None

    def allow(self, limits: Limits, access_log: bool) -> None:
        """
        Change the limits.

        :param limits: the new ones
        :param access_log: whether each request is logged
        """
        self.connections.allow(limits)
        if access_log and self._silence is None:
            self._silence = self._records.add(_log)
        elif not access_log and self._silence is not None:
            self._silence()
            self._silence = None

    def under_way(self) -> list[Request]:
        """The requests for models that have arrived, and that have not ended."""
        return [
            request
            for channel in self.connections.open
            for request in channel.requests
            if isinstance(request, Request)
            and request.record is not None
            and request.record.asked is not None
        ]

    def admit(self, gate: Gate | None) -> None:
        """
        Let requests in by a gate from now on.

        What the holders of keys have open that are not valid any more is cut off: answers, and
        streams of events, which would go on for ever.

        :param gate: None to let everybody in
        """
        self.connections.gate = gate
        if gate is None:
            return
        for channel in list(self.connections.open):
            if any(
                isinstance(request, Request) and not gate.knows(request.caller)
                for request in channel.requests
            ):
                channel.forceAbortClient()

    def startFactory(self) -> None:
        """Does nothing: Twisted's would update the time of its log lines once a second."""

    def stopFactory(self) -> None:
        """Does nothing, as `startFactory`."""

    def log(self, request: HTTPRequest) -> None:
        """Called by Twisted at the end of each answer."""
        if isinstance(request, Request):
            request.tell()


def _log(record: Record) -> None:
    """Write the line of a request, unless it only looked, for no model, and was answered."""
    looked = record.asked is None and record.status < 400
    if not (looked and only_looks(record.method, record.path)):
        log(record)
