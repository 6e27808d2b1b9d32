"""
Health checks: when a loading backend has become ready, and whether a ready one still answers.

Both ask the engine's ``/health`` in a LoopingCall and tell the backend's state machine what they
find; they decide nothing else. The question itself is a `Probe`, so that tests can answer it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import treq
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTCP,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from llamagw.fleet.backend import Address

#: Seconds between probes while a model loads. A refused connection is cheap.
LOADING_INTERVAL = 0.05

#: A ready backend that fails a probe is asked again after this many seconds each, and counts as
#: hung when it has failed so often in a row.
RETRY_SEC, FAILURES = 1.0, 3

#: Seconds that one probe may take.
PROBE_TIMEOUT = 5.0

#: Asks a backend whether it is well. Must not fail: no answer is False.
Probe = Callable[[Address], "Deferred[bool]"]


def http_probe(reactor: Any) -> Probe:
    """A `Probe` that sends ``GET /health`` over HTTP. The reactor connects and keeps time."""
    agent = Agent.usingEndpointFactory(reactor, _Quietly(reactor))
    client = treq.client.HTTPClient(agent)

    async def probe(address: Address) -> bool:
        url = f"http://{address.host}:{address.port}/health"
        try:
            response = await client.get(url, timeout=PROBE_TIMEOUT, reactor=reactor)
            await treq.content(response)
        except Exception:
            # Refused, reset, too late, not HTTP: whatever it was, it was not "ok".
            return False
        return bool(response.code == 200)

    return lambda address: ensureDeferred(probe(address))


@implementer(IAgentEndpointFactory)
class _Quietly:
    """Makes an Agent's endpoints; a log line for each connection would drown the others."""

    def __init__(self, reactor: IReactorTCP) -> None:
        self._reactor = reactor

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return _QuietEndpoint(self._reactor, uri.host.decode(), uri.port, timeout=PROBE_TIMEOUT)


class _QuietEndpoint(TCP4ClientEndpoint):
    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        protocolFactory.noisy = False  # type: ignore[attr-defined]  # a Factory's
        return super().connect(protocolFactory)


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
    :param healthy: called once, when it is ready
    :param give_up: called once, when ``timeout`` seconds have passed without progress
    """

    def __init__(
        self,
        clock: IReactorTime,
        probe: Probe,
        address: Callable[[], Address],
        progress: Callable[[], object],
        timeout: float,
        healthy: Callable[[], None],
        give_up: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._probe = probe
        self._address = address
        self._progress = progress
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
        if well:
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
