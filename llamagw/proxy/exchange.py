"""
One sending of a request to a backend over one connection, and the relaying of its answer.

`send` writes the request; then the answer's bytes go from the connection to the client through an
`Exchange`, one call for each read; through a `CapturingExchange`, if the content of the request is
kept. Whether to retry is relay.py's decision.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from llamagw.fleet import Lease
from llamagw.gate import ANYBODY, CREDENTIALS
from llamagw.net import Headers, Upstream, UpstreamLost, end_to_end
from llamagw.observe import Record, reason_of, usage_of
from llamagw.proxy.call import Call
from llamagw.proxy.request import Request
from llamagw.proxy.rewrite import outgoing

#: Headers that are not copied: the gateway writes its own, and has answered a client's Expect.
_OWN_HEADERS = frozenset({b"host", b"content-length", b"expect", b"x-request-id"})

#: Not copied while spans are exported: the engine's parent is the gateway's own span.
_TRACED = frozenset({b"traceparent"})

#: Headers that are not copied to a server for which the gateway has an API key, nor where clients
#: send keys of the gateway's own.
_KEYS = CREDENTIALS

#: Not copied by default: browsers send cookies to every port of a host.
_COOKIE = frozenset({b"cookie"})

#: Not copied where clients have keys: what proves a session of the dashboard.
_SESSION = _COOKIE | {b"x-csrf-token"}

_NONE: frozenset[bytes] = frozenset()

#: How many reads of an answer's end are kept: the last word, the tokens and the closing mark of a
#: stream may each be one. Of each so many bytes, since a read may have 256 KiB.
KEPT, KEPT_BYTES = 4, 16 * 1024

#: Maximum size, in bytes, of an error's body that is sent as an event of a stream begun early.
MOST_REFUSAL = 64 * 1024


def send(request: Request, call: Call, lease: Lease, upstream: Upstream) -> Deferred[None]:
    """
    Send a request to its backend, and pass the answer on to the client.

    :param call: what the request asks for
    :param lease: on the instance that it is sent to
    :param upstream: an idle connection to the lease's address
    :return: fires when the whole answer was passed on; fails with `UpstreamLost`. Cancelling it
        closes the connection: at once, or when all written bytes are sent if it was a tunnel whose
        client has left
    :raises BadRequest: if the request cannot be changed as the model's configuration requires
    """
    # Not a coroutine: its frame would keep the body in memory until the answer ends.
    target, body = outgoing(request, call, lease.model, lease.address.model)
    kind = Exchange if request.captured is None else CapturingExchange
    exchange = kind(request, call, lease, upstream)
    upstream.send(
        _head(request, call, lease, target, body),
        body,
        exchange,
        bare=request.method == b"HEAD",
        upgrade=call.upgrade is not None,
    )
    return exchange.done


class Exchange:
    """
    The `Receiver` of one answer: passes it on to the client.

    :param request: the client's
    :param call: what it asks for
    :param lease: on the instance that answers
    :param upstream: the connection that the request was sent over
    :ivar done: as returned by `send`
    """

    __slots__ = (
        "_begin",
        "_begun",
        "_call",
        "_kept",
        "_lease",
        "_reads",
        "_record",
        "_refusal",
        "_request",
        "_tunnel",
        "_upstream",
        "done",
    )

    def __init__(self, request: Request, call: Call, lease: Lease, upstream: Upstream) -> None:
        self._request = request
        self._call = call
        self._lease = lease
        self._upstream = upstream
        self.done: Deferred[None] = Deferred(self._cancelled)
        #: Whether a stream was begun for the client before the answer, to keep it alive.
        self._begun = bool(request.startedWriting)
        self._tunnel = False
        #: The first and the last parts of the body, for what it tells of tokens when it has ended.
        self._begin = b""
        self._kept = [b""] * KEPT
        self._reads = 0
        self._record: Record | None = None
        #: Parts of an error's body that is to be sent as an event of the stream begun early.
        self._refusal: list[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Exchange of {self._request!r} over {self._upstream!r}>"

    def head(self, status: int, reason: bytes, headers: Headers, data: bytes, whole: bool) -> None:
        # From here on there is no retry, which would need the body.
        self._request.drop_body()
        record = self._record = self._request.record
        if data:
            self._begin, self._kept[0] = data[:KEPT_BYTES], data[-KEPT_BYTES:]
            self._reads = 1
            if record is not None:
                record.first = self._request.channel.connections.clock.seconds()
        if status == 101:
            self._tunnel = True
            protocol = self._call.upgrade or b""
            self._request.switch(reason, headers, protocol, self._upstream.transport)
            if data:
                self.body(data)
            return
        if not self._begun:
            self._lease.moved()
            passed = self._lease.model.pass_headers
            self._request.begin(status, reason, headers, data, lower(passed) if passed else _NONE)
        else:
            if status != 200:
                self._refusal = []
            if data:
                self.body(data)
        if not whole:
            # Backpressure: pause the backend while the client does not read.
            self._request.registerProducer(self._upstream.transport, True)

    def body(self, data: bytes) -> None:
        self._lease.moved()
        # No call here: this is done for each event of a stream.
        if not self._reads:
            self._begin = data[:KEPT_BYTES]
            if self._record is not None:
                self._record.first = self._request.channel.connections.clock.seconds()
        self._kept[self._reads % KEPT] = data[-KEPT_BYTES:]
        self._reads += 1
        if self._refusal is None:
            self._request.pass_on(data)
        elif sum(map(len, self._refusal)) < MOST_REFUSAL:
            self._refusal.append(data)
        else:
            self._upstream.break_off("its error is out of all bounds")

    def ended(self) -> None:
        if self._refusal is not None:
            refusal = b"".join(self._refusal).replace(b"\r", b"")
            self._request.pass_on(self._request.dialect.event(refusal))
        if self._request.producer is not None:
            self._request.unregisterProducer()
        if self._record is not None:
            at = self._reads % KEPT
            end = b"".join(self._kept[at:] + self._kept[:at])
            if self._reads and self._request.code >= 400:
                self._record.reason = reason_of(end)
            else:
                self._record.usage = usage_of(self._begin, end)
                if self._record.trace is not None:
                    self._record.trace.answered(self._begin, end)
        self.done.callback(None)

    def lost(self, error: UpstreamLost) -> None:
        if self._request.producer is not None:
            self._request.unregisterProducer()
        self.done.errback(error)

    def _cancelled(self, _: Deferred[None]) -> None:
        if self._tunnel and self._request.disconnected:
            # The bytes that the client sent before that are still to arrive.
            self._upstream.hang_up()
        else:
            self._upstream.abort()


class CapturingExchange(Exchange):
    """An exchange whose answer is captured; see `Exchange`."""

    __slots__ = ("_answer",)

    def __init__(self, request: Request, call: Call, lease: Lease, upstream: Upstream) -> None:
        super().__init__(request, call, lease, upstream)
        assert request.captured is not None, "else it is an Exchange"
        self._answer = request.captured.answer

    def head(self, status: int, reason: bytes, headers: Headers, data: bytes, whole: bool) -> None:
        if not self._begun and status != 101:
            self._answer.add(data)
        # Else it is passed to `body`.
        super().head(status, reason, headers, data, whole)

    def body(self, data: bytes) -> None:
        self._answer.add(data)
        super().body(data)


def _head(request: Request, call: Call, lease: Lease, target: bytes, body: bytes) -> bytes:
    address = lease.address
    headers = [(name, value) for name, values in request.given.items() for value in values]
    own = _OWN_HEADERS
    keyed = request.caller is not ANYBODY
    if keyed or address.api_key is not None:
        own |= _KEYS
    passed = lease.model.pass_headers
    if keyed:
        own |= _SESSION
    elif not passed or b"set-cookie" not in lower(passed):
        own |= _COOKIE
    record = request.record
    if record is not None and record.trace is not None:
        own |= _TRACED
    lines = b"".join([line for _, line in end_to_end(headers, own)])
    if body or request.method == b"POST" or request.requestHeaders.hasHeader(b"content-length"):
        lines += b"Content-Length: %d\r\n" % len(body)
    if record is not None:
        lines += b"X-Request-Id: %b\r\n" % record.id.encode()
        if record.trace is not None:
            lines += record.trace.header
    if call.upgrade is not None:
        lines += b"Connection: Upgrade\r\nUpgrade: %b\r\n" % call.upgrade
    if address.api_key is not None:
        lines += b"Authorization: Bearer %b\r\n" % address.api_key.encode()
    return b"%b %b%b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (
        request.method,
        address.prefix.encode(),
        target,
        address.authority.encode(),
        lines,
    )


def lower(names: list[str]) -> frozenset[bytes]:
    """Names of headers in lower case, for comparison."""
    return frozenset([name.lower().encode() for name in names])
