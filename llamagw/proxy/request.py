"""
One request of a client, and its answer.

Differences from Twisted's Request: the body stays in memory, under limits that are enforced while
it arrives; cookies, forms and Content-Type are not parsed; errors are envelopes of the path's API;
answers have CORS headers. The handler of a POST is looked up in a dict before the resource tree,
whose URL match would take longer than everything else. Both are given by the `Site`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote_to_bytes

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import NO_BODY_CODES, parse_qs

from llamagw.dialects import ROUTE_OF, TEXTS, Dialect, Scope, dialect_of, scope_of
from llamagw.errors import (
    BadRequest,
    BodyTooLarge,
    GatewayError,
    InternalError,
    NotAllowed,
    NotPermitted,
    PathNotFound,
    RateLimited,
    RequestCancelled,
    ServerBusy,
    Unauthorized,
)
from llamagw.gate import (
    ANYBODY,
    BYTES_A_TOKEN,
    Gate,
    Meter,
    Session,
    Ticket,
    no_secret,
    spent,
)
from llamagw.net import IConnection, of_answer
from llamagw.observe import HERE, Begin, Captured, Outcome, Record, request_id
from llamagw.proxy.channel import TOO_MANY, Channel
from llamagw.proxy.connections import LARGE
from llamagw.proxy.origins import Pairs, as_lines, decoded_path, joined
from llamagw.proxy.twisted_private import KnownRequest, MalformedChunk

if TYPE_CHECKING:
    from llamagw.fleet import Lease

_log = Logger(namespace="llamagw.server")

#: Maximum number of chunks of a body: `FREE_CHUNKS`, and one more for each `CHUNK_BYTES` of it. A
#: chunk of any size takes Twisted some 3 µs, and uvloop reads 8 MB in one turn.
FREE_CHUNKS, CHUNK_BYTES = 4096, 512

#: In a body of more than `DENSE` bytes, at most a quarter may be punctuation of JSON, which makes
#: parsing slow. Lists of numbers have a sixth; text, images and audio much less. A backslash counts
#: twice, since an escape takes twice as long.
DENSE, PUNCTUATION = 16 * 1024 * 1024, b",:[]{}\\"


#: Maximum size, in bytes, of the body of a request that has no key where one is wanted: to log in.
WITHOUT_KEY = 4096

#: How the names of headers begin that tell of limits, in lower case.
_RATES = (b"x-ratelimit-", b"anthropic-ratelimit-")

#: The reason phrases of statuses that Twisted does not know.
_REASONS = {RequestCancelled.status: b"Cancelled", RateLimited.status: TOO_MANY}


class Routing(Protocol):
    """
    What a request needs of the `Site`.

    :ivar table: handlers of POST, by path; looked up before the tree
    :ivar tell: called with the record of each request that has ended
    :ivar trace: begins the spans of a request, by its headers; None if it has none
    """

    table: Mapping[bytes, Callable[[Request], object]]
    tell: Callable[[Record], object]
    trace: Begin | None


class Request(KnownRequest):
    """
    One request.

    :ivar body: the whole body
    :ivar routing: the site; None until the request has arrived
    :ivar record: what is known of it; None until it has arrived, and when it is told
    :ivar answering: the coroutine that answers it; None without one. Cancelled when the client
        disconnects, and by `cancel`
    :ivar caller: who sends it
    :ivar session: of the dashboard, if the caller is known by that
    :ivar meter: what its key uses of its limits; None if it has none
    :ivar ticket: its place within those; None if it has none, and when it has ended
    :ivar waiting: what it waits for in the queue of its model; None when it does not
    :ivar captured: its content, if that is kept
    :ivar streams_events: whether the answer is a stream of server-sent events
    :ivar open_to_all: whether any web page may read the answer if ``cors_origins`` has ``*``
    :ivar cacheable: whether a backend's ``Cache-Control`` is passed on; if not, a browser asks each
        time whether the answer is still the same
    """

    defaultContentType = None
    body = b""
    open_to_all = True
    record: Record | None = None
    cacheable = True
    answering: Deferred[None] | None = None
    caller = ANYBODY
    session: Session | None = None
    meter: Meter | None = None
    ticket: Ticket | None = None
    waiting: Deferred[Lease] | None = None
    captured: Captured | None = None
    streams_events = False
    routing: Routing | None = None
    channel: Channel

    def __repr__(self) -> str:
        if self.path is None:
            return "<Request: arriving>"
        method, path = self.method.decode("latin-1"), self.path.decode("latin-1")
        state = f"answered {self.code}, {self.sentLength} B" if self.startedWriting else "waiting"
        state += ", gone" if self.disconnected else ", finished" if self.finished else ""
        return f"<Request {method} {path} of {getattr(self.client, 'host', '-')}: {state}>"

    # While it arrives

    def parseCookies(self) -> None:
        """Called by Twisted; does nothing, since cookies are not used here."""

    def gotLength(self, length: int | None) -> None:
        # The head is complete.
        gate = self.channel.connections.gate
        self._parts: bytes | bytearray = b""
        self._room = self.channel.connections.max_body
        if gate is not None:
            self._enter(gate, length)
            self._room = self._most()
        #: Number of chunks received; None if the body is not chunked.
        self._chunks: int | None = 0 if length is None else None
        #: Number of punctuation characters received; None while the body is under `DENSE`.
        self._punctuation: int | None = None
        if length != 0 and not self.caller.scopes and not self._logs_in():
            # Who has no key is let in to look; a body would be held in memory.
            self.channel.refuse(no_secret())
        elif length is not None and length > self._room:
            self._too_large()
        elif length and not self.channel.connections.bodies.has_room(length):
            self._too_much()

    def _enter(self, gate: Gate, length: int | None) -> None:
        """Ask who sends the request; what may not be sent is refused before its body is read."""
        method, target = self.channel.request_line
        path = decoded_path(target)
        try:
            self.caller = gate.admit(method, path, self.given, self._accept, self._certified)
            if self.caller.limits is not None:
                self._limit(gate, method, path, length)
        except Unauthorized as error:
            self.channel.refuse(error, late=self.wrong_key(gate) if error.invalid else 0.0)
        except (NotAllowed, NotPermitted, RateLimited) as error:
            self.channel.refuse(error)

    def _certified(self) -> Iterable[str]:
        """
        The names in the client's certificate, which browsers show whichever page sends a request.

        :raises NotAllowed: if there are any, and the page of another origin has sent it
        """
        names = self.channel.certified
        if names:
            self.guard_own()
        return names

    def _accept(self, session: Session) -> None:
        """
        Take the session of the request's cookie.

        :raises NotAllowed: unless one of the gateway's own pages has sent it
        """
        self.guard_own()
        changes = self.channel.request_line[0] not in (b"GET", b"HEAD")
        if changes and not session.is_proved_by(self.given.get(b"X-Csrf-Token", ())):
            raise NotAllowed(
                "With a session, a request that changes something wants the header X-CSRF-Token: "
                "its value is `csrf` of GET /ui/session."
            )
        self.session = session

    def wrong_key(self, gate: Gate) -> float:
        """
        Count an attempt of this client with a wrong key.

        :return: seconds by which the answer is to be late
        """
        address = self.channel.address(self.given)
        return gate.attempts.failed(address, self.channel.connections.clock.seconds())

    def _logs_in(self) -> bool:
        return decoded_path(self.channel.request_line[1]) == "/ui/login"

    def _most(self) -> int:
        """Maximum size of the body, in bytes."""
        limit = self.channel.connections.max_body
        limits = self.caller.limits
        if limits is not None and limits.max_body_mb is not None:
            limit = min(limit, int(limits.max_body_mb * 2**20))
        return limit if self.caller.scopes else min(limit, WITHOUT_KEY)

    def _limit(self, gate: Gate, method: bytes, path: str, length: int | None) -> None:
        """
        Let the request in within the limits of its key.

        :raises RateLimited: if it would have to wait for too long
        """
        limits = self.caller.limits
        assert limits is not None, "else it is not called"
        now = self.channel.connections.clock.seconds()
        self.meter = meter = gate.meters.of(self.caller.name, limits, now)
        plain = path.encode("latin-1")
        if method == b"POST" and ROUTE_OF[plain] is not None:
            expected = (length or 0) / BYTES_A_TOKEN if plain in TEXTS else 0.0
            self.ticket = meter.enter(expected, now)

    def handleContentChunk(self, data: bytes) -> None:
        self._room -= len(data)
        if self._room < 0:
            self._too_large()
        elif not self.channel.hold(len(data)):
            self._too_much()
        elif len(self._parts) + len(data) > DENSE and self._too_dense(data):
            self.channel.refuse(
                BadRequest(
                    "The body is over 16 MiB, and more than a quarter of it is punctuation of "
                    "JSON, or more than an eighth escapes."
                )
            )
        elif not self._parts:
            self._parts = data
        else:
            if isinstance(self._parts, bytes):
                # Not a list of parts, each of which would take 33 bytes more.
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
                # Else Twisted would go on to parse the rest of this read.
                raise MalformedChunk

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        self.method, self.uri, self.clientproto = command, path, version
        self.path, _, query = path.partition(b"?")
        self.args = parse_qs(query, keep_blank_values=1) if query else {}
        if len(self._parts) > LARGE:
            self.channel.connections.turns.take(self._take_large)
        else:
            self.body, self._parts = bytes(self._parts), b""
            self.process()

    def _take_large(self) -> None:
        if not self.disconnected:
            self.body, self._parts = bytes(self._parts), b""
            self.channel.connections.turns.take(self._process_large)

    def _process_large(self) -> None:
        if not self.disconnected:
            self.process()

    def _too_dense(self, data: bytes) -> bool:
        """Whether the body, as far as it has arrived, has too much punctuation."""
        size = len(self._parts) + len(data)
        count = self._punctuation
        if count is None:
            count, data = 0, bytes(self._parts) + data
        count += len(data) - len(data.translate(None, PUNCTUATION)) + data.count(b"\\")
        self._punctuation = count
        return self._punctuation > size // 4

    def turn(self) -> Deferred[None]:
        """
        Wait for a turn in which a large body may be processed.

        :return: fires in a reactor turn of its own
        """
        turn: Deferred[None] = Deferred()
        self.channel.connections.turns.take(lambda: turn.callback(None))
        return turn

    def drop_arriving(self) -> None:
        """Drop the part of the body that has arrived; the request was refused."""
        self._parts = b""
        self._leave(None)

    def drop_body(self) -> None:
        """Drop the body, and count it as no longer held."""
        if self.body:
            held, self.body = len(self.body), b""
            self.channel.release(held)

    def process(self) -> None:
        routing: Routing = self.channel.site
        self.routing = routing
        given = self.given.get(b"X-Request-Id")
        self.record = Record(
            id=request_id(given),
            arrived=self.channel.connections.clock.seconds(),
            method=self.method,
            path=self.path,
            client=getattr(self.client, "host", HERE),
            key=self.caller.name,
        )
        if self.channel.connections.forwarded is not None:  # asked for each request: no call
            self.record.client = self.channel.address(self.given)
        if routing.trace is not None:
            self.record.trace = routing.trace(self.given)
        if self.method == b"POST":
            handler = routing.table.get(self.path)
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
        """A constant: it is not used, and Klein would raise for a name that is not UTF-8."""
        return b"gateway"

    def connectionLost(self, reason: Failure) -> None:
        if self.record is not None and not self.finished:  # `cut` has finished what broke off
            self.record.outcome = Outcome.CLIENT_LEFT
        self.tell()
        super().connectionLost(reason)
        if self.answering is not None:
            self.answering.cancel()

    def guard(self) -> None:
        """
        Accept this request only from the gateway's own pages, listed origins and other programs.

        :raises NotAllowed: if a web page of another origin sent it
        """
        self.open_to_all = False
        connections = self.channel.connections
        connections.origins.check(self.requestHeaders, connections.loopback)

    def guard_own(self) -> None:
        """
        Accept this request only from the gateway's own pages, and other programs.

        :raises NotAllowed: if a web page of another origin sent it, listed or not
        """
        self.open_to_all = False
        connections = self.channel.connections
        connections.origins.check_own(self.requestHeaders, connections.loopback)

    # The answer

    @property
    def dialect(self) -> Dialect:
        """The API of the request's path, for the error envelope."""
        return dialect_of(self.path)

    @property
    def name(self) -> str:
        """Its id, as log lines about it have it."""
        return "" if self.record is None else f" [{self.record.id}]"

    @property
    def unanswered(self) -> bool:
        """Whether the client is connected and the answer is not finished."""
        return not self.disconnected and not self.finished

    def begin(
        self,
        status: int,
        reason: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        data: bytes,
        passed: frozenset[bytes] = frozenset(),
    ) -> None:
        """
        Write the head of a backend's answer, and the first part of its body.

        Hop-by-hop headers are dropped, and those that affect the client's browser; CORS headers are
        added; the others are passed on unchanged. The framing of the body is chosen here,
        independently of the backend's. `pass_on` and `finish` follow.

        :param reason: the reason phrase
        :param data: the part of the body that came with the head, without framing; may be empty
        :param passed: names, in lower case, of headers that are passed on all the same
        """
        self.startedWriting = 1
        self.code = status
        lines = [b"%b %d %b\r\n" % (self.clientproto, status, reason)]
        meter = self.meter
        bodiless = status in NO_BODY_CODES or self.method == b"HEAD"
        framed = bodiless
        for name, line in of_answer(headers, passed):
            if name == b"content-length":
                if status == 204 and not line.endswith(b" 0\r\n"):
                    continue  # a 204 has no body; the client might wait for one
                framed = True
            elif name == b"cache-control" and not self.cacheable:
                line = b"Cache-Control: no-cache\r\n"
            elif name == b"x-request-id":
                continue  # it was sent ours
            elif meter is not None and name.startswith(_RATES):
                continue  # of the backend's own, beside which ours are sent
            elif name == b"content-type":
                self.streams_events = line.startswith(b"text/event-stream", len(name) + 2)
            lines.append(line)
        lines.append(self._cors_lines())
        if self.session is not None:
            # An engine's page would act with the session: its scripts are of this origin.
            lines.append(b"Content-Security-Policy: sandbox\r\n")
        record = self.record
        if record is not None:
            lines.append(b"X-Request-Id: %b\r\n%b" % (record.id.encode(), record.timing))
        if meter is not None:
            lines.append(self.limits())
        if not framed and self.clientproto == b"HTTP/1.1":
            self.chunked = 1
            lines.append(b"Transfer-Encoding: chunked\r\n")
        lines.append(b"\r\n" if self.channel.persistent else b"Connection: close\r\n\r\n")
        if data:
            self.sentLength += len(data)
            lines.append(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)
        self.channel.transport.write(b"".join(lines))

    def switch(
        self,
        reason: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        protocol: bytes,
        upstream: IConnection,
    ) -> None:
        """
        Write the head of a 101, and make the connection a tunnel: bytes are passed on unchanged.

        `pass_on` and `finish`, which closes the connection, follow.

        :param reason: the reason phrase
        :param headers: the backend's
        :param protocol: the value of the Upgrade header
        :param upstream: the connection to the backend
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
        """
        Write more of the body, after `begin`.

        :param data: not empty: an empty chunk would end the body
        """
        # Repeated in `begin`: a shared function would be one call more for each chunk.
        self.sentLength += len(data)
        self.channel.transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    def write(self, data: bytes) -> None:
        if not self.startedWriting:
            for name, value in self._cors():
                self.responseHeaders.addRawHeader(name, value)
            if self.record is not None:
                self.responseHeaders.addRawHeader(b"X-Request-Id", self.record.id.encode())
            for line in self.limits().splitlines():
                name, _, value = line.partition(b": ")
                self.responseHeaders.addRawHeader(name, value)
        super().write(data)

    def limits(self) -> bytes:
        """The headers that tell what is left of the limits of its key, as lines; may be empty."""
        meter = self.meter
        if meter is None:
            return b""
        now = self.channel.connections.clock.seconds()
        # Refused before all of it has arrived, it has no `path` yet.
        path = self.channel.request_line[1] if self.path is None else self.path
        return dialect_of(path).limits(*meter.told(now), meter.now_is())

    def _cors(self) -> Pairs:
        origin = joined(self.given.get(b"Origin"))
        return self.channel.connections.origins.headers(origin, self.open_to_all)

    def _cors_lines(self) -> bytes:
        if self.open_to_all and b"Origin" not in self.given:
            return self.channel.connections.origins.lines
        return as_lines(self._cors())

    def answer(self, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """
        Answer with JSON of the gateway's own.

        :param body: the JSON; may be empty
        :param headers: beside Content-Type and Content-Length
        """
        self.write(self.prepare(status, body, headers))
        self.finish()

    def prepare(
        self, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> bytes:
        """
        Set the status and headers for a JSON body.

        :return: the body, for Klein to write
        """
        self.setResponseCode(status, _REASONS.get(status))
        for name, value in headers:
            self.responseHeaders.setRawHeaders(name, [value])
        if body:
            self.responseHeaders.setRawHeaders(b"Content-Type", [b"application/json"])
            self.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
        return body

    def fail(self, error: GatewayError) -> None:
        """Answer with an error; the answer must not have begun."""
        self.write(self.refusal(error))
        self.finish()

    def refusal(self, error: GatewayError) -> bytes:
        """
        Set the status and headers for an error.

        :return: the body, for Klein to write
        """
        return self.prepare(error.status, self.failed(error), error.headers())

    def failed(self, error: GatewayError) -> bytes:
        """
        Note an error of the gateway's own.

        :return: its envelope
        """
        if not self.caller.every_model:
            error = error.unnamed()
        if self.record is None:
            return self.dialect.envelope(error)
        self.record.failed(error.code, error.message)
        return self.dialect.envelope(error, self.record.id)

    def cut(self) -> None:
        """
        Close the connection without ending the answer, so that the client sees that it broke off.

        Written bytes are still sent.
        """
        # Else `finish` would write a last chunk, which marks the answer as complete.
        self.finished = 1
        self.channel.loseConnection()

    def cancel(self) -> None:
        """Have the relay end this request: its client gets `RequestCancelled`."""
        if self.answering is not None:
            self.answering.cancel()

    def processingFailed(self, reason: Failure) -> Failure:
        method, path = self.method.decode("latin-1"), self.path.decode("latin-1")
        _log.failure("{method} {path} failed{id}", reason, method=method, path=path, id=self.name)
        if self.startedWriting:
            self.cut()
        else:
            self.fail(InternalError("The gateway failed; its log says why."))
        return reason

    def _preflight(self) -> None:
        [method] = self.requestHeaders.getRawHeaders(b"Access-Control-Request-Method", [b""])[:1]
        if scope_of(method.decode("latin-1"), decoded_path(self.path)) is not Scope.INFER:
            try:
                self.guard()
            except NotAllowed as error:
                self.fail(error)
                return
        asked = self.requestHeaders.getRawHeaders(b"Access-Control-Request-Headers", [b"*"])
        headers = [
            (b"Allow", b"GET, HEAD, POST, OPTIONS"),
            (b"Access-Control-Allow-Methods", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            # Listed, since a wildcard does not cover Authorization.
            (b"Access-Control-Allow-Headers", b", ".join(asked)),
            (b"Access-Control-Max-Age", b"86400"),
            (b"Vary", b"Access-Control-Request-Headers"),
        ]
        self.answer(204, b"", headers)

    def _too_large(self) -> None:
        limit, whose = self.channel.connections.max_body / 2**20, "max_body_mb"
        limits = self.caller.limits
        if limits is not None and limits.max_body_mb is not None and limits.max_body_mb < limit:
            limit, whose = limits.max_body_mb, f"max_body_mb of the API key `{self.caller.name}`"
        text = f"The body is over {limit:g} MB ({whose})."
        if not self.caller.scopes:
            text = f"The body is over {WITHOUT_KEY} bytes, and the request has no API key."
        self.channel.refuse(BodyTooLarge(text))

    def _too_much(self) -> None:
        limit = self.channel.connections.bodies.limit / 2**20
        error = ServerBusy(
            f"The gateway holds all that it may of requests' bodies, {limit:g} MB (max_bodies_mb).",
            retry_after=1,
        )
        self.channel.refuse(error)

    def tell(self) -> None:
        """Tell the record of this request, which has ended, unless that was done."""
        record, self.record = self.record, None
        if record is not None and self.routing is not None:
            record.status = self.code if self.startedWriting else 0
            record.bytes_out = self.sentLength
            record.last = self.channel.connections.clock.seconds()
            self.routing.tell(record)
        if self.ticket is not None:
            self._leave(record)

    def _leave(self, record: Record | None) -> None:
        """Settle what the request has used of the limits of its key, unless that was done."""
        ticket, self.ticket = self.ticket, None
        if ticket is not None:
            used = 0 if record is None else sum(spent(record))
            refused = record is not None and record.error == RateLimited.code
            ticket.end(used, self.channel.connections.clock.seconds(), refused)
