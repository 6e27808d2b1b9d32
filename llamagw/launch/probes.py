"""
Health checks: when a loading backend has become ready, and whether a ready one still answers.

Both ask the engine's ``/health`` in a LoopingCall and tell the backend's state machine what they
find; they decide nothing else. The question itself is a `Probe`, so that tests can answer it.
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

#: A ready backend that fails a probe is asked again after this many seconds each, and counts as
#: hung when it has failed so often in a row.
RETRY_SEC, FAILURES = 1.0, 3

#: Seconds that one probe may take.
PROBE_TIMEOUT = 5.0

#: Bytes that an answer may have, with its head.
MAX_ANSWER = 1_000_000

#: Lines that it may have (of its head, and two for each chunk), and one more for so many bytes:
#: Twisted takes some 3 µs for each.
MAX_LINES, LINE_BYTES = 2000, 64

#: Asks a backend whether it is well. Must not fail: no answer is False.
Probe = Callable[[Address], "Deferred[bool]"]

#: Asks a server elsewhere what is wrong with it; None if nothing is. Must not fail.
Diagnosis = Callable[[Address], "Deferred[str | None]"]


class Asks(Protocol):
    """What is asked of backends; `HttpProbe` does it over HTTP."""

    def __call__(self, address: Address) -> Deferred[bool]:
        """A `Probe`."""

    def diagnose(self, address: Address) -> Deferred[str | None]:
        """A `Diagnosis`."""

    def describe(self, address: Address) -> Deferred[dict[str, Any]]:
        """What `described` takes from its list of models. Must not fail: no answer is {}."""


class _Said(NamedTuple):
    """An answer."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: str) -> str:
        """Its value; empty without one."""
        return str(self.headers.getRawHeaders(name, [""])[-1])


class HttpProbe:
    """
    Asks over HTTP.

    :param reactor: keeps time
    :param connect: makes the endpoint for an address
    """

    def __init__(self, reactor: Any, connect: Callable[[Address], IStreamClientEndpoint]) -> None:
        self._reactor = reactor
        self._connect = connect

    def __call__(self, address: Address) -> Deferred[bool]:
        """Is it well? A `Probe`."""
        return ensureDeferred(self._well(address))

    def diagnose(self, address: Address) -> Deferred[str | None]:
        """What is wrong with it? A `Diagnosis`."""
        return ensureDeferred(self._diagnose(address))

    def describe(self, address: Address) -> Deferred[dict[str, Any]]:
        """What it says of its model, see `described`; {} if it does not tell."""
        return ensureDeferred(self._describe(address))

    async def _well(self, address: Address) -> bool:
        try:
            said = await self._health(address)
            return said.status == 200 or _is_for_clients(address, said)
        except Exception:
            # Refused, reset, too late, not HTTP: whatever it was, it is not well.
            return False

    async def _diagnose(self, address: Address) -> str | None:
        try:
            said = await self._health(address)
            if said.status == 200:
                if said.header("Content-Type").startswith("text/html"):
                    return "it answers with a web page; is that the right URL?"
                if address.api_key is None:
                    return None
                # Is it the right one? Its health, and llama-server its models, is told to anybody.
                path = "/props" if said.header("Server") == "llama.cpp" else "/v1/models"
                said = await self._get(address, path)
                if said.status != 401:
                    return None
        except TimeoutError:
            return "it does not answer in time"
        except Exception as error:
            return in_words(error)
        if _is_for_clients(address, said):
            return None
        if said.status in (401, 403):
            return f"it wants another api_key (it answers {said.status})"
        if 300 <= said.status < 400:
            where = harmless(said.header("Location"), WORDS)
            return f"it answers {said.status} and points to {where}"
        if said.status == 404:
            return "it has neither /health nor /v1/models (404); is that the right URL?"
        return f"it answers {said.status}"

    async def _health(self, address: Address) -> _Said:
        said = await self._get(address, "/health")
        if said.status in (404, 405, 501):
            # Not every server has one; every one that speaks OpenAI's API has this.
            return await self._get(address, "/v1/models")
        return said

    async def _describe(self, address: Address) -> dict[str, Any]:
        try:
            status, _, body = await self._get(address, "/v1/models")
            return described(body, address.model) if status == 200 else {}
        except Exception:
            # Whatever it was, it is no description.
            return {}

    def _get(self, address: Address, path: str) -> Deferred[_Said]:
        # The whole of it has a limit: a server may also fall silent within its answer.
        asking = ensureDeferred(self._ask(address, path))
        return asking.addTimeout(PROBE_TIMEOUT, self._reactor)

    async def _ask(self, address: Address, path: str) -> _Said:
        endpoint = _Endpoint(self._connect(address))
        agent = Agent.usingEndpointFactory(self._reactor, _To(endpoint))
        headers = Headers()
        if address.api_key is not None:
            headers.addRawHeader("Authorization", f"Bearer {address.api_key}")
        try:
            # Without treq, which would have bodies compressed: their size is not what is sent.
            response = await agent.request(b"GET", f"{address.url}{path}".encode("ascii"), headers)
            body = await treq.content(response)
        except CancelledError:
            endpoint.abort()
            raise
        except Exception:
            endpoint.check()
            raise
        # A body whose end is the connection's seems to be whole.
        endpoint.check()
        return _Said(response.code, response.headers, body)


class _TooMuch(Exception):
    """An answer was too long to be read."""


def _is_for_clients(address: Address, said: _Said) -> bool:
    """Whether it only wants a key, and the clients are to bring theirs."""
    return address.api_key is None and said.status in (401, 403)


@implementer(IAgentEndpointFactory)
class _To:
    """Has an Agent use one endpoint, whatever the URL; it was made for it."""

    def __init__(self, endpoint: _Endpoint) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return self._endpoint


@implementer(IStreamClientEndpoint)
class _Endpoint:
    """
    One connection's.

    Without a log line for it, which would drown the others; and it can be broken off in the middle
    of a body, which the Agent has no way to do, and is when more comes than an answer has.
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
        See to it that all that came could be read.

        :raises _TooMuch: when it was broken off
        """
        if self._made is not None and self._made.left < 0:
            raise _TooMuch(f"it answers with more than {MAX_ANSWER:,} bytes")
        if self._made is not None and self._made.lines < 0:
            raise _TooMuch("it answers with too many small chunks, or headers")

    def abort(self) -> None:
        if self._made is not None:
            self._made.abort()


class _Counted(ProtocolWrapper):
    """Passes on what comes, up to a limit of bytes, and of lines for these bytes."""

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
    """A LoopingCall that forgets a probe under way when it is stopped."""

    def __init__(self, clock: IReactorTime, interval: float, now: bool) -> None:
        self._under_way: Deferred[None] | None = None
        self._loop = LoopingCall(self._turn)
        self._loop.clock = clock
        self._loop.start(interval, now=now)

    async def turn(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
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
    Waits for a loading backend.

    :param address: where it will answer; asked for anew each time, since it may move
    :param progress: something that changes as long as it gets on
    :param confirm: whether it was the backend that answered that it is well
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
        well = await self._probe(self._address())
        if not self._loop.running:  # stopped meanwhile; a probe that is cancelled says False too
            return
        if well and self._confirm():
            self._loop.stop()
            self._healthy()
            return
        now = self._clock.seconds()
        if now - self._looked < 1.0:
            return
        # Reading /proc twenty times a second would cost more than it tells.
        self._looked = now
        state = self._progress()
        if state != self._last:
            self._last, self._since = state, now
        elif now - self._since >= self._timeout:
            self._loop.stop()
            self._give_up()


class Health(_Probing):
    """
    Watches a ready backend.

    :param interval: seconds between probes while all is well
    :param progress: something that changes as long as it works. A busy engine may have no thread
        left to answer /health with: llama-server has one for each open request, up to a limit
    :param hung: called once, when it neither answers nor gets on
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
        """Another interval, from now on."""
        if self._loop.running and interval != self._loop.interval:
            self._loop.interval = interval
            self._loop.reset()

    async def turn(self) -> None:
        before = self._progress()
        for attempt in range(FAILURES):
            if attempt:
                await deferLater(self._clock, RETRY_SEC)
            well = await self._probe(self._address)
            if well or not self._loop.running or self._progress() != before:
                return
        self._loop.stop()
        self._hung()
