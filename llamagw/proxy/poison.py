"""
Requests that have crashed two backends each: identical requests are refused for some time.

A client whose request crashes an engine often retries, and each retry takes down a backend that
other clients share. To keep the hot path free, a body is hashed only after it has crashed backends,
and later only if its length equals that of one that has.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from llamagw.errors import PoisonedRequest
from llamagw.proxy.connections import LARGE
from llamagw.proxy.request import Request

_log = Logger(namespace="llamagw.relay")

#: Maximum number of requests that are remembered; the oldest are dropped.
MOST_POISONED = 256


class _Known(NamedTuple):
    length: int
    digest: bytes
    until: float


class Poisoned:
    """
    The requests that are refused.

    :param clock: the reactor, or a Clock
    :param seconds: for how long each is refused; 0 for not at all
    :ivar known: the requests; while it is empty, `check` need not be called
    """

    def __init__(self, clock: IReactorTime, seconds: float) -> None:
        self._clock = clock
        self.seconds = seconds
        self.known: list[_Known] = []

    def __repr__(self) -> str:
        return f"<Poisoned: {len(self.known)} requests, {self.seconds:g} s each>"

    def refuse_for(self, seconds: float) -> None:
        """
        Change the time for which requests are refused; 0 drops the known ones as well.

        :param seconds: for requests that are added from now on
        """
        self.seconds = seconds
        if not seconds:
            self.known = []

    def add(self, request: Request) -> None:
        """Refuse requests identical to this one, whose body must not have been dropped."""
        if not self.seconds:
            return
        until = self._clock.seconds() + self.seconds
        self.known.append(_Known(len(request.body), _digest(request), until))
        del self.known[:-MOST_POISONED]
        _log.warn(
            "{method} {path} has killed two backends; the same request is refused for "
            "{sec:g} s{id}",
            method=request.method.decode("latin-1"),
            path=request.path.decode("latin-1"),
            sec=self.seconds,
            id=request.name,
        )

    async def check(self, request: Request) -> None:
        """
        Check a request that is about to be relayed.

        :raises PoisonedRequest: if the same method, path, query and body have crashed two backends
        """
        now = self._clock.seconds()
        self.known = [one for one in self.known if one.until > now]
        alike = [one for one in self.known if one.length == len(request.body)]
        if not alike:
            return
        if len(request.body) > LARGE:
            await request.turn()
        digest = _digest(request)
        left = [one.until - now for one in alike if one.digest == digest]
        if left:
            raise PoisonedRequest(
                "This request has killed two backends. The same request is refused for another "
                f"{max(left):.0f} s (poison_sec)."
            )


def _digest(request: Request) -> bytes:
    digest = blake2b(b"%b %b\n" % (request.method, request.uri), digest_size=32)
    digest.update(request.body)
    return digest.digest()
