"""
The scheduler's timer: one delayed call, which follows `Scheduler.wake_at`.

What is done when it fires is the dispatcher's decision.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Alarm:
    """
    Calls a function when its time has come.

    :param clock: the reactor, or a Clock
    :param ring: called without arguments; the alarm is not set any more by then
    :ivar due: when it fires, in seconds of the clock; None if it is not set
    """

    __slots__ = ("_call", "_clock", "_ring", "due")

    def __init__(self, clock: IReactorTime, ring: Callable[[], object]) -> None:
        self._clock = clock
        self._ring = ring
        self._call: IDelayedCall | None = None
        self.due: float | None = None

    def __repr__(self) -> str:
        return f"<Alarm due at {self.due}>"

    def set(self, due: float | None) -> None:
        """
        Fire at another time instead of the one that was set.

        :param due: in seconds of the clock; None for never
        """
        if due == self.due:
            return
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self.due = due
        if due is not None:
            # The turn of the reactor has taken time since it was determined: it may be past.
            self._call = self._clock.callLater(max(0.0, due - self._clock.seconds()), self._fire)

    def _fire(self) -> None:
        self._call = self.due = None
        self._ring()
