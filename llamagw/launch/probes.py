"""
Health checks: when a loading backend has become ready, and whether a ready one still answers.

Both request ``/health`` in a LoopingCall and call back with the result; they decide nothing else.
The request itself is a `Probe`: over HTTP it is made by httpprobe.py, and in tests by a fake.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure

from llamagw.net import Address

#: Seconds between probes while a model loads. A refused connection is cheap.
LOADING_INTERVAL = 0.05

#: A ready backend that fails a probe is probed again every `RETRY_SEC` seconds, and counts as hung
#: after `FAILURES` failures in a row.
RETRY_SEC, FAILURES = 1.0, 3

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

    def metrics(self, address: Address) -> Deferred[bytes | None]:
        """Fires with its metrics in Prometheus' format, None if it has none; may fail."""

    def erase(self, address: Address) -> Deferred[int]:
        """
        Have the slots that are idle forget their prompts; never fails.

        Fires with how many tokens those were.
        """

    def describe(self, address: Address) -> Deferred[dict[str, Any]]:
        """Fires with what described.py takes from its list of models; never fails, {} for none."""


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
