"""
One request: find out its model, get a lease, send it to the backend, pass the answer on.

The story of a request is told in `Relay._tell`; the answer's bytes flow through `_Exchange`
without coming by there. Knows nothing of how a model gets ready, and leaves bytes and headers to
upstream.py and server.py.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from llamagw.causes import in_words
from llamagw.errors import BackendLost, GatewayError, NotAllowed
from llamagw.fleet.manager import Lease, Manager
from llamagw.proxy.asked import Asked, Reader, outgoing
from llamagw.proxy.headers import end_to_end
from llamagw.proxy.server import LARGE, Request
from llamagw.proxy.upstream import Headers, Pool, Received, Upstream, UpstreamLost
from llamagw.routes import INFERENCE
from llamagw.text import harmless

_log = Logger(namespace="llamagw.relay")

#: Headers that the relay writes itself. A client's Expect has been answered already.
_OWN_HEADERS = frozenset({b"host", b"content-length", b"expect"})

#: Where the gateway has a key of its own, a client's is no affair of that server.
_KEYS = frozenset({b"authorization", b"x-api-key"})

#: What a browser adds for this machine, whichever program on it set it.
_COOKIE = frozenset({b"cookie"})

_NONE: frozenset[bytes] = frozenset()

#: Bytes of an error's body that are collected for a stream that was begun early.
MOST_REFUSAL = 64 * 1024

#: How many backends may break off on one request before it is held to be the cause.
MOST_BROKEN = 2

#: The head of an answer that is begun before there is one.
_STREAM = [(b"Content-Type", b"text/event-stream"), (b"Cache-Control", b"no-cache")]


class Relay:
    """
    Passes requests on to the backends of their models.

    :param manager: gives leases
    :param pool: gives connections
    :param clock: keeps time
    :param keepalive: seconds between the comments that a stream gets while it waits for its model;
        0 for none
    """

    def __init__(
        self, manager: Manager, pool: Pool, clock: IReactorTime, keepalive: float = 0
    ) -> None:
        self._manager = manager
        self._pool = pool
        self._clock = clock
        self.keepalive = keepalive

    def render(self, request: Request, read: Reader) -> Deferred[None]:
        """
        Answer a request from the model that it is for.

        :param read: finds out which that is
        :return: fires when the answer is out, or the client gone; never fails
        """
        story = Deferred.fromCoroutine(self._tell(request, read))
        request.gone = story.cancel
        return story.addErrback(_unexpected, request)

    async def _tell(self, request: Request, read: Reader) -> None:
        try:
            await self._answer(request, read(request))
        except (CancelledError, ConnectingCancelledError):
            # The client is gone: there is nobody to tell.
            return
        except GatewayError as error:
            if not request.startedWriting:
                request.fail(error)
                return
            request.pass_on(request.dialect.event(error.body(request.dialect)))
        if request.unanswered:
            request.finish()

    async def _answer(self, request: Request, asked: Asked) -> None:
        """
        Have the request answered by its model, by another backend if the first one dies on it.

        :raises GatewayError: when there was no answer, not even the beginning of one
        """
        failed: list[Lease] = []
        broken = 0
        while True:
            lease = await self._lease(request, asked, failed)
            try:
                _permit(request, asked, lease)
                return await self._exchange(request, asked, lease)
            except UpstreamLost as error:
                failed.append(lease)
                broken += error.reached
                # An engine started anew would answer as this one did, another server need not.
                again = error.gone or lease.model.remote
                again = again and error.received is not Received.HEAD and not lease.revoked
                if not again or len(failed) >= lease.tries or broken >= MOST_BROKEN:
                    return _broken_off(request, error)
                why = str(error)
            finally:
                lease.release()
            # Nothing has reached the client: to it, this is one request that takes a little longer.
            _log.warn(
                "{name} at {where} broke off before it answered ({why}); asking once more",
                name=lease.model.name,
                where=lease.address.url,
                why=why,
            )
            await self._manager.aftermath(lease)

    async def _lease(self, request: Request, asked: Asked, failed: list[Lease]) -> Lease:
        model = asked.named(self._manager.config.default_model)
        waiting = self._manager.acquire(model, asked.load, failed)
        if waiting.called or not self.keepalive or not asked.stream:
            return await waiting
        comments = LoopingCall(_keep_alive, request)
        comments.clock = self._clock
        comments.start(self.keepalive, now=False)
        try:
            return await waiting
        finally:
            comments.stop()

    async def _exchange(self, request: Request, asked: Asked, lease: Lease) -> None:
        """
        Send the request and pass the answer on.

        :raises UpstreamLost: when the answer did not come, or not whole
        """
        if len(request.body) > LARGE:
            await request.turn()
        upstream = self._pool.take(lease.address)
        if upstream is not None:
            try:
                return await self._send(request, asked, lease, upstream)
            except UpstreamLost as error:
                # It may have been closed while it was idle; then nobody has seen the request.
                if error.received is not Received.NOTHING:
                    raise
        try:
            upstream = await self._pool.connect(lease.address)
        except (ConnectError, DNSLookupError) as error:
            why = f"it cannot be reached: {in_words(error)}"
            raise UpstreamLost(why, gone=True, received=Received.NOTHING, reached=False) from error
        await self._send(request, asked, lease, upstream)

    def _send(
        self, request: Request, asked: Asked, lease: Lease, upstream: Upstream
    ) -> Deferred[None]:
        # No coroutine: its frame would keep the body for as long as the answer takes.
        target, body = outgoing(request, asked, lease.model, lease.address.model)
        head = _head(request, asked, lease, target, body)
        return _Exchange(request, asked, lease, upstream).run(head, body)


class _Exchange:
    """One sending of a request over one connection; the `Receiver` of its answer."""

    __slots__ = ("_asked", "_done", "_early", "_lease", "_refusal", "_request", "_upstream")

    def __init__(self, request: Request, asked: Asked, lease: Lease, upstream: Upstream) -> None:
        self._request = request
        self._asked = asked
        self._lease = lease
        self._upstream = upstream
        self._done: Deferred[None] = Deferred(lambda _: upstream.abort())
        #: Whether the client has been given a head already, to keep it waiting.
        self._early = bool(request.startedWriting)
        #: An error's body, collected to be told as an event of the stream begun early.
        self._refusal: list[bytes] | None = None

    def run(self, head: bytes, body: bytes) -> Deferred[None]:
        """Send; fires when the whole answer was passed on, fails with `UpstreamLost`."""
        self._upstream.send(
            head,
            body,
            self,
            bare=self._request.method == b"HEAD",
            upgrade=self._asked.upgrade is not None,
        )
        return self._done

    def head(self, status: int, reason: bytes, headers: Headers, data: bytes, whole: bool) -> None:
        # From here on it will not be sent to another backend.
        self._request.drop_body()
        if status == 101:
            self._switch(reason, headers, data)
            return
        if not self._early:
            self._lease.moved()
            passed = self._lease.model.pass_headers
            lower = _lower(passed) if passed else _NONE
            self._request.begin(status, reason, headers, data, lower)
        else:
            if status != 200:
                self._refusal = []
            if data:
                self.body(data)
        if not whole:
            # From here on each side is slowed down by the other.
            self._request.registerProducer(self._upstream.transport, True)

    def _switch(self, reason: bytes, headers: Headers, data: bytes) -> None:
        self._request.gone = self._left_tunnel
        protocol = self._asked.upgrade or b""
        self._request.switch(reason, headers, protocol, self._upstream.transport)
        if data:
            self.body(data)

    def _left_tunnel(self) -> None:
        if self._done.called:
            return  # the backend had left before
        # Not cut off: the last that the client said before it left is to arrive.
        self._upstream.hang_up()
        self._done.callback(None)

    def body(self, data: bytes) -> None:
        self._lease.moved()
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
        self._done.callback(None)

    def lost(self, error: UpstreamLost) -> None:
        if self._request.producer is not None:
            self._request.unregisterProducer()
        self._done.errback(error)


def _keep_alive(request: Request) -> None:
    """Show the client of a stream, and whatever stands between, that something is going on."""
    if not request.startedWriting:
        request.begin(200, b"OK", _STREAM, b"")
    request.pass_on(b": waiting for the model\n\n")


def _head(request: Request, asked: Asked, lease: Lease, target: bytes, body: bytes) -> bytes:
    address = lease.address
    headers = (
        (name, value)
        for name, values in request.requestHeaders.getAllRawHeaders()
        for value in values
    )
    own = _OWN_HEADERS
    if address.api_key is not None:
        own |= _KEYS
    passed = lease.model.pass_headers
    if not passed or b"set-cookie" not in _lower(passed):
        own |= _COOKIE
    lines = b"".join([line for _, line in end_to_end(headers, own)])
    if body or request.method == b"POST" or request.requestHeaders.hasHeader(b"content-length"):
        lines += b"Content-Length: %d\r\n" % len(body)
    if asked.upgrade is not None:
        lines += b"Connection: Upgrade\r\nUpgrade: %b\r\n" % asked.upgrade
    if address.api_key is not None:
        lines += b"Authorization: Bearer %b\r\n" % address.api_key.encode()
    return b"%b %b%b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (
        request.method,
        address.prefix.encode(),
        target,
        address.authority.encode(),
        lines,
    )


def _lower(names: list[str]) -> frozenset[bytes]:
    return frozenset([name.lower().encode() for name in names])


def _permit(request: Request, asked: Asked, lease: Lease) -> None:
    """
    Let only what a model is for go where the gateway's own key goes along.

    :raises NotAllowed: when the key might open more than that
    """
    if lease.address.api_key is None or not lease.model.remote:
        return
    path = (asked.target or request.uri).partition(b"?")[0].decode("latin-1")
    method = "GET" if request.method == b"HEAD" else request.method.decode("latin-1")
    if (method, path) in INFERENCE or any(fnmatchcase(path, p) for p in lease.model.paths):
        return
    raise NotAllowed(
        f"{harmless(method, 20)} {harmless(path, 100)} is not asked of `{lease.model.name}`: its "
        "server would take it with the gateway's key. The model's `paths` can allow it."
    )


def _broken_off(request: Request, error: UpstreamLost) -> None:
    """
    See to it that an answer that broke off cannot be taken for a whole one.

    :raises BackendLost: when it had not begun
    """
    if not request.startedWriting:
        raise BackendLost(f"The backend broke off before its answer began: {error}.") from error
    _log.warn("an answer broke off: {error}", error=str(error))
    if request.streams_events:
        told = BackendLost(f"The backend broke off in the middle of its answer: {error}.")
        request.pass_on(request.dialect.event(told.body(request.dialect)))
    else:
        request.cut()


def _unexpected(failure: Failure, request: Request) -> None:
    if request.unanswered:
        request.processingFailed(failure)
    else:
        _log.failure("a relayed request failed", failure)
