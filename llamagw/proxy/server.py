"""
The server's side: Twisted's Site, HTTPChannel and Request, made lean and made to speak JSON.

What differs from Twisted's own: bodies stay in memory and under a limit that is enforced as they
arrive; no cookie, form or Content-Type is parsed; every error, also one in the HTTP itself, is an
OpenAI envelope; CORS headers are on every answer; a POST to a known path is found in a dict before
the resource tree is asked, whose URL match would cost more than all the rest.
What is done with a request is decided by the tree and the table that `Site` is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import NO_BODY_CODES, RESPONSES, HTTPChannel, parse_qs
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import IResource

from llamagw.errors import (
    BadRequest,
    BodyTooLarge,
    Dialect,
    GatewayError,
    PathNotFound,
    RequestTimeout,
    ServerBusy,
)
from llamagw.proxy.headers import CORS, end_to_end
from llamagw.proxy.transport import IConnection

_log = Logger(namespace="llamagw.server")
_access = Logger(namespace="llamagw.access")

#: Seconds that a client gets to read why it was refused while what it still sends is thrown away.
#: Closing at once would reset the connection, and the reason might be lost with it.
LINGER_SEC = 5

#: How many connections that are too many are told so at once. Each needs a file while it is; the
#: rest are closed without a word, so that those who are in can go on.
MANNERLY = 32

_JSON = b"application/json"
_CORS_LINES = b"".join(b"%b: %b\r\n" % pair for pair in CORS)
_CORS_NAMES = frozenset(
    b"access-control-" + name
    for name in (
        b"allow-credentials",
        b"allow-headers",
        b"allow-methods",
        b"allow-origin",
        b"expose-headers",
        b"max-age",
    )
)


class Request(server.Request):
    """
    One request.

    :ivar body: what the client sent, whole
    :ivar gone: called, if set, when the client goes away before it is answered
    :ivar streams_events: whether the answer begun is a stream of server-sent events
    """

    defaultContentType = None
    body = b""
    gone: Callable[[], object] | None = None
    streams_events = False
    site: Site | None
    channel: Channel

    # While it arrives

    def parseCookies(self) -> None:
        """There are none."""

    def gotLength(self, length: int | None) -> None:
        self._clock = self.channel.site.clock
        self._started = self._clock.seconds()
        self._parts: list[bytes] = []
        self._room = self.channel.site.max_body
        if length is not None and length > self._room:
            self._too_large()

    def handleContentChunk(self, data: bytes) -> None:
        self._room -= len(data)
        if self._room < 0:
            self._too_large()
        else:
            self._parts.append(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        self.method, self.uri, self.clientproto = command, path, version
        self.path, _, query = path.partition(b"?")
        self.args = parse_qs(query, keep_blank_values=1) if query else {}
        self.body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self.process()

    def process(self) -> None:
        self.site = site = self.channel.site
        if self.method == b"POST":
            handler = site.table.get(self.path)
            if handler is not None:
                handler(self)
                return
        elif self.method == b"OPTIONS":
            self._preflight()
            return
        try:
            unquote_to_bytes(self.path).decode()
        except UnicodeDecodeError:
            self.fail(BadRequest("The path is not UTF-8."))
            return
        if self.path == b"*":
            self.fail(PathNotFound("* is no path for anything but OPTIONS."))
            return
        super().process()

    def getRequestHostname(self) -> bytes:
        """Nothing depends on it, and Klein would stumble over one that is not UTF-8."""
        return b"gateway"

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)
        if self.site is not None and self.site.access_log:
            self._log_access("gone")
        if self.gone is not None:
            self.gone()

    # The answer

    @property
    def dialect(self) -> Dialect:
        """In which envelope errors are told here."""
        return Dialect.of(self.path)

    @property
    def unanswered(self) -> bool:
        """Whether there is still somebody to whom something can be said."""
        return not self._disconnected and not self.finished

    def begin(
        self, status: int, reason: bytes, headers: Sequence[tuple[bytes, bytes]], data: bytes
    ) -> None:
        """
        Write the head of an answer that comes from elsewhere, and what there is of its body.

        Headers of one hop are dropped, CORS ones replaced, the rest is passed as it is.
        `pass_on` and `finish` follow.
        """
        self.startedWriting = 1
        self.code = status
        lines = [b"%b %d %b\r\n" % (self.clientproto, status, reason)]
        lines += end_to_end(headers, _CORS_NAMES)
        lines.append(_CORS_LINES)
        told = {name.lower(): value for name, value in headers}
        self.streams_events = told.get(b"content-type", b"").startswith(b"text/event-stream")
        if (
            self.clientproto == b"HTTP/1.1"
            and status not in NO_BODY_CODES
            and self.method != b"HEAD"
            and b"content-length" not in told
        ):
            self.chunked = 1
            lines.append(b"Transfer-Encoding: chunked\r\n")
        lines.append(b"\r\n" if self.channel.persistent else b"Connection: close\r\n\r\n")
        if data:
            lines.append(self._framed(data))
        self.channel.transport.write(b"".join(lines))

    def switch(
        self,
        reason: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        protocol: bytes,
        upstream: IConnection,
    ) -> None:
        """
        Go on with another protocol: from now on each side's bytes are the other's, as they are.

        `pass_on` and `finish`, which closes the connection, follow.
        """
        self.startedWriting = 1
        self.code = 101
        lines = [b"%b 101 %b\r\n" % (self.clientproto, reason), *end_to_end(headers, _CORS_NAMES)]
        lines.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n\r\n" % protocol)
        self.channel.transport.write(b"".join(lines))
        self.registerProducer(upstream, True)
        self.channel.tunnel(upstream)

    def pass_on(self, data: bytes) -> None:
        """Write more of the body, after `begin`. Never empty: that would end a chunked one."""
        self.channel.transport.write(self._framed(data))

    def _framed(self, data: bytes) -> bytes:
        self.sentLength += len(data)
        return b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data

    def write(self, data: bytes) -> None:
        if not self.startedWriting:
            for name, value in CORS:
                self.responseHeaders.setRawHeaders(name, [value])
        super().write(data)

    def answer(self, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Answer with JSON of the gateway's own."""
        self.write(self.prepare(status, body, headers))
        self.finish()

    def prepare(
        self, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> bytes:
        """Set the status and headers for a JSON body; returns it, for Klein to write."""
        self.setResponseCode(status)
        for name, value in headers:
            self.responseHeaders.setRawHeaders(name, [value])
        if body:
            self.responseHeaders.setRawHeaders(b"Content-Type", [_JSON])
            self.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
        return body

    def fail(self, error: GatewayError) -> None:
        """Answer with an error; nothing must have been written yet."""
        self.answer(error.status, error.body(self.dialect), error.headers())

    def cut(self) -> None:
        """
        Close the connection without ending the answer.

        What was written is still sent, so that the client sees an answer that is not whole.
        """
        # Or `finish` would write a last chunk, which makes it whole.
        self.finished = 1
        self.channel.loseConnection()

    def processingFailed(self, reason: Failure) -> Failure:
        _log.failure("{method} {path} failed", reason, method=self.method, path=self.path)
        if self.startedWriting:
            self.cut()
        else:
            self.fail(GatewayError("The gateway failed; its log says why."))
        return reason

    def _preflight(self) -> None:
        asked = self.requestHeaders.getRawHeaders(b"Access-Control-Request-Headers", [b"*"])
        headers = [
            (b"Allow", b"GET, HEAD, POST, OPTIONS"),
            (b"Access-Control-Allow-Methods", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            # A wildcard would not cover Authorization.
            (b"Access-Control-Allow-Headers", b", ".join(asked)),
            (b"Access-Control-Max-Age", b"86400"),
            (b"Vary", b"Access-Control-Request-Headers"),
        ]
        self.answer(204, b"", headers)

    def _too_large(self) -> None:
        limit = self.channel.site.max_body / 2**20
        self._parts.clear()
        self.channel.refuse(BodyTooLarge(f"The body is over {limit:g} MB (max_body_mb)."))

    def _log_access(self, outcome: object) -> None:
        _access.info(
            "{client} {method} {path} {outcome} {size} B {sec:.3f} s",
            client=getattr(self.client, "host", "-"),
            method=self.method.decode(errors="replace"),
            path=self.path.decode(errors="replace"),
            outcome=outcome,
            size=self.sentLength,
            sec=self._clock.seconds() - self._started,
        )


class Channel(HTTPChannel):
    """
    One connection of a client.

    The names with an underscore that are overridden are HTTPChannel's own hooks for answers that
    it would otherwise give itself, without a body.
    """

    requestFactory = Request
    site: Site
    transport: IConnection
    _refused = False
    _last = False
    _sending = False
    _since = 0.0
    _tunnel: IConnection | None = None
    _alarm: IDelayedCall | None = None
    _stalled: IDelayedCall | None = None

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.channels.add(self)
        self._since = self.site.clock.seconds()
        self._alarm = self.callLater(self.site.request_timeout, self._look_at_the_time)
        if len(self.site.channels) > self.site.max_connections:
            self.site.is_full()
            if len(self.site.channels) > self.site.max_connections + MANNERLY:
                return self.transport.abortConnection()
            # It has sent nothing yet that it could lose, and its descriptor is wanted.
            error = ServerBusy("Too many connections are open.", retry_after=1)
            self.refuse(error, linger=False)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._reads_on()
        if self._alarm is not None:
            self._alarm.cancel()
        self.site.channels.discard(self)
        self.site.channel_gone()

    def dataReceived(self, data: bytes) -> None:
        if self._refused:
            return
        if self._tunnel is not None:
            self._tunnel.write(data)
            return
        if not self._sending and not self._handlingRequest:
            self._sending = True
            self._since = self.site.clock.seconds()
        super().dataReceived(data)
        if self._buffer and self.line_mode and b"\n" in self._buffer:
            self._refuse_shape("a line ends without a carriage return")

    def tunnel(self, upstream: IConnection) -> None:
        """What comes from here on is no HTTP: pass it on, and the connection ends with it."""
        self._tunnel = upstream
        self.persistent = 0
        upstream.registerProducer(self.transport, True)
        early, self._dataBuffer = self._dataBuffer, []
        for data in early:
            upstream.write(data)
        # It was paused if there was much of that.
        self.transport.resumeProducing()

    def requestDone(self, request: HTTPRequest) -> None:
        self._since = self.site.clock.seconds()
        super().requestDone(request)

    def _look_at_the_time(self) -> None:
        """
        Close a connection that is idle, or sends its request, for too long.

        One timer for each connection, set when it last rang, instead of Twisted's, which is set
        and unset for each request; and a byte now and then does not keep a request open.
        """
        left = self._since + self.site.request_timeout - self.site.clock.seconds()
        if self._handlingRequest:
            left = self.site.request_timeout
        if left > 0:
            self._alarm = self.callLater(left, self._look_at_the_time)
            return
        self._alarm = None
        if self._sending and not self._refused:
            limit = self.site.request_timeout
            self.refuse(RequestTimeout(f"The request took over {limit:g} s to arrive."))
        else:
            self.transport.abortConnection()

    def allContentReceived(self) -> None:
        self._sending = False
        if not self._refused:  # the end may come in the same read as what was too much
            super().allContentReceived()

    def lineReceived(self, line: bytes) -> None:
        # What some servers read as one header and others as two is how requests are smuggled.
        if b"\n" in line:
            self._refuse_shape("a line ends without a carriage return")
        elif line[:1] in (b" ", b"\t"):
            self._refuse_shape("a header is continued on a second line")
        else:
            super().lineReceived(line)

    def pauseProducing(self) -> None:
        super().pauseProducing()
        if self._stalled is None:
            self._stalled = self.callLater(self.site.client_stall, self._cut_stalled)

    def resumeProducing(self) -> None:
        self._reads_on()
        super().resumeProducing()

    def _reads_on(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _cut_stalled(self) -> None:
        self._stalled = None
        _log.debug("cutting off a client that has stopped reading")
        self.transport.abortConnection()

    def _refuse_shape(self, what: str) -> None:
        self.refuse(BadRequest(f"This is not a valid HTTP request: {what}."))

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        super().registerProducer(producer, streaming)
        if self._waitingForTransport:
            # The transport paused us before it was there, and will not say so again.
            producer.pauseProducing()

    def refuse(self, error: GatewayError, linger: bool = True) -> None:
        """
        Answer a request that is not read to its end, and take nothing more from this client.

        :param linger: read on, and throw away, for a while, so that the answer is not lost
        """
        if self._refused:
            return
        self._refused = True
        self.clearLineBuffer()
        body = error.body(Dialect.of(getattr(self, "_path", b"")))
        head = b"HTTP/1.1 %d %b\r\n" % (error.status, RESPONSES[error.status])
        head += b"Content-Type: %b\r\nContent-Length: %d\r\n" % (_JSON, len(body))
        head += b"".join(b"%b: %b\r\n" % pair for pair in error.headers())
        self.transport.write(head + _CORS_LINES + b"Connection: close\r\n\r\n" + body)
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
        """Nobody wanted to read why it was refused."""
        self.transport.abortConnection()

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.refuse(BadRequest("This is not a valid HTTP request."))

    def _send100Continue(self) -> None:
        if not self._refused:
            super()._send100Continue()


class Limits(NamedTuple):
    """
    What a client may do.

    :ivar max_body: bytes that a request's body may have
    :ivar request_timeout: seconds that a request may take to arrive, and a connection be idle
    :ivar client_stall: seconds that a client may stop reading an answer
    :ivar max_connections: how many may be open at once
    """

    max_body: int
    request_timeout: float
    client_stall: float
    max_connections: int


class Site(server.Site):
    """
    What listens: makes a `Channel` for each connection.

    :param tree: the resource tree
    :param table: handlers of POST, by path; looked at before the tree
    :param clock: keeps time
    :param limits: what a client may do
    :param access_log: whether each request is logged
    """

    # Not Twisted's default, which would stand between each read and the channel to offer HTTP/2.
    protocol = Channel  # type: ignore[assignment]
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
        self.clock = clock
        self.allow(limits, access_log)
        self._said_full = float("-inf")
        self.channels: set[Channel] = set()
        self._empty: Deferred[None] | None = None

    def allow(self, limits: Limits, access_log: bool) -> None:
        """Go by other limits from now on."""
        self.max_body = limits.max_body
        self.request_timeout = limits.request_timeout
        self.client_stall = limits.client_stall
        self.max_connections = limits.max_connections
        self.access_log = access_log

    def startFactory(self) -> None:
        """Twisted would keep a clock for its log lines here, once a second."""

    def stopFactory(self) -> None:
        """See startFactory."""

    def log(self, request: HTTPRequest) -> None:
        """Called by Twisted at the end of each answer."""
        if self.access_log and isinstance(request, Request):
            request._log_access(request.code)

    def is_full(self) -> None:
        """Told by a channel: it is one too many. Says so in the log, once a minute at most."""
        if self.clock.seconds() - self._said_full >= 60:
            self._said_full = self.clock.seconds()
            _log.error(
                "{count} connections are open, as many as the limit of open files allows "
                "(ulimit -n, LimitNOFILE); more are refused",
                count=self.max_connections,
            )

    def drain(self) -> Deferred[None]:
        """
        Close each connection when its answer is out.

        :return: fires when the last one is closed
        """
        self._empty = Deferred()
        empty = self._empty
        for channel in list(self.channels):
            channel.close_when_idle()
        self.channel_gone()
        return empty

    def abort(self) -> None:
        """Close the connections that are left, at once."""
        for channel in list(self.channels):
            channel.forceAbortClient()

    def channel_gone(self) -> None:
        """Told by a channel: it is closed."""
        if self._empty is not None and not self.channels:
            empty, self._empty = self._empty, None
            empty.callback(None)
