"""
Twisted's private names that the proxy reads or overrides: all of them, in one place.

Each gets a public name here, and no other file of the proxy uses a private one. Read and tested
with Twisted 26.4.0 (the oldest that setup.cfg allows) and 26.10.0 (the one that the tests
pin); 24.7.0 to 25.5.0 have all names too. tests/proxy/test_twisted_private.py fails with a Twisted
that lacks one. Compare this file with a new version before
the upper bound in setup.cfg is raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from twisted.web import server
from twisted.web.http import HTTPChannel, _MalformedChunkedDataError
from twisted.web.http_headers import _nameEncoder

__all__ = ["KnownChannel", "KnownRequest", "MalformedChunk"]

#: Raised while a chunked body is decoded, it ends the decoding: the rest of the read is not parsed.
MalformedChunk = _MalformedChunkedDataError

#: Headers that decide how long the body is, and how many names of others are known at most.
_LENGTHS, _MOST_USUAL = frozenset({b"Content-Length", b"Transfer-Encoding"}), 1000

#: Names of headers that have come, other than `_LENGTHS`, as they came; and as they are kept.
_usual: dict[bytes, bytes] = {}


def _private(name: str) -> Any:
    """A property that reads a private attribute, at the cost of an attribute: no Python call."""
    return property(attrgetter(name))


class KnownRequest(server.Request):
    """
    Twisted's request with names for its inner state.

    :ivar disconnected: whether the client's connection is closed
    :ivar given: the values of its headers by their names, spelled as in ``X-Request-Id``; to be
        read only. A look-up by Twisted's methods takes two Python calls
    """

    disconnected: bool = _private("_disconnected")
    given: Mapping[bytes, list[bytes]] = _private("requestHeaders._rawHeaders")

    def drop_arriving(self) -> None:
        """Called by the channel: drop the part of the body that has arrived."""

    def limits(self) -> bytes:
        """Called by the channel: headers of a refusal that tell of limits, as lines."""
        return b""


class KnownChannel(HTTPChannel):
    """
    Twisted's channel with names for its inner state, and hooks for the answers that it writes.

    :ivar site: the Site that made it, as Twisted's `Site.buildProtocol` sets it
    :ivar handling: whether a request is being answered; no further one is parsed meanwhile
    :ivar receiving: whether `dataReceived` is being called, and will parse `unparsed` further
    :ivar unparsed: bytes that were received and are not parsed yet
    :ivar early: reads that came while a request was being answered
    :ivar full: whether the transport has called pauseProducing: the client does not read
    """

    site: Any
    requests: list[Any]
    handling: bool = _private("_handlingRequest")
    receiving: bool = _private("_busyReceiving")
    unparsed: bytes = _private("_buffer")
    early: list[bytes] = _private("_dataBuffer")
    full: bool = _private("_waitingForTransport")

    def headerReceived(self, line: bytes) -> bool:
        # What Twisted does with a header whose name it has seen before, in one call instead of six:
        # clients send some ten with each request.
        name, colon, value = line.partition(b":")
        usual = _usual.get(name)
        if usual is None or not colon or self._receivedHeaderCount >= self.maxHeaders:
            return self.unusual(name, value, line)
        self._receivedHeaderCount += 1
        given = self.requests[-1].given
        value = value.strip(b" \t")
        if usual in given:
            given[usual].append(value)
        else:
            given[usual] = [value]
        return True

    def unusual(self, name: bytes, value: bytes, line: bytes) -> bool:
        """
        Take a header that is not one of the usual ones, after `lineReceived` has checked its line.

        :param name: as it came
        :param value: with the blanks around it
        :param line: both of them
        :return: whether it is valid; if not, the request has been refused
        """
        if not super().headerReceived(line):
            return False
        kept = _nameEncoder.encode(name)
        if kept not in _LENGTHS and len(_usual) < _MOST_USUAL:
            _usual[name] = kept
        return True

    @property
    def trailers(self) -> list[bytes]:
        """The trailers of a chunked body; empty for another body."""
        lines: list[bytes] = getattr(self._transferDecoder, "_trailerHeaders", [])
        return lines

    @property
    def request_line(self) -> tuple[bytes, bytes]:
        """Method and target of the request whose head is arriving; empty before its first line."""
        return getattr(self, "_command", b""), getattr(self, "_path", b"")

    def take_early(self) -> list[bytes]:
        """Remove and return the reads that came while a request was being answered."""
        early, self._dataBuffer = self._dataBuffer, []
        return early

    def malformed(self) -> None:
        """Answer a request that is not HTTP."""
        super()._respondToBadRequestAndDisconnect()

    def go_ahead(self) -> None:
        """Answer ``Expect: 100-continue``."""
        super()._send100Continue()

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.malformed()

    def _send100Continue(self) -> None:
        self.go_ahead()
