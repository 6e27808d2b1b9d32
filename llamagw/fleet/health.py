"""
Health checks: when a loading backend has become ready, and whether a ready one still answers.

Both ask the engine's ``/health`` in a LoopingCall and tell the backend's state machine what they
find; they decide nothing else. The question itself is a `Probe`, so that tests can answer it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

import treq
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from llamagw.errors import in_words
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

#: Asks a server elsewhere what is wrong with it; None if nothing is. Must not fail.
Diagnosis = Callable[[Address], "Deferred[str | None]"]


class Asks(Protocol):
    """What is asked of backends; `HttpProbe` does it over HTTP."""

    def __call__(self, address: Address) -> Deferred[bool]:
        """A `Probe`."""

    def diagnose(self, address: Address) -> Deferred[str | None]:
        """A `Diagnosis`."""

    def describe(self, address: Address) -> Deferred[dict[str, Any]]:
        """Its entry in its own list of models. Must not fail: no answer is {}."""


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
        """Its entry in its own list of models; {} if it does not tell."""
        return ensureDeferred(self._describe(address))

    async def _well(self, address: Address) -> bool:
        return await self._diagnose(address) is None

    async def _diagnose(self, address: Address) -> str | None:
        try:
            status, _ = await self._get(address, "/health")
            if status in (404, 405, 501):
                # Not every server has one; every one that speaks OpenAI's API has this.
                status, _ = await self._get(address, "/v1/models")
        except Exception as error:
            # Refused, reset, too late, not HTTP: whatever it was, it is not well.
            return in_words(error)
        if status in (401, 403):
            return f"it wants another api_key (it answered {status})"
        return None if status == 200 else f"it answered {status}"

    async def _describe(self, address: Address) -> dict[str, Any]:
        try:
            status, body = await self._get(address, "/v1/models")
            entries = json.loads(body)["data"] if status == 200 else []
            named = [entry for entry in entries if entry["id"] == address.model]
            return dict((named or entries or [{}])[0])
        except Exception:
            # Whatever it was, it is no description.
            return {}

    async def _get(self, address: Address, path: str) -> tuple[int, bytes]:
        agent = Agent.usingEndpointFactory(self._reactor, _To(self._connect(address)))
        headers = Headers()
        if address.api_key is not None:
            headers.addRawHeader("Authorization", f"Bearer {address.api_key}")
        response = await treq.client.HTTPClient(agent).get(
            address.url + path, headers=headers, timeout=PROBE_TIMEOUT, reactor=self._reactor
        )
        return response.code, await treq.content(response)


@implementer(IAgentEndpointFactory)
class _To:
    """Has an Agent use one endpoint, whatever the URL; it was made for it."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return _Quiet(self._endpoint)


@implementer(IStreamClientEndpoint)
class _Quiet:
    """An endpoint without a log line for each connection, which would drown the others."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        protocolFactory.noisy = False  # type: ignore[attr-defined]  # a Factory's
        return self._endpoint.connect(protocolFactory)


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
