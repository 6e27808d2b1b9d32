"""
One request: read its model's name, get a lease, send it to the backend, pass the answer on.

The story of a request is told in `Relay._tell`; the answer's bytes flow through `_Exchange`
without coming by there. Knows nothing of how a model gets ready, and leaves bytes and headers to
upstream.py and server.py.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectingCancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from llamagw.errors import BackendLost, BadRequest, GatewayError
from llamagw.fleet.manager import Lease, Manager
from llamagw.proxy.headers import end_to_end
from llamagw.proxy.server import Request
from llamagw.proxy.upstream import Headers, Pool, Upstream, UpstreamLost

_log = Logger(namespace="llamagw.relay")

#: Headers that the relay writes itself. A client's Expect has been answered already.
_OWN_HEADERS = frozenset({b"host", b"content-length", b"expect"})


class _Peek(Struct):
    """What the relay wants to know of a body."""

    model: str


_decode = msgspec.json.Decoder(_Peek).decode


class Relay:
    """
    Passes requests on to the backends of their models.

    :param manager: gives leases
    :param pool: gives connections
    """

    def __init__(self, manager: Manager, pool: Pool) -> None:
        self._manager = manager
        self._pool = pool

    def render(self, request: Request) -> Deferred[None]:
        """
        Answer a request from the model that its JSON body names.

        :return: fires when the answer is out, or the client gone; never fails
        """
        story = Deferred.fromCoroutine(self._tell(request))
        request.gone = story.cancel
        return story.addErrback(_unexpected, request)

    async def _tell(self, request: Request) -> None:
        try:
            await self._answer(request, model_of(request.body))
        except (CancelledError, ConnectingCancelledError):
            # The client is gone: there is nobody to tell.
            return
        except GatewayError as error:
            request.fail(error)
            return
        if request.unanswered:
            request.finish()

    async def _answer(self, request: Request, name: str) -> None:
        """
        Have the request answered by its model, by a second backend if the first one dies on it.

        :raises GatewayError: when there was no answer, not even the beginning of one
        """
        lease = await self._manager.acquire(name)
        try:
            await self._exchange(request, lease)
            return
        except UpstreamLost as error:
            if request.startedWriting or not error.gone:
                return _broken_off(request, error)
            _log.warn("{name} broke off before its answer began; asking once more", name=name)
        finally:
            lease.release()
        # Nothing has reached the client: to it, this is one request that takes a little longer.
        await self._manager.aftermath(lease)
        lease = await self._manager.acquire(name)
        try:
            await self._exchange(request, lease)
        except UpstreamLost as error:
            _broken_off(request, error)
        finally:
            lease.release()

    async def _exchange(self, request: Request, lease: Lease) -> None:
        """
        Send the request and pass the answer on.

        :raises UpstreamLost: when the answer did not come, or not whole
        """
        head = _request_head(request, lease)
        upstream = self._pool.take(lease.address)
        if upstream is not None:
            try:
                return await _Exchange(request, lease, upstream).run(head)
            except UpstreamLost as error:
                # It may have been closed while it was idle; then nobody has seen the request.
                if not error.nothing_received:
                    raise
        try:
            upstream = await self._pool.connect(lease.address)
        except ConnectError as error:
            raise UpstreamLost(f"it cannot be reached ({error})", gone=True) from error
        await _Exchange(request, lease, upstream).run(head)


class _Exchange:
    """One sending of a request over one connection; the `Receiver` of its answer."""

    __slots__ = ("_done", "_lease", "_request", "_upstream")

    def __init__(self, request: Request, lease: Lease, upstream: Upstream) -> None:
        self._request = request
        self._lease = lease
        self._upstream = upstream
        self._done: Deferred[None] = Deferred(lambda _: upstream.abort())

    def run(self, head: bytes) -> Deferred[None]:
        """Send; fires when the whole answer was passed on, fails with `UpstreamLost`."""
        self._upstream.send(head, self._request.body, self)
        return self._done

    def head(self, status: int, reason: bytes, headers: Headers, data: bytes) -> None:
        self._lease.moved()
        self._request.begin(status, reason, headers, data)
        # From here on each side is slowed down by the other.
        self._request.registerProducer(self._upstream.transport, True)

    def body(self, data: bytes) -> None:
        self._lease.moved()
        self._request.pass_on(data)

    def ended(self) -> None:
        self._request.unregisterProducer()
        self._done.callback(None)

    def lost(self, error: UpstreamLost) -> None:
        if self._request.producer is not None:
            self._request.unregisterProducer()
        self._done.errback(error)


def model_of(body: bytes) -> str:
    """
    The name of the model that a JSON body asks for.

    :raises BadRequest: saying what the body lacks
    """
    try:
        return _decode(body).model
    except msgspec.ValidationError as error:
        if "$.model" in str(error):
            raise BadRequest("`model` must be a string.", param="model") from None
        if "missing" in str(error):
            raise BadRequest("The body names no `model`.", param="model") from None
        raise BadRequest('The body must be a JSON object such as {"model": "…", …}.') from None
    except RecursionError:
        raise BadRequest("The body is nested too deeply.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        what = str(error) if body else "it is empty"
        raise BadRequest(f"The body is not JSON: {what}.") from None


def _request_head(request: Request, lease: Lease) -> bytes:
    headers = (
        (name, value)
        for name, values in request.requestHeaders.getAllRawHeaders()
        for value in values
    )
    return b"%b %b HTTP/1.1\r\nHost: %b:%d\r\n%bContent-Length: %d\r\n\r\n" % (
        request.method,
        request.uri,
        lease.address.host.encode(),
        lease.address.port,
        b"".join(end_to_end(headers, _OWN_HEADERS)),
        len(request.body),
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
        # The blank line ends an event that may have been cut in two.
        told = BackendLost(f"The backend broke off in the middle of its answer: {error}.")
        request.pass_on(b"\n\ndata: %b\n\n" % told.body())
    else:
        request.cut()


def _unexpected(failure: Failure, request: Request) -> None:
    if request.unanswered:
        request.processingFailed(failure)
    else:
        _log.failure("a relayed request failed", failure)
