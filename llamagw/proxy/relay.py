"""
One request: read its model, get a lease, send it to the backend, retry if that breaks off.

`Relay._answer` is the sequence; the answer's bytes go through an `Exchange` (exchange.py), not
through here. Models are loaded by `llamagw.fleet`.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from llamagw.config import NAME_LENGTH, Config
from llamagw.dialects import INFERENCE, SLOTTED
from llamagw.errors import BackendLost, GatewayError, NotAllowed, RequestCancelled
from llamagw.fleet import ALIKE, Dispatcher, Lease
from llamagw.gate import ANYBODY
from llamagw.net import Pool, Received, UpstreamLost, in_words
from llamagw.observe import Capture, Record
from llamagw.proxy.call import Call, Reader
from llamagw.proxy.connections import LARGE
from llamagw.proxy.exchange import send
from llamagw.proxy.limits import keep_within
from llamagw.proxy.poison import Poisoned
from llamagw.proxy.request import Request
from llamagw.proxy.rewrite import check_large
from llamagw.proxy.rights import check_model
from llamagw.proxy.shares import PRIORITY, share_of
from llamagw.text import harmless

_log = Logger(namespace="llamagw.relay")

#: After this many backends have broken off one request, it is not retried: it may be the cause.
MOST_BROKEN = 2

#: Headers of a stream that is begun before the backend has answered.
_STREAM = [(b"Content-Type", b"text/event-stream"), (b"Cache-Control", b"no-cache")]


class Relay:
    """
    Relays requests to the backends of their models.

    :param dispatcher: provides leases
    :param pool: provides connections
    :param clock: the reactor, or a Clock
    :param keepalive: seconds between comments in a stream that waits for its model; 0 for none
    :param poison_sec: seconds for which a request that has crashed two backends is refused; 0 for
        not at all
    :ivar capture: keeps the content of requests, if `apply` says so
    :ivar poisoned: the requests that are refused
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        pool: Pool,
        clock: IReactorTime,
        keepalive: float = 0,
        poison_sec: float = 0,
    ) -> None:
        self._dispatcher = dispatcher
        self._pool = pool
        self._clock = clock
        self.keepalive = keepalive
        self.poisoned = Poisoned(clock, poison_sec)
        self.capture = Capture()

    def apply(self, config: Config) -> None:
        """Take the settings from another configuration."""
        self.keepalive = config.stream_keepalive_sec
        self.poisoned.refuse_for(config.poison_sec)
        kept = config.capture
        self.capture.keep(kept.models, kept.requests, kept.max_kb * 1024)

    def render(self, request: Request, read: Reader) -> Deferred[None]:
        """
        Relay a request to the model that it is for.

        :param read: finds out what the request asks for
        :return: fires when the answer is written, or the client has disconnected; never fails
        """
        answering = request.answering = Deferred.fromCoroutine(self._answer(request, read))
        return answering.addErrback(_unexpected, request)

    async def _answer(self, request: Request, read: Reader) -> None:
        try:
            call = read(request)
            record = request.record
            if record is not None:
                record.asked = call.model or self._dispatcher.config.default_model
                record.stream = call.stream
                record.bytes_in = len(request.body)
            if not request.caller.every_model:
                name = call.named(self._dispatcher.config.default_model)
                check_model(request.caller, self._dispatcher.catalogue, call.model, name)
            if record is not None:
                if self.capture.models:
                    self._captures(request, record)
                if record.trace is not None:
                    taken = record.trace.asked(request.uri, request.body, request.captured)
                    request.captured = taken
            if request.ticket is not None:
                await keep_within(request, call, self._clock)
            await self._relay(request, call)
        except (CancelledError, ConnectingCancelledError):
            if not request.unanswered:
                return  # the client has disconnected
            _cancelled(request)
        except GatewayError as error:
            if not request.startedWriting:
                request.fail(error)
                return
            request.pass_on(request.dialect.event(request.failed(error)))
        if request.unanswered:
            request.finish()

    def _captures(self, request: Request, record: Record) -> None:
        """Keep the content of a request that has arrived, if its model is one of those."""
        asked = record.asked
        if asked is None or len(asked) > NAME_LENGTH:
            return
        own = self._dispatcher.catalogue.names.find(asked)
        if own is None:
            return
        headers = [(name, value) for name, values in request.given.items() for value in values]
        captured = self.capture.begin((asked, own), request.uri, headers, request.body)
        if captured is not None:
            request.captured, record.captured = captured, captured.number

    async def _relay(self, request: Request, call: Call) -> None:
        """
        Send the request to its model, and again to another run if the first one breaks off.

        :raises GatewayError: if no byte of an answer was passed on
        """
        if self.poisoned.known:
            await self.poisoned.check(request)
        failed: list[Lease] = []
        broken = killed = 0
        while True:
            lease = await self._lease(request, call, failed)
            record = request.record
            if record is not None:
                now = record.admitted = record.connected = self._clock.seconds()
                record.model = lease.model.name
                record.tries += 1
                if record.queued is not None:
                    record.was_admitted(now, lease.since)
            try:
                if lease.address.api_key is not None:
                    _permit(request, call, lease)
                return await self._attempt(request, call, lease)
            except UpstreamLost as error:
                lease.cut_off()
                failed.append(lease)
                broken += error.reached
                # An answer that is not HTTP would be the same from a new run of the instance, but
                # not from another instance.
                again = error.gone or lease.others
                again = again and error.received is not Received.HEAD and not lease.revoked
                again = again and len(failed) < lease.tries and broken < MOST_BROKEN
                suspect = error.reached and error.gone and error.received is Received.NOTHING
                suspect = suspect and not lease.revoked
                if not again:
                    if suspect and killed and self.poisoned.seconds and await lease.broke_off():
                        self.poisoned.add(request)
                    return _broken_off(request, error)
                why = str(error)
            finally:
                lease.release()
            # No byte was sent to the client, so the retry is transparent.
            _log.warn(
                "{name} at {where} broke off before it answered ({why}); asking once more{id}",
                name=lease.model.name,
                where=lease.address.shown,
                why=why,
                id=request.name,
            )
            killed += await lease.broke_off() and suspect

    async def _lease(self, request: Request, call: Call, failed: list[Lease]) -> Lease:
        """
        Wait for a lease on the call's model, with keep-alive comments for a stream if configured.

        :param failed: leases on backends that broke off this request
        :raises GatewayError: if the request is rejected
        """
        model = call.named(self._dispatcher.config.default_model)
        usual = request.caller is ANYBODY and request.path in SLOTTED  # no call for most requests
        share = ALIKE if usual and PRIORITY not in request.given else share_of(request)
        waiting = self._dispatcher.acquire(model, call.load, failed, share=share)
        if waiting.called:
            return await waiting
        record = request.record
        if record is not None and record.queued is None:
            record.queued = self._clock.seconds()
            if record.trace is not None:
                standing = self._dispatcher.standing(waiting)
                record.trace.position = 0 if standing is None else standing.position
        request.waiting = waiting
        comments = None
        if self.keepalive and call.stream:
            comments = LoopingCall(self._keep_alive, request, waiting)
            comments.clock = self._clock
            comments.start(self.keepalive, now=False)
        try:
            return await waiting
        finally:
            request.waiting = None
            if comments is not None:
                comments.stop()

    def _keep_alive(self, request: Request, waiting: Deferred[Lease]) -> None:
        """
        Show the client of a stream, and proxies before it, that the request is being processed.

        The comment says how it stands.
        """
        if not request.startedWriting:
            request.begin(200, b"OK", _STREAM, b"")
        standing = self._dispatcher.standing(waiting)
        if standing is not None:
            request.pass_on(b": %b\n\n" % standing.in_words().encode())

    async def _attempt(self, request: Request, call: Call, lease: Lease) -> None:
        """
        Send the request to one backend, over an idle connection if there is one, else a new one.

        :raises UpstreamLost: if the answer did not arrive, or not completely
        :raises BadRequest: if it cannot be changed as the model's configuration requires
        """
        if len(request.body) > LARGE:
            await request.turn()
            check_large(call, request.body, lease.model, lease.address.model)
            await request.turn()
        upstream = self._pool.take(lease.address)
        sent = False
        if upstream is not None:
            try:
                return await send(request, call, lease, upstream)
            except UpstreamLost as error:
                # The backend may have closed the connection while it was idle, before it received
                # the request: retry on a new one.
                if error.received is not Received.NOTHING:
                    raise
                # Or the request has crashed it, which is known only if a run is relaunched.
                sent = lease.relaunches
        try:
            upstream = await self._pool.connect(lease.address)
        except (ConnectError, DNSLookupError) as error:
            why = f"it cannot be reached: {in_words(error)}"
            raise UpstreamLost(why, gone=True, received=Received.NOTHING, reached=sent) from error
        if request.record is not None:
            request.record.connected = self._clock.seconds()
        await send(request, call, lease, upstream)


def _permit(request: Request, call: Call, lease: Lease) -> None:
    """
    Check that a request may be sent with the gateway's own API key.

    :raises NotAllowed: if it is neither inference nor one of the model's ``paths``
    """
    if lease.address.paths is None:
        return
    path = (call.target or request.uri).partition(b"?")[0].decode("latin-1")
    method = "GET" if request.method == b"HEAD" else request.method.decode("latin-1")
    if (method, path) in INFERENCE or any(fnmatchcase(path, p) for p in lease.address.paths):
        return
    raise NotAllowed(
        f"{harmless(method, 20)} {harmless(path, 100)} is not asked of `{lease.model.name}`: its "
        "server would take it with the gateway's key. The model's `paths` can allow it."
    )


def _broken_off(request: Request, error: UpstreamLost) -> None:
    """
    End an answer that broke off so that the client cannot mistake it for a complete one.

    :raises BackendLost: if it had not begun
    """
    if not request.startedWriting:
        raise BackendLost(f"The backend broke off before its answer began: {error}.") from error
    _log.warn("an answer broke off: {error}{id}", error=str(error), id=request.name)
    _cut_short(request, BackendLost(f"The backend broke off in the middle of its answer: {error}."))


def _cancelled(request: Request) -> None:
    """Answer a request that was cancelled (`Request.cancel`) with that, or end its answer."""
    if request.producer is not None:
        # The connection to the backend, which is closed.
        request.unregisterProducer()
    if request.startedWriting:
        _cut_short(request, RequestCancelled())
    else:
        request.fail(RequestCancelled())


def _cut_short(request: Request, error: GatewayError) -> None:
    """
    End an answer that has begun with an event, for `finish` to follow, or cut it off.

    :param error: why
    """
    envelope = request.failed(error)
    if request.streams_events:
        request.pass_on(request.dialect.event(envelope))
    else:
        request.cut()


def _unexpected(failure: Failure, request: Request) -> None:
    if request.unanswered:
        request.processingFailed(failure)
    else:
        _log.failure("a relayed request failed{id}", failure, id=request.name)
