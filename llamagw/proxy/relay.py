"""
One request: find out its model, get a lease, send it to the backend, pass the answer on.

The story of a request is told in `Relay._answer`; the answer's bytes flow through an `Exchange`
(exchange.py) without passing here. Knows nothing of how a model gets ready.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from llamagw.config import Config
from llamagw.dialects import INFERENCE
from llamagw.errors import BackendLost, GatewayError, NotAllowed
from llamagw.fleet import Dispatcher, Lease
from llamagw.net import Pool, Received, UpstreamLost, in_words
from llamagw.proxy.call import Call, Reader
from llamagw.proxy.connections import LARGE
from llamagw.proxy.exchange import send
from llamagw.proxy.poison import Poisoned
from llamagw.proxy.request import Request
from llamagw.text import harmless

_log = Logger(namespace="llamagw.relay")

#: How many backends may break off on one request before it is held to be the cause.
MOST_BROKEN = 2

#: The head of an answer that is begun before there is one.
_STREAM = [(b"Content-Type", b"text/event-stream"), (b"Cache-Control", b"no-cache")]


class Relay:
    """
    Passes requests on to the backends of their models.

    :param dispatcher: gives leases
    :param pool: gives connections
    :param clock: keeps time
    :param keepalive: seconds between the comments that a stream gets while it waits for its model;
        0 for none
    :param poison_sec: seconds for which a request is refused that has killed two backends; 0 for
        none
    :ivar poisoned: those that are refused now
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

    def apply(self, config: Config) -> None:
        """Go by this configuration from now on."""
        self.keepalive = config.stream_keepalive_sec
        self.poisoned.refuse_for(config.poison_sec)

    def render(self, request: Request, read: Reader) -> Deferred[None]:
        """
        Answer a request from the model that it is for.

        :param read: finds out which that is
        :return: fires when the answer is out, or the client gone; never fails
        """
        story = request.story = Deferred.fromCoroutine(self._answer(request, read))
        return story.addErrback(_unexpected, request)

    async def _answer(self, request: Request, read: Reader) -> None:
        try:
            await self._relay(request, read(request))
        except (CancelledError, ConnectingCancelledError):
            # The client has disconnected.
            return
        except GatewayError as error:
            if not request.startedWriting:
                request.fail(error)
                return
            request.pass_on(request.dialect.event(request.dialect.envelope(error)))
        if request.unanswered:
            request.finish()

    async def _relay(self, request: Request, call: Call) -> None:
        """
        Have the request answered by its model, by another backend if the first one dies on it.

        :raises GatewayError: when there was no answer, not even the beginning of one
        """
        if self.poisoned.known:
            await self.poisoned.check(request)
        failed: list[Lease] = []
        broken = killed = 0
        while True:
            lease = await self._lease(request, call, failed)
            try:
                if lease.address.api_key is not None:
                    _permit(request, call, lease)
                return await self._attempt(request, call, lease)
            except UpstreamLost as error:
                failed.append(lease)
                broken += error.reached
                # A run started anew would answer as this one did, another instance need not.
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
                "{name} at {where} broke off before it answered ({why}); asking once more",
                name=lease.model.name,
                where=lease.address.url,
                why=why,
            )
            killed += await lease.broke_off() and suspect

    async def _lease(self, request: Request, call: Call, failed: list[Lease]) -> Lease:
        """
        Wait for a lease on the call's model; a stream is kept alive meanwhile, if that is wanted.

        :param failed: leases on backends that broke off on this request
        :raises GatewayError: when there will be none
        """
        model = call.named(self._dispatcher.config.default_model)
        waiting = self._dispatcher.acquire(model, call.load, failed)
        if waiting.called or not self.keepalive or not call.stream:
            return await waiting
        comments = LoopingCall(_keep_alive, request)
        comments.clock = self._clock
        comments.start(self.keepalive, now=False)
        try:
            return await waiting
        finally:
            comments.stop()

    async def _attempt(self, request: Request, call: Call, lease: Lease) -> None:
        """
        Have one backend answer, over an idle connection if there is one, else over a new one.

        :raises UpstreamLost: when the answer did not come, or not whole
        """
        if len(request.body) > LARGE:
            await request.turn()
        upstream = self._pool.take(lease.address)
        sent = False
        if upstream is not None:
            try:
                return await send(request, call, lease, upstream)
            except UpstreamLost as error:
                # It may have been closed while it was idle; then the backend has not seen the
                # request.
                if error.received is not Received.NOTHING:
                    raise
                # Or it has died of it, which is known only where a fresh run follows.
                sent = lease.relaunches
        try:
            upstream = await self._pool.connect(lease.address)
        except (ConnectError, DNSLookupError) as error:
            why = f"it cannot be reached: {in_words(error)}"
            raise UpstreamLost(why, gone=True, received=Received.NOTHING, reached=sent) from error
        await send(request, call, lease, upstream)


def _keep_alive(request: Request) -> None:
    """Show the client of a stream, and proxies before it, that the request is being processed."""
    if not request.startedWriting:
        request.begin(200, b"OK", _STREAM, b"")
    request.pass_on(b": waiting for the model\n\n")


def _permit(request: Request, call: Call, lease: Lease) -> None:
    """
    Let only what a model is for go where the gateway's own key goes along.

    :raises NotAllowed: when the key might open more than that
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
    See to it that an answer that broke off cannot be taken for a whole one.

    :raises BackendLost: when it had not begun
    """
    if not request.startedWriting:
        raise BackendLost(f"The backend broke off before its answer began: {error}.") from error
    _log.warn("an answer broke off: {error}", error=str(error))
    if request.streams_events:
        lost = BackendLost(f"The backend broke off in the middle of its answer: {error}.")
        request.pass_on(request.dialect.event(request.dialect.envelope(lost)))
    else:
        request.cut()


def _unexpected(failure: Failure, request: Request) -> None:
    if request.unanswered:
        request.processingFailed(failure)
    else:
        _log.failure("a relayed request failed", failure)
