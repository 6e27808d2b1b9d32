"""
The server's side: Twisted's Site, HTTPChannel and Request, made lean and made to speak JSON.

What differs from Twisted's own: bodies stay in memory, each and all together under limits that are
enforced as they arrive; no cookie, form or Content-Type is parsed; every error, also one in the
HTTP itself, is an OpenAI envelope; CORS headers are on every answer that is open to web pages; a
client that sends many requests in one go is served in turns; a POST to a known path is found in a
dict before the resource tree is asked, whose URL match would cost more than all the rest.
What is done with a request is decided by the tree and the table that `Site` is given.
"""

from __future__ import annotations

import re
from collections import deque
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
from twisted.web.http import (
    NO_BODY_CODES,
    RESPONSES,
    HTTPChannel,
    _MalformedChunkedDataError,
    parse_qs,
)
from twisted.web.http import Request as HTTPRequest
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource

from llamagw.errors import (
    BadRequest,
    BodyTooLarge,
    Dialect,
    GatewayError,
    NotAllowed,
    PathNotFound,
    RequestTimeout,
    ServerBusy,
)
from llamagw.proxy.headers import of_answer
from llamagw.proxy.origins import Origins, Pairs
from llamagw.proxy.transport import IConnection
from llamagw.routes import Scope, scope_of

_log = Logger(namespace="llamagw.server")
_access = Logger(namespace="llamagw.access")

#: Seconds that a client gets to read why it was refused while what it still sends is thrown away.
#: Closing at once would reset the connection, and the reason might be lost with it.
LINGER_SEC = 5

#: How many connections that are too many are told so at once. Each needs a file while it is; the
#: rest are closed without a word, so that those who are in can go on.
MANNERLY = 32

#: How many requests that came in one read are answered before others have a turn, and seconds after
#: which others have it sooner.
PIPELINED, TURN_SEC = 8, 0.01

#: A body may have so many chunks of any size, and one more for each `CHUNK_BYTES` that it has. Each
#: takes Twisted some 3 µs, however little is in it, and uvloop reads 8 MB in one turn.
FREE_CHUNKS, CHUNK_BYTES = 4096, 512

#: A body of more bytes is looked at in a turn of its own: at 60 MB each look takes 20 to 100 ms.
LARGE = 1024 * 1024

#: A body of more bytes than `DENSE` has a quarter of JSON's own punctuation at most: that is what
#: makes a look take long. Numbers have a sixth; text, images and sound much less.
DENSE, PUNCTUATION = 16 * 1024 * 1024, b",:[]{}\\"

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

#: A line behind the last chunk (RFC 9112, 7.1.2).
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")

#: No part of a head (RFC 9110, 5.5); to some servers, two of them are blanks.
_CONTROL = re.compile(rb"[\0-\x08\x0a-\x1f\x7f]")

_JSON = b"application/json"


class Request(server.Request):
    """
    One request.

    :ivar body: what the client sent, whole
    :ivar gone: called, if set, when the client goes away before it is answered
    :ivar streams_events: whether the answer begun is a stream of server-sent events
    :ivar open_to_all: whether any web page may read the answer, if ``cors_origins`` has ``*``
    """

    defaultContentType = None
    body = b""
    open_to_all = True
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
        self._parts: bytes | bytearray = b""
        self._room = self.channel.site.max_body
        #: How many chunks there have been; None if it does not come in chunks.
        self._chunks: int | None = 0 if length is None else None
        #: How much punctuation it has; None while it is too short to be asked.
        self._punctuation: int | None = None
        if length is not None and length > self._room:
            self._too_large()
        elif length and not self.channel.site.bodies.has_room(length):
            self._too_much()

    def handleContentChunk(self, data: bytes) -> None:
        self._room -= len(data)
        if self._room < 0:
            self._too_large()
        elif not self.channel.hold(len(data)):
            self._too_much()
        elif self._too_dense(data):
            error = "The body is over 16 MiB and more than a quarter of it is punctuation of JSON."
            self.channel.refuse(BadRequest(error))
        elif not self._parts:
            self._parts = data
        else:
            if isinstance(self._parts, bytes):
                # Not a list of parts: each would take 33 bytes more than it has.
                self._parts = bytearray(self._parts)
            self._parts += data
        if self._chunks is not None:
            self._chunks += 1
            if self._chunks > FREE_CHUNKS + len(self._parts) // CHUNK_BYTES:
                self.channel.refuse(
                    BadRequest(
                        f"The body comes in too many small chunks: over {FREE_CHUNKS} of under "
                        f"{CHUNK_BYTES} bytes on average."
                    )
                )
            if self.channel.refused:
                # Or Twisted would go on to take the rest of this read apart, chunk by chunk.
                raise _MalformedChunkedDataError

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        self.method, self.uri, self.clientproto = command, path, version
        self.path, _, query = path.partition(b"?")
        self.args = parse_qs(query, keep_blank_values=1) if query else {}
        if len(self._parts) > LARGE:
            self.channel.site.turns.take(self._take_large)
        else:
            self.body, self._parts = bytes(self._parts), b""
            self.process()

    def _take_large(self) -> None:
        if not self._disconnected:
            self.body, self._parts = bytes(self._parts), b""
            self.channel.site.turns.take(self._process_large)

    def _process_large(self) -> None:
        if not self._disconnected:
            self.process()

    def _too_dense(self, data: bytes) -> bool:
        """Whether a body that has come so far would take long to be looked at."""
        size = len(self._parts) + len(data)
        if size <= DENSE:
            return False
        count = self._punctuation
        if count is None:
            count, data = 0, bytes(self._parts) + data
        self._punctuation = count + len(data) - len(data.translate(None, PUNCTUATION))
        return self._punctuation > size // 4

    def turn(self) -> Deferred[None]:
        """Fires in a turn of its own, for what takes long with a large body."""
        turn: Deferred[None] = Deferred()
        self.channel.site.turns.take(lambda: turn.callback(None))
        return turn

    def drop_arriving(self) -> None:
        """What has arrived of the body is not wanted."""
        self._parts = b""

    def drop_body(self) -> None:
        """The body will not be needed again: somebody else may have its room."""
        if self.body:
            held, self.body = len(self.body), b""
            self.channel.release(held)

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
        if self.path[:1] != b"/":
            # Twisted would drop its first character, whatever that is.
            self.fail(BadRequest("The path does not begin with a slash."))
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

    def guard(self) -> None:
        """
        Take this request from the gateway's own pages, from listed origins and from programs only.

        :raises NotAllowed: when a web page of another origin is behind it
        """
        self.open_to_all = False
        assert self.site is not None
        self.site.origins.check(self.requestHeaders, self.site.loopback)

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
        self,
        status: int,
        reason: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        data: bytes,
        passed: frozenset[bytes] = frozenset(),
    ) -> None:
        """
        Write the head of a backend's answer, and what there is of its body.

        Headers of one hop are dropped, and those that act on the client's browser; the gateway's
        own CORS headers are added; the rest is passed as it is. How the body is framed follows from
        what is written here, not from what came. `pass_on` and `finish` follow.

        :param passed: names, in lower case, of headers that are passed all the same
        """
        self.startedWriting = 1
        self.code = status
        lines = [b"%b %d %b\r\n" % (self.clientproto, status, reason)]
        bodiless = status in NO_BODY_CODES or self.method == b"HEAD"
        framed = bodiless
        for name, line in of_answer(headers, passed):
            if name == b"content-length":
                if status == 204 and not line.endswith(b" 0\r\n"):
                    continue  # it has no body; who believed this would wait for one
                framed = True
            elif name == b"content-type":
                self.streams_events = line.startswith(b"text/event-stream", len(name) + 2)
            lines.append(line)
        lines += [b"%b: %b\r\n" % pair for pair in self._cors()]
        if not framed and self.clientproto == b"HTTP/1.1":
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
        lines = [b"%b 101 %b\r\n" % (self.clientproto, reason)]
        passed = of_answer(headers, frozenset())
        lines += [line for name, line in passed if name != b"content-length"]
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
            for name, value in self._cors():
                self.responseHeaders.addRawHeader(name, value)
        super().write(data)

    def _cors(self) -> Pairs:
        return self.channel.site.origins.headers(self.requestHeaders, self.open_to_all)

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
        [method] = self.requestHeaders.getRawHeaders(b"Access-Control-Request-Method", [b""])[:1]
        if scope_of(method.decode("latin-1"), _decoded(self.path)) is not Scope.INFER:
            try:
                self.guard()
            except NotAllowed as error:
                self.fail(error)
                return
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
        self.channel.refuse(BodyTooLarge(f"The body is over {limit:g} MB (max_body_mb)."))

    def _too_much(self) -> None:
        limit = self.channel.site.bodies.limit / 2**20
        error = ServerBusy(
            f"The gateway holds all that it may of requests' bodies, {limit:g} MB (max_bodies_mb).",
            retry_after=1,
        )
        self.channel.refuse(error)

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


def _decoded(uri: bytes) -> str:
    """The path of a request's target, as the resource tree takes it."""
    return unquote_to_bytes(uri.partition(b"?")[0]).decode("latin-1")


class Channel(HTTPChannel):
    """
    One connection of a client.

    The names with an underscore that are overridden are HTTPChannel's own hooks for answers that
    it would otherwise give itself, without a body.
    """

    requestFactory = Request
    site: Site
    transport: IConnection
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
    #: When the client's connection was full, and for how long it may be so from then on.
    _full_since = 0.0
    _patience = 0.0

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.channels.add(self)
        self._since = self.site.clock.seconds()
        self._patience = self.site.client_stall
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
        self.release()
        for timer in (self._alarm, self._stalled, self._next_turn):
            if timer is not None and timer.active():
                timer.cancel()
        self.site.channels.discard(self)
        self.site.channel_gone()

    def dataReceived(self, data: bytes) -> None:
        if self.refused:
            return
        if self._tunnel is not None:
            self._tunnel.write(data)
            return
        if not self._sending and not self._handlingRequest:
            self._sending = True
            self._since = self.site.clock.seconds()
        self._answered = 0
        super().dataReceived(data)
        # With a request in the same read that was answered at once, this is a call within another,
        # which goes on with the buffer; and so does `_take_turn`.
        read = not (self.paused or self._busyReceiving)
        if read and self._buffer and self.line_mode and b"\n" in self._buffer:
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

    def rawDataReceived(self, data: bytes) -> None:
        if self._handlingRequest and not self.hold(len(data)):
            # It has sent more requests before it has its answer, and nobody has room for them.
            self.transport.abortConnection()
        else:
            super().rawDataReceived(data)

    def requestDone(self, request: HTTPRequest) -> None:
        now = self.site.clock.seconds()
        # Only one that was answered at once has kept others waiting.
        took_long = self._busyReceiving and now - self._since >= TURN_SEC
        self._since = now
        self._patience = self.site.client_stall
        if self._held:
            self.release()
        self._answered += 1
        turn_is_over = self._answered >= PIPELINED or took_long
        if self.persistent and (turn_is_over or self._waitingForTransport):
            # `paused` has LineReceiver keep what it has, until `_take_turn`.
            self.paused = True
        super().requestDone(request)
        if self.paused:
            self.transport.pauseProducing()
            self._have_turn()

    def _have_turn(self) -> None:
        if self._next_turn is None and not self._waitingForTransport:
            self._next_turn = self.callLater(0, self._take_turn)

    def _take_turn(self) -> None:
        """Answer what came together with requests that were answered in an earlier turn."""
        self._next_turn = None
        if self._waitingForTransport:
            return  # `resumeProducing` has another
        self.paused = False
        if self._buffer:
            self.dataReceived(b"")
        kept = sum(map(len, self._dataBuffer))
        if not self.paused and not self._waitingForTransport and kept <= EARLY:
            self.transport.resumeProducing()

    def hold(self, count: int) -> bool:
        """
        Keep so many bytes for this connection.

        :return: False if there is no room for them
        """
        if not self.site.bodies.take(count):
            return False
        self._held += count
        return True

    def release(self, count: int | None = None) -> None:
        """So many bytes are kept no more; all of them for None."""
        count = self._held if count is None else count
        self._held -= count
        self.site.bodies.give_back(count)

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
        if self._sending and not self.refused:
            limit = self.site.request_timeout
            self.refuse(RequestTimeout(f"The request took over {limit:g} s to arrive."))
        else:
            self.transport.abortConnection()

    def allContentReceived(self) -> None:
        self._sending = False
        # Nobody uses trailers, but where they end is where the next request begins: to a server
        # that takes a bare LF for the end of a line that may be elsewhere.
        trailers = getattr(self._transferDecoder, "_trailerHeaders", ())
        if not all(map(_TRAILER.fullmatch, trailers)):
            self._refuse_shape("a line behind the last chunk is no header")
        if not self.refused:  # the end may come in the same read as what was too much
            super().allContentReceived()

    def lineReceived(self, line: bytes) -> None:
        # What some servers read as one header and others as two is how requests are smuggled.
        if b"\n" in line:
            self._refuse_shape("a line ends without a carriage return")
        elif line[:1] in (b" ", b"\t"):
            self._refuse_shape("a header is continued on a second line")
        elif _CONTROL.search(line):
            self._refuse_shape("a line has control characters")
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
            self._full_since = self.site.clock.seconds()
            self._stalled = self.callLater(self._patience, self._cut_stalled)

    def resumeProducing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
            # What it has read gives it time again, but no more than a client that reads slowly,
            # and so keeps its model from others, can live on.
            waited = self.site.clock.seconds() - self._full_since
            earned = READ_AT_LEAST / SLOWEST
            self._patience = min(self._patience - waited + earned, self.site.client_stall)
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
        if self._waitingForTransport:
            # The transport paused us before it was there, and will not say so again.
            producer.pauseProducing()

    def refuse(self, error: GatewayError, linger: bool = True) -> None:
        """
        Answer a request that is not read to its end, and take nothing more from this client.

        :param linger: read on, and throw away, for a while, so that the answer is not lost
        """
        if self.refused:
            return
        self.refused = True
        self.clearLineBuffer()
        self.release()
        path = getattr(self, "_path", b"")
        body = error.body(Dialect.of(path))
        head = b"HTTP/1.1 %d %b\r\n" % (error.status, RESPONSES[error.status])
        head += b"Content-Type: %b\r\nContent-Length: %d\r\n" % (_JSON, len(body))
        scope = scope_of(getattr(self, "_command", b"").decode("latin-1"), _decoded(path))
        headers = self.requests[-1].requestHeaders if self.requests else Headers()
        cors = self.site.origins.headers(headers, scope is Scope.INFER)
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
        """Nobody wanted to read why it was refused."""
        self.transport.abortConnection()

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.refuse(BadRequest("This is not a valid HTTP request."))

    def _send100Continue(self) -> None:
        if not self.refused:
            super()._send100Continue()


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

    def __init__(self) -> None:
        self.limit = 0
        self.held = 0

    def has_room(self, count: int) -> bool:
        """Whether so many bytes would fit now."""
        return self.held + count <= self.limit

    def take(self, count: int) -> bool:
        """Take so many bytes, if they fit; returns whether they do."""
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


class Site(server.Site):
    """
    What listens: makes a `Channel` for each connection.

    :param tree: the resource tree
    :param table: handlers of POST, by path; looked at before the tree
    :param clock: keeps time
    :param limits: what a client may do
    :param access_log: whether each request is logged
    :ivar loopback: whether it listens on a loopback address only
    """

    loopback = False

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
        self.bodies = Bodies()
        self.turns = Turns(clock)
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
        self.bodies.limit = limits.max_bodies
        self.origins = limits.origins
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
