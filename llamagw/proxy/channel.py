"""
One connection of a client: how long it may take, what it may send, and when it ends.

What differs from Twisted's HTTPChannel: every error in the HTTP itself is a JSON envelope; what can
be read in two ways is refused; a client that sends many requests in one go is served in turns; one
that is slow to send or to read is cut off; the connection can become a tunnel. What becomes of a
request whose head is complete is request.py's affair.
"""

from __future__ import annotations

import re

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
from llamagw.net import IConnection
from llamagw.proxy.connections import Connections
from llamagw.proxy.origins import decoded_path
from llamagw.proxy.twisted_private import KnownChannel, KnownRequest

#: A line behind the last chunk (RFC 9112, 7.1.2).
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")

_log = Logger(namespace="llamagw.server")

#: Seconds that a client gets to read why it was refused while what it still sends is thrown away.
#: Closing at once would reset the connection, and the reason might be lost with it.
LINGER_SEC = 5

#: How many connections over the limit are answered 503 at once. Each needs a file while it is; the
#: rest are reset without an answer, so that those that are open can go on.
REFUSED_WITH_503 = 32

#: How many requests that came in one read are answered before other connections have a turn, and
#: seconds after which those have it sooner.
PIPELINED, TURN_SEC = 8, 0.01

#: Bytes of further requests that are read while one is being answered, so that the end of the
#: connection is noticed; as Twisted's own limit.
EARLY = 0x4000

#: Bytes that the name of a header may have: Twisted keeps up to 10,000 names for ever.
HEADER_NAME = 256

#: Digits of a ``Content-Length`` that is a number of bytes; Python refuses one of over 4,300.
LENGTH_DIGITS = 19

#: How fast a client reads, at least, in bytes a second, over any ``client_stall_sec`` or more; and
#: how many bytes it has read, at least, when its connection takes more again after it was full.
SLOWEST, READ_AT_LEAST = 1024, 48 * 1024


class Channel(KnownChannel):
    """
    :param connections: where it is registered, and whose limits hold for it
    :ivar refused: whether it was refused: nothing more that the client sends is parsed
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
    #: Bytes of bodies that are held for this connection.
    _held = 0
    #: How many requests of one read were answered, and what answers the next ones.
    _answered = 0
    _next_turn: IDelayedCall | None = None
    #: When the client's connection was full, and for how many seconds it may be so from then on.
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
            # It has sent nothing yet that it could lose, and its descriptor is wanted.
            error = ServerBusy("Too many connections are open.", retry_after=1)
            self.refuse(error, linger=False)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.release()
        for timer in (self._alarm, self._stalled, self._next_turn):
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
        # With a request in the same read that was answered at once, this is a call within another,
        # which goes on with the buffer; and so does `_take_turn`.
        read = not (self.paused or self.receiving)
        if read and self.unparsed and self.line_mode and b"\n" in self.unparsed:
            self._refuse_shape("a line ends without a carriage return")

    def tunnel(self, upstream: IConnection) -> None:
        """
        Pass on what comes from here on, which is no HTTP; the connection ends with it.

        :param upstream: gets it
        """
        self._tunnel = upstream
        self.persistent = 0
        upstream.registerProducer(self.transport, True)
        for data in self.take_early():
            upstream.write(data)
        # It was paused if there was much of that.
        self.transport.resumeProducing()

    def rawDataReceived(self, data: bytes) -> None:
        if self.handling and not self.hold(len(data)):
            # It has sent more requests before it has its answer, and there is no room for them.
            self.transport.abortConnection()
        else:
            super().rawDataReceived(data)

    def requestDone(self, request: HTTPRequest) -> None:
        now = self.connections.clock.seconds()
        # Only one that was answered at once has kept others waiting.
        took_long = self.receiving and now - self._since >= TURN_SEC
        self._since = now
        self._patience = self.connections.client_stall
        if self._held:
            self.release()
        self._answered += 1
        turn_is_over = self._answered >= PIPELINED or took_long
        if self.persistent and (turn_is_over or self.full):
            # `paused` has LineReceiver keep what it has, until `_take_turn`.
            self.paused = True
        super().requestDone(request)
        if self.paused:
            self.transport.pauseProducing()
            self._have_turn()

    def _have_turn(self) -> None:
        if self._next_turn is None and not self.full:
            self._next_turn = self.callLater(0, self._take_turn)

    def _take_turn(self) -> None:
        """Answer what came together with requests that were answered in an earlier turn."""
        self._next_turn = None
        if self.full:
            return  # `resumeProducing` has another
        self.paused = False
        if self.unparsed:
            self.dataReceived(b"")
        kept = sum(map(len, self.early))
        if not self.paused and not self.full and kept <= EARLY:
            self.transport.resumeProducing()

    def hold(self, count: int) -> bool:
        """
        Take room for so many bytes of this connection's requests.

        :return: whether there is room for them
        """
        if not self.connections.bodies.take(count):
            return False
        self._held += count
        return True

    def release(self, count: int | None = None) -> None:
        """Give room for so many bytes back; for None all that is held."""
        count = self._held if count is None else count
        self._held -= count
        self.connections.bodies.give_back(count)

    def _check_time(self) -> None:
        """
        Close a connection that is idle, or sends its request, for too long.

        One timer for each connection, set when it last rang, instead of Twisted's, which is set
        and unset for each request; and a byte now and then does not keep a request open.
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
        # Nobody uses trailers, but where they end is where the next request begins: to a server
        # that takes a bare LF for the end of a line that may be elsewhere.
        if not all(map(_TRAILER.fullmatch, self.trailers)):
            self._refuse_shape("a line behind the last chunk is no header")
        if not self.refused:  # the end may come in the same read as what was too much
            super().allContentReceived()

    def lineReceived(self, line: bytes) -> None:
        # What some servers read as one header and others as two is how requests are smuggled.
        if b"\n" in line:
            self._refuse_shape("a line ends without a carriage return")
        elif line[:1] in (b" ", b"\t"):
            self._refuse_shape("a header is continued on a second line")
        else:
            super().lineReceived(line)

    def headerReceived(self, line: bytes) -> bool:
        name, _, value = line.partition(b":")
        if len(name) > HEADER_NAME:
            self.refuse(BadRequest(f"The name of a header is over {HEADER_NAME} bytes long."))
            return False
        if len(value) > LENGTH_DIGITS and name.lower() == b"content-length":
            self.refuse(BodyTooLarge("The body's Content-Length is out of all bounds."))
            return False
        return bool(super().headerReceived(line))

    def pauseProducing(self) -> None:
        super().pauseProducing()
        if self._stalled is None:
            self._full_since = self.connections.clock.seconds()
            self._stalled = self.callLater(self._patience, self._cut_stalled)

    def resumeProducing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
            # What it has read gives it time again, but no more than a client that reads slowly,
            # and so keeps its model from others, can live on.
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
            # The transport paused us before it was there, and will not say so again.
            producer.pauseProducing()

    def refuse(self, error: GatewayError, linger: bool = True) -> None:
        """
        Answer a request that is not read to its end, and take nothing more from this client.

        :param linger: read on for `LINGER_SEC`, and discard it, so that the answer is not lost
        """
        if self.refused:
            return
        self.refused = True
        self.clearLineBuffer()
        self.release()
        method, path = self.request_line
        body = dialect_of(path).envelope(error)
        head = b"HTTP/1.1 %d %b\r\n" % (error.status, RESPONSES[error.status])
        head += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
        scope = scope_of(method.decode("latin-1"), decoded_path(path))
        headers = self.requests[-1].requestHeaders if self.requests else Headers()
        cors = self.connections.origins.headers(headers, scope is Scope.INFER)
        for request in self.requests:
            request.drop_arriving()
        head += b"".join(b"%b: %b\r\n" % pair for pair in (*error.headers(), *cors))
        self.transport.write(head + b"Connection: close\r\n\r\n" + body)
        self.transport.unregisterProducer()
        if linger:
            self.setTimeout(LINGER_SEC)
            # TLS cannot be half closed (it would pass this on to the socket, unsent data or not);
            # but it reads on until the other side has closed as well.
            half = hasattr(type(self.transport), "loseWriteConnection")
            (self.transport.loseWriteConnection if half else self.transport.loseConnection)()
        else:
            self.transport.loseConnection()

    def close_when_idle(self) -> None:
        """Close now, or after the answer that is under way."""
        self._last = True
        self.persistent = 0
        if not self.requests:
            self.loseConnection()

    def checkPersistence(self, request: HTTPRequest, version: bytes) -> bool:
        # Asked when a request's head is whole, which may be after `close_when_idle`.
        if self._last or not super().checkPersistence(request, version):
            return False
        # Twisted splits at blanks, and would miss the "close" of "close, X-Hop".
        for line in request.requestHeaders.getRawHeaders(b"connection", ()):
            if b"close" in [token.strip() for token in line.lower().split(b",")]:
                request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
                return False
        return True

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse(BadRequest("A line of the request's head is too long."))

    def timeoutConnection(self) -> None:
        """Called `LINGER_SEC` after a refusal: the client has not closed by then."""
        self.transport.abortConnection()

    def malformed(self) -> None:
        self.refuse(BadRequest("This is not a valid HTTP request."))

    def go_ahead(self) -> None:
        if not self.refused:
            super().go_ahead()
