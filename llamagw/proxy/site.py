"""
What listens: Twisted's Site, which makes a `Channel` for each connection of a client.

Which handler gets a request is decided by the table and the resource tree that it is given; what
connections share is in connections.py, what one does in channel.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from twisted.internet.interfaces import IReactorTime
from twisted.web import server
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import IResource

from llamagw.proxy.channel import Channel
from llamagw.proxy.connections import Connections, Limits
from llamagw.proxy.request import Request


class Site(server.Site):
    """
    :param tree: the resource tree
    :param table: handlers of POST, by path; looked at before the tree
    :param clock: keeps time
    :param limits: what a client may do
    :param access_log: whether each request is logged
    :ivar connections: those that are open
    """

    noisy = False

    def __init__(
        self,
        tree: IResource,
        table: Mapping[bytes, Callable[[Request], object]],
        clock: IReactorTime,
        limits: Limits,
        access_log: bool = False,
    ) -> None:
        super().__init__(tree, Request, timeout=None, reactor=clock)
        self.table = table
        self.access_log = access_log
        self.connections = Connections(clock, limits)
        # Twisted's default would stand between each read and the channel, to offer HTTP/2.
        self.protocol = partial(Channel, self.connections)  # type: ignore[assignment]

    def allow(self, limits: Limits, access_log: bool) -> None:
        """
        Go by other limits from now on.

        :param access_log: whether each request is logged
        """
        self.connections.allow(limits)
        self.access_log = access_log

    def startFactory(self) -> None:
        """Twisted would keep a clock for its log lines here, once a second."""

    def stopFactory(self) -> None:
        """See startFactory."""

    def log(self, request: HTTPRequest) -> None:
        """Called by Twisted at the end of each answer."""
        if self.access_log and isinstance(request, Request):
            request.log_access(request.code)
