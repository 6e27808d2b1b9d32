"""
When an idle instance forgets what it keeps of earlier prompts (``idle_shrink_sec``).

One timer for a ready instance, which looks how long it has been idle when it fires: requests do not
reset it. What is asked of the engine is for launch/httpprobe.py.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime


class Shrink:
    """
    Has a ready instance forget, once each time that it falls idle.

    :param clock: the reactor, or a Clock
    :param seconds: that it has been idle for
    :param idle_since: tells since when it is idle, in seconds of the clock; None while it is busy
    :param forget: called when it is to forget
    """

    def __init__(
        self,
        clock: IReactorTime,
        seconds: float,
        idle_since: Callable[[], float | None],
        forget: Callable[[], object],
    ) -> None:
        self._clock = clock
        self._seconds = seconds
        self._idle_since = idle_since
        self._forget = forget
        #: Since when it was idle, the last time that it forgot.
        self._forgot: float | None = None
        self._timer = clock.callLater(seconds, self._look)

    def __repr__(self) -> str:
        return f"<Shrink after {self._seconds} s>"

    def stop(self) -> None:
        """Stop looking."""
        self._timer.cancel()

    def _look(self) -> None:
        since = self._idle_since()
        left = self._seconds
        if since is not None:
            left = max(since + self._seconds - self._clock.seconds(), 0.0)
        if not left:
            left = self._seconds
            if since != self._forgot:
                self._forgot = since
                self._forget()
        self._timer = self._clock.callLater(left, self._look)
