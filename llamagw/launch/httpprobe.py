"""
Requests to a backend for its health, for what is wrong with it, and for its description.

Bounded in time, bytes and lines: a remote server is not trusted. When to probe, and what follows
from the result, is for probes.py and the callers of `HttpProbe`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import treq
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, ensureDeferred
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.client import URI, Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from llamagw.launch.described import described
from llamagw.launch.slots import idle_slots, tokens_erased
from llamagw.net import WORDS, Address, in_words
from llamagw.text import harmless

#: Seconds after which a probe counts as failed.
PROBE_TIMEOUT = 5.0

#: Bytes of an answer at most, including its head.
MAX_ANSWER = 1_000_000

#: Lines of an answer at most (those of its head, and two for each chunk), and one more for each
#: `LINE_BYTES` bytes: Twisted takes some 3 µs for each line.
MAX_LINES, LINE_BYTES = 2000, 64


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

    def metrics(self, address: Address) -> Deferred[bytes | None]:
        """See `Asks.metrics`."""

        def body(answer: _Answer) -> bytes | None:
            return answer.body if answer.status == 200 else None

        return self._get(address, "/metrics").addCallback(body)

    def erase(self, address: Address) -> Deferred[int]:
        """See `Asks.erase`."""
        return ensureDeferred(self._erase(address))

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

    async def _erase(self, address: Address) -> int:
        erased = 0
        try:
            listed = await self._get(address, "/slots")
            for slot in idle_slots(listed.body):
                path = f"/slots/{slot}?action=erase"
                answer = await self._get(address, path, b"POST")
                erased += tokens_erased(answer.body)
        except Exception:
            # It is busy after all, has ended, or has no such endpoint: there is nothing to do.
            pass
        return erased

    async def _describe(self, address: Address) -> dict[str, Any]:
        try:
            status, _, body = await self._get(address, "/v1/models")
            return described(body, address.model) if status == 200 else {}
        except Exception:
            # Any failure means that there is no description.
            return {}

    def _get(self, address: Address, path: str, method: bytes = b"GET") -> Deferred[_Answer]:
        # The timeout covers the body too: a server may stall within its answer.
        request = ensureDeferred(self._request(address, path, method))
        return request.addTimeout(PROBE_TIMEOUT, self._reactor)

    async def _request(self, address: Address, path: str, method: bytes) -> _Answer:
        endpoint = _Endpoint(self._connect(address))
        agent = Agent.usingEndpointFactory(self._reactor, _To(endpoint))
        headers = Headers()
        if address.api_key is not None:
            headers.addRawHeader("Authorization", f"Bearer {address.api_key}")
        try:
            # Not treq's request, which would accept compressed bodies: their size is unbounded.
            url = f"{address.url}{path}".encode("ascii")
            response = await agent.request(method, url, headers)
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
