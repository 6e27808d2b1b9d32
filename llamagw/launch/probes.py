"""
Health checks: when a loading backend has become ready, and whether a ready one still answers.

Both request ``/health`` in a LoopingCall and call back with the result; they decide nothing else.
The request itself is a `Probe`, so that tests can replace it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

import treq
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, ensureDeferred
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.task import LoopingCall, deferLater
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from llamagw.launch.described import described
from llamagw.net import WORDS, Address, in_words
from llamagw.text import harmless

#: Seconds between probes while a model loads. A refused connection is cheap.
LOADING_INTERVAL = 0.05

#: A ready backend that fails a probe is probed again every `RETRY_SEC` seconds, and counts as hung
#: after `FAILURES` failures in a row.
RETRY_SEC, FAILURES = 1.0, 3

#: Seconds after which a probe counts as failed.
PROBE_TIMEOUT = 5.0

#: Bytes of an answer at most, including its head.
MAX_ANSWER = 1_000_000

#: Lines of an answer at most (those of its head, and two for each chunk), and one more for each
#: `LINE_BYTES` bytes: Twisted takes some 3 µs for each line.
MAX_LINES, LINE_BYTES = 2000, 64

#: Probes a backend: fires with whether it is healthy; never fails, no answer is False.
Probe = Callable[[Address], "Deferred[bool]"]

#: Probes a remote server: fires with what is wrong with it, None if nothing is; never fails.
Diagnosis = Callable[[Address], "Deferred[str | None]"]


class Asks(Protocol):
    """All that is requested of backends for their health and description; see `HttpProbe`."""

    def __call__(self, address: Address) -> Deferred[bool]:
        """See `Probe`."""

    def diagnose(self, address: Address) -> Deferred[str | None]:
        """See `Diagnosis`."""

    def describe(self, address: Address) -> Deferred[dict[str, Any]]:
        """Fires with what `described` takes from its list of models; never fails, {} for none."""


class _Answer(NamedTuple):
    """The whole answer to a request."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: str) -> str:
        """The header's last value; "" if the answer has none."""
        return str(self.headers.getRawHeaders(name, [""])[-1])


class HttpProbe:
    """
    Probes over HTTP, with a connection for each request.

    :param reactor: runs the timeouts
    :param connect: makes the endpoint for an address
    """

    def __init__(self, reactor: Any, connect: Callable[[Address], IStreamClientEndpoint]) -> None:
        self._reactor = reactor
        self._connect = connect

    def __call__(self, address: Address) -> Deferred[bool]:
        """See `Probe`."""
        return ensureDeferred(self._healthy(address))

    def diagnose(self, address: Address) -> Deferred[str | None]:
        """See `Diagnosis`."""
        return ensureDeferred(self._diagnose(address))

    def describe(self, address: Address) -> Deferred[dict[str, Any]]:
        """See `Asks.describe`."""
        return ensureDeferred(self._describe(address))

    async def _healthy(self, address: Address) -> bool:
        try:
            answer = await self._health(address)
            return answer.status == 200 or _is_for_clients(address, answer)
        except Exception:
            # Refused, reset, timed out, not HTTP: in any case it is not healthy.
            return False

    async def _diagnose(self, address: Address) -> str | None:
        try:
            answer = await self._health(address)
            if answer.status == 200:
                if answer.header("Content-Type").startswith("text/html"):
                    return "it answers with a web page; is that the right URL?"
                if address.api_key is None:
                    return None
                # Check the key: /health needs none, and neither does llama-server's /v1/models.
                path = "/props" if answer.header("Server") == "llama.cpp" else "/v1/models"
                answer = await self._get(address, path)
                if answer.status != 401:
                    return None
        except TimeoutError:
            return "it does not answer in time"
        except Exception as error:
            return in_words(error)
        if _is_for_clients(address, answer):
            return None
        if answer.status in (401, 403):
            return f"it wants another api_key (it answers {answer.status})"
        if 300 <= answer.status < 400:
            where = harmless(answer.header("Location"), WORDS)
            return f"it answers {answer.status} and points to {where}"
        if answer.status == 404:
            return "it has neither /health nor /v1/models (404); is that the right URL?"
        return f"it answers {answer.status}"

    async def _health(self, address: Address) -> _Answer:
        answer = await self._get(address, "/health")
        if answer.status in (404, 405, 501):
            # Not every server has /health; every server with OpenAI's API has this one.
            return await self._get(address, "/v1/models")
        return answer

    async def _describe(self, address: Address) -> dict[str, Any]:
        try:
            status, _, body = await self._get(address, "/v1/models")
            return described(body, address.model) if status == 200 else {}
        except Exception:
            # Any failure means that there is no description.
            return {}

    def _get(self, address: Address, path: str) -> Deferred[_Answer]:
        # The timeout covers the body too: a server may stall within its answer.
        request = ensureDeferred(self._request(address, path))
        return request.addTimeout(PROBE_TIMEOUT, self._reactor)

    async def _request(self, address: Address, path: str) -> _Answer:
        endpoint = _Endpoint(self._connect(address))
        agent = Agent.usingEndpointFactory(self._reactor, _To(endpoint))
        headers = Headers()
        if address.api_key is not None:
            headers.addRawHeader("Authorization", f"Bearer {address.api_key}")
        try:
            # Not treq's request, which would accept compressed bodies: their size is unbounded.
            response = await agent.request(b"GET", f"{address.url}{path}".encode("ascii"), headers)
            body = await treq.content(response)
        except CancelledError:
            endpoint.abort()
            raise
        except Exception:
            endpoint.check()
            raise
        # A body that ends with the connection looks complete even if that was broken off.
        endpoint.check()
        return _Answer(response.code, response.headers, body)


class _TooMuch(Exception):
    """An answer is over one of the limits."""


def _is_for_clients(address: Address, answer: _Answer) -> bool:
    """Whether it refused for lack of a key, and the keys are sent by the clients."""
    return address.api_key is None and answer.status in (401, 403)


@implementer(IAgentEndpointFactory)
class _To:
    """Makes an Agent use one endpoint, whatever the URL."""

    def __init__(self, endpoint: _Endpoint) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return self._endpoint


@implementer(IStreamClientEndpoint)
class _Endpoint:
    """
    The endpoint of one connection.

    No log line is written for the connection. It can be aborted in the middle of a body, which the
    Agent has no way to do, and is aborted when the answer is over a limit.
    """

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint
        self._made: _Counted | None = None

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        protocolFactory.noisy = False  # type: ignore[attr-defined]  # a Factory's
        factory = WrappingFactory(protocolFactory)
        factory.noisy = False
        factory.protocol = _Counted

        def made(counted: IProtocol) -> IProtocol:
            self._made = cast(_Counted, counted)
            return self._made.wrappedProtocol

        return self._endpoint.connect(factory).addCallback(made)

    def check(self) -> None:
        """
        Check that the answer was within the limits.

        :raises _TooMuch: when the connection was aborted because it was not
        """
        if self._made is not None and self._made.left < 0:
            raise _TooMuch(f"it answers with more than {MAX_ANSWER:,} bytes")
        if self._made is not None and self._made.lines < 0:
            raise _TooMuch("it answers with too many small chunks, or headers")

    def abort(self) -> None:
        """Abort the connection, if it was made."""
        if self._made is not None:
            self._made.abort()


class _Counted(ProtocolWrapper):
    """
    Passes received data on, and aborts the connection over a limit.

    :ivar left: bytes that may still come
    :ivar lines: lines that may still come
    """

    left = MAX_ANSWER
    lines = MAX_LINES

    def dataReceived(self, data: bytes) -> None:
        self.left -= len(data)
        self.lines -= data.count(b"\r\n") - len(data) // LINE_BYTES
        if self.left < 0 or self.lines < 0:
            self.abort()
        else:
            super().dataReceived(data)

    def abort(self) -> None:
        cast(ITCPTransport, self.transport).abortConnection()


class _Probing:
    """A LoopingCall that cancels the probe under way when it is stopped."""

    def __init__(self, clock: IReactorTime, interval: float, now: bool) -> None:
        self._under_way: Deferred[None] | None = None
        self._loop = LoopingCall(self._turn)
        self._loop.clock = clock
        self._loop.start(interval, now=now)

    async def turn(self) -> None:
        """One turn of the loop."""
        raise NotImplementedError

    def stop(self) -> None:
        """See `Watch.stop`."""
        if self._loop.running:
            self._loop.stop()
        if self._under_way is not None:
            self._under_way.cancel()

    def _turn(self) -> Deferred[None]:
        turn = self._under_way = ensureDeferred(self.turn())

        def over(result: object) -> object:
            self._under_way = None
            if isinstance(result, Failure) and result.check(CancelledError):
                return None
            return result

        return turn.addBoth(over)


class Readiness(_Probing):
    """
    Probes a loading backend.

    :param clock: runs the interval
    :param probe: probes the backend
    :param address: its address; called for each probe, since it may change
    :param progress: see `Run.progress`
    :param confirm: whether it was the backend that answered a successful probe
    :param timeout: seconds
    :param healthy: called once, when it is ready
    :param give_up: called once, when ``timeout`` seconds have passed without progress
    """

    def __init__(
        self,
        clock: IReactorTime,
        probe: Probe,
        address: Callable[[], Address],
        progress: Callable[[], object],
        confirm: Callable[[], bool],
        timeout: float,
        healthy: Callable[[], None],
        give_up: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._probe = probe
        self._address = address
        self._progress = progress
        self._confirm = confirm
        self._timeout = timeout
        self._healthy = healthy
        self._give_up = give_up
        self._last = progress()
        self._since = self._looked = clock.seconds()
        super().__init__(clock, LOADING_INTERVAL, now=False)

    async def turn(self) -> None:
        healthy = await self._probe(self._address())
        if not self._loop.running:  # stopped meanwhile; a cancelled probe fires with False too
            return
        if healthy and self._confirm():
            self._loop.stop()
            self._healthy()
            return
        now = self._clock.seconds()
        if now - self._looked < 1.0:
            return
        # Reading /proc twenty times a second would cost more than it is worth.
        self._looked = now
        state = self._progress()
        if state != self._last:
            self._last, self._since = state, now
        elif now - self._since >= self._timeout:
            self._loop.stop()
            self._give_up()


class Health(_Probing):
    """
    Probes a ready backend.

    :param clock: runs the interval
    :param probe: probes the backend
    :param address: of the backend
    :param interval: seconds between probes while it is healthy
    :param progress: see `Run.progress`. A busy engine may have no thread left to answer /health:
        llama-server uses one for each open request, up to a limit
    :param hung: called once, when it neither answers nor progresses
    """

    def __init__(
        self,
        clock: IReactorTime,
        probe: Probe,
        address: Address,
        interval: float,
        progress: Callable[[], object],
        hung: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._probe = probe
        self._address = address
        self._progress = progress
        self._hung = hung
        super().__init__(clock, interval, now=False)

    def every(self, interval: float) -> None:
        """
        Change the interval, from now on.

        :param interval: seconds
        """
        if self._loop.running and interval != self._loop.interval:
            self._loop.interval = interval
            self._loop.reset()

    async def turn(self) -> None:
        before = self._progress()
        for attempt in range(FAILURES):
            if attempt:
                await deferLater(self._clock, RETRY_SEC)
            healthy = await self._probe(self._address)
            if healthy or not self._loop.running or self._progress() != before:
                return
        self._loop.stop()
        self._hung()
