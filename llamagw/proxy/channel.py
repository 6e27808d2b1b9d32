"""
One connection of a client: its timeouts, the validity of its HTTP, and its end.

Differences from Twisted's HTTPChannel: errors in the HTTP itself are answered with a JSON envelope;
HTTP that servers read differently is refused; pipelined requests are answered in turns with other
connections; clients that send or read too slowly are disconnected; the connection can become a
tunnel. Requests whose heads are complete are handled by request.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES
from twisted.web.http import Request as HTTPRequest
from twisted.web.http_headers import Headers

from llamagw.dialects import Scope, dialect_of, scope_of
from llamagw.errors import (
    BadRequest,
    BodyTooLarge,
    GatewayError,
    RequestTimeout,
    ServerBusy,
)
from llamagw.net import IConnection, peer_names
from llamagw.observe import HERE, Record, request_id
from llamagw.proxy.connections import Connections
from llamagw.proxy.origins import as_lines, decoded_path, joined
from llamagw.proxy.twisted_private import KnownChannel, KnownRequest

#: A trailer, after the last chunk (RFC 9112, 7.1.2).
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")

#: Not allowed in a head (RFC 9110, 5.5); to some servers, two of them are blanks.
_CONTROL = re.compile(rb"[\0-\x08\x0a-\x1f\x7f]")

_log = Logger(namespace="llamagw.server")

#: Seconds for which a refused client's bytes are read and discarded, so that it can read the error.
#: Closing at once would reset the connection, and the error might be lost.
LINGER_SEC = 5

#: How many connections over the limit are answered with 503 at a time. Each uses a file descriptor
#: meanwhile; further ones are reset without an answer.
REFUSED_WITH_503 = 32

#: After this many requests of one read, or this many seconds, other connections have a turn.
PIPELINED, TURN_SEC = 8, 0.01

#: Bytes that are read ahead while a request is being answered, so that a disconnect is noticed;
#: equal to Twisted's own limit.
EARLY = 0x4000

#: Maximum length of a header's name, in bytes: Twisted caches up to 10,000 and drops none.
HEADER_NAME = 256

#: The reason phrase of 429, which Twisted does not know.
TOO_MANY = b"Too Many Requests"

#: Maximum number of digits of a ``Content-Length``; Python raises for over 4,300.
LENGTH_DIGITS = 19

#: Minimum rate, in bytes per second, at which a client must read, averaged over
#: ``client_stall_sec``; and how many bytes it has read at least when a full connection is writable
#: again.
SLOWEST, READ_AT_LEAST = 1024, 48 * 1024


class Channel(KnownChannel):
    """
    One connection of a client.

    :param connections: registers it, and has its limits
    :ivar refused: whether `refuse` was called: further bytes are not parsed
    """

    transport: IConnection
    requests: list[KnownRequest]
    refused = False
    _last = False
    _sending = False
    _since = 0.0
    _tunnel: IConnection | None = None
    _alarm: IDelayedCall | None = None
    _stalled: IDelayedCall | None = None
    _late: IDelayedCall | None = None
    _certified: tuple[str, ...] | None = None
    #: Bytes of request bodies in memory, as counted in `Connections.bodies`.
    _held = 0
    #: Number of requests of the current read that were answered; and the call for the next ones.
    _answered = 0
    _next_turn: IDelayedCall | None = None
    #: Since when the connection is full; and for how many seconds from then on it may be.
    _full_since = 0.0
    _patience = 0.0

    def __init__(self, connections: Connections) -> None:
        super().__init__()
        self.connections = connections

    def __repr__(self) -> str:
        if self.transport is None:
            return "<Channel: not connected>"
        states = [
            ("tunnel", self._tunnel is not None),
            ("refused", self.refused),
            ("answering", self.handling),
            ("receiving", self._sending),
            ("client does not read", self.full),
        ]
        state = ", ".join(name for name, is_so in states if is_so) or "idle"
        return f"<Channel of {self.transport.getPeer()}: {state}, {self._held} bytes held>"

    def connectionMade(self) -> None:
        super().connectionMade()
        self._since = self.connections.clock.seconds()
        self._patience = self.connections.client_stall
        self._alarm = self.callLater(self.connections.request_timeout, self._check_time)
        excess = self.connections.add(self)
        if excess > REFUSED_WITH_503:
            self.transport.abortConnection()
        elif excess > 0:
            # Without lingering: the client has sent nothing yet, and its descriptor is needed.
            error = ServerBusy("Too many connections are open.", retry_after=1)
            self.refuse(error, linger=False)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.release()
        for timer in (self._alarm, self._stalled, self._next_turn, self._late):
            if timer is not None and timer.active():
                timer.cancel()
        self.connections.remove(self)

    def dataReceived(self, data: bytes) -> None:
        if self.refused:
            return
        if self._tunnel is not None:
            self._tunnel.write(data)
            return
        if not self._sending and not self.handling:
            self._sending = True
            self._since = self.connections.clock.seconds()
        if not self.receiving:
            self._answered = 0
        super().dataReceived(data)
        # Not if called within itself (by a request of the same read that was answered at once) or
        # while paused: the outer call, or `_take_turn`, goes on with the buffer.
        read = not (self.paused or self.receiving)
        if read and self.unparsed and self.line_mode and b"\n" in self.unparsed:
            self._refuse_shape("a line ends without a carriage return")

    def tunnel(self, upstream: IConnection) -> None:
        """
        Pass on all further bytes, which are not HTTP, until the connection ends.

        :param upstream: the connection to write them to
        """
        self._tunnel = upstream
        self.persistent = 0
        upstream.registerProducer(self.transport, True)
        for data in self.take_early():
            upstream.write(data)
        # Twisted has paused it if there were many of those bytes.
        self.transport.resumeProducing()

    def rawDataReceived(self, data: bytes) -> None:
        if self.handling and not self.hold(len(data)):
            # A pipelined request for which there is no memory.
            self.transport.abortConnection()
        else:
            super().rawDataReceived(data)

    def requestDone(self, request: HTTPRequest) -> None:
        now = self.connections.clock.seconds()
        # Only a request that was answered synchronously has delayed other connections.
        took_long = self.receiving and now - self._since >= TURN_SEC
        self._since = now
        self._patience = self.connections.client_stall
        if self._held:
            self.release()
        self._answered += 1
        turn_is_over = self._answered >= PIPELINED or took_long
        if self.persistent and (turn_is_over or self.full):
            # While `paused`, LineReceiver keeps the buffer; `_take_turn` goes on with it.
            self.paused = True
        super().requestDone(request)
        if self.paused:
            self.transport.pauseProducing()
            self._have_turn()

    def _have_turn(self) -> None:
        if self._next_turn is None and not self.full:
            self._next_turn = self.callLater(0, self._take_turn)

    def _take_turn(self) -> None:
        """Answer further requests of a read, some of whose were answered in an earlier turn."""
        self._next_turn = None
        if self.full:
            return  # `resumeProducing` schedules another turn
        self.paused = False
        if self.unparsed:
            self.dataReceived(b"")
        kept = sum(map(len, self.early))
        if not self.paused and not self.full and kept <= EARLY:
            self.transport.resumeProducing()

    def hold(self, count: int) -> bool:
        """
        Count bytes of this connection's requests as held in memory.

        :param count: bytes
        :return: whether they are within ``max_bodies``
        """
        if not self.connections.bodies.take(count):
            return False
        self._held += count
        return True

    def release(self, count: int | None = None) -> None:
        """
        Count bytes as no longer held.

        :param count: bytes; None for all
        """
        count = self._held if count is None else count
        self._held -= count
        self.connections.bodies.give_back(count)

    def _check_time(self) -> None:
        """
        Close a connection that has been idle, or sending one request, for ``request_timeout``.

        One timer per connection, which is set again only when it fires; Twisted's is set and
        cancelled for each request. Bytes that arrive do not extend the time for a request.
        """
        left = self._since + self.connections.request_timeout - self.connections.clock.seconds()
        if self.handling:
            left = self.connections.request_timeout
        if left > 0:
            self._alarm = self.callLater(left, self._check_time)
            return
        self._alarm = None
        if self._sending and not self.refused:
            limit = self.connections.request_timeout
            self.refuse(RequestTimeout(f"The request took over {limit:g} s to arrive."))
        else:
            self.transport.abortConnection()

    def allContentReceived(self) -> None:
        self._sending = False
        # Trailers are not used, but the next request begins after them: a server that accepts a
        # bare LF as the end of a line may find another end.
        if not all(map(_TRAILER.fullmatch, self.trailers)):
            self._refuse_shape("a line behind the last chunk is no header")
        if not self.refused:  # the end may be in the same read as what was refused
            super().allContentReceived()

    def lineReceived(self, line: bytes) -> None:
        # Against request smuggling: some servers read these as one header, others as two.
        if b"\n" in line:
            self._refuse_shape("a line ends without a carriage return")
        elif line[:1] in (b" ", b"\t"):
            self._refuse_shape("a header is continued on a second line")
        elif _CONTROL.search(line):
            self._refuse_shape("a line has control characters")
        else:
            super().lineReceived(line)

    def unusual(self, name: bytes, value: bytes, line: bytes) -> bool:
        if len(name) > HEADER_NAME:
            self.refuse(BadRequest(f"The name of a header is over {HEADER_NAME} bytes long."))
            return False
        if len(value) > LENGTH_DIGITS and name.lower() == b"content-length":
            self.refuse(BodyTooLarge("The body's Content-Length is out of all bounds."))
            return False
        return super().unusual(name, value, line)

    def pauseProducing(self) -> None:
        super().pauseProducing()
        if self._stalled is None:
            self._full_since = self.connections.clock.seconds()
            self._stalled = self.callLater(self._patience, self._cut_stalled)

    def resumeProducing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
            # The bytes that it has read extend its time, at `SLOWEST`: a client that reads more
            # slowly, and so occupies its model, runs out of it.
            waited = self.connections.clock.seconds() - self._full_since
            earned = READ_AT_LEAST / SLOWEST
            self._patience = min(self._patience - waited + earned, self.connections.client_stall)
        super().resumeProducing()
        if self.paused:
            self.transport.pauseProducing()
            self._have_turn()

    def _cut_stalled(self) -> None:
        self._stalled = None
        _log.debug("cutting off a client that has stopped reading, or reads too slowly")
        self.transport.abortConnection()

    def _refuse_shape(self, what: str) -> None:
        self.refuse(BadRequest(f"This is not a valid HTTP request: {what}."))

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        super().registerProducer(producer, streaming)
        if self.full:
            # The transport has called pauseProducing before, and will not call it again.
            producer.pauseProducing()

    def refuse(self, error: GatewayError, linger: bool = True, late: float = 0.0) -> None:
        """
        Answer a request before it has arrived completely, and close the connection.

        :param error: the answer
        :param linger: whether to read and discard bytes for `LINGER_SEC` before closing, so that
            the answer is not lost
        :param late: seconds after which it is answered
        """
        if self.refused:
            return
        self.refused = True
        self.clearLineBuffer()
        self.release()
        for request in self.requests:
            request.drop_arriving()
        if late:
            self._late = self.callLater(late, lambda: self._send_refusal(error, linger))
        else:
            self._send_refusal(error, linger)

    def _send_refusal(self, error: GatewayError, linger: bool) -> None:
        method, path = self.request_line
        headers = self.requests[-1].requestHeaders if self.requests else Headers()
        clock = self.connections.clock
        given = headers.getRawHeaders(b"x-request-id")
        record = Record(id=request_id(given), arrived=None, method=method, last=clock.seconds())
        record.path = path.partition(b"?")[0]
        record.client = self.address(self.requests[-1].given if self.requests else {})
        record.status = error.status
        record.key = getattr(error, "key", "")
        record.failed(error.code, error.message)
        body = dialect_of(path).envelope(error, record.id)
        head = b"HTTP/1.1 %d %b\r\n" % (error.status, RESPONSES.get(error.status, TOO_MANY))
        head += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
        head += b"X-Request-Id: %b\r\n" % record.id.encode()
        scope = scope_of(method.decode("latin-1"), decoded_path(path))
        origin = joined(headers.getRawHeaders(b"origin"))
        cors = self.connections.origins.headers(origin, scope is Scope.INFER)
        head += as_lines((*error.headers(), *cors))
        if self.requests:
            head += self.requests[-1].limits()
        if method == b"HEAD":
            body = b""
        self.transport.write(head + b"Connection: close\r\n\r\n" + body)
        if linger:
            # Not one of too many connections: they may be thousands.
            self.site.tell(record)
        self.transport.unregisterProducer()
        if linger:
            self.setTimeout(LINGER_SEC)
            # Twisted's TLS transport cannot be half closed (it would half close the socket, unsent
            # data or not), but its loseConnection reads on until the client has closed too.
            half = hasattr(type(self.transport), "loseWriteConnection")
            (self.transport.loseWriteConnection if half else self.transport.loseConnection)()
        else:
            self.transport.loseConnection()

    @property
    def certified(self) -> tuple[str, ...]:
        """The names in the client's certificate; none without one."""
        if self._certified is None:
            found = peer_names(self.transport)
            self._certified = () if found is None else (found.common_name, *found.alternative)
        return self._certified

    def address(self, given: Mapping[bytes, list[bytes]]) -> str:
        """
        The client's address: that of the connection, or what a trusted proxy has written.

        :param given: the values of the request's headers, by name
        """
        peer: str = getattr(self.transport.getPeer(), "host", HERE)
        forwarded = self.connections.forwarded
        return peer if forwarded is None else forwarded.client(peer, given)

    def close_when_idle(self) -> None:
        """Close now if idle, else after the answer under way."""
        self._last = True
        self.persistent = 0
        if not self.requests:
            self.loseConnection()

    def checkPersistence(self, request: HTTPRequest, version: bytes) -> bool:
        # Called when a request's head is complete, which may be after `close_when_idle`.
        assert isinstance(request, KnownRequest)
        # Twisted's splits at blanks, and does not find the "close" in "close, X-Hop".
        for line in request.given.get(b"Connection", ()):
            if b"close" in [token.strip() for token in line.lower().split(b",")]:
                request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
                return False
        return version == b"HTTP/1.1" and not self._last

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse(BadRequest("A line of the request's head is too long."))

    def timeoutConnection(self) -> None:
        """Called `LINGER_SEC` after a refusal, if the client has not closed by then."""
        self.transport.abortConnection()

    def malformed(self) -> None:
        self.refuse(BadRequest("This is not a valid HTTP request."))

    def go_ahead(self) -> None:
        if not self.refused:
            super().go_ahead()
