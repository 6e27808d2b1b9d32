"""
How soon an instance may be started again after its run has ended unasked.

Pure arithmetic; lifecycle.py runs the timer.
"""

from __future__ import annotations

from typing import NamedTuple

#: Seconds of the first backoff; each further one is twice as long.
BACKOFF_FIRST = 1.0

#: Seconds of being ready after which earlier failures do not count any more.
STABLE_SEC = 10.0

#: The longest backoff after a crash, in seconds, during which requests stay queued.
HOLD_SEC = 5.0


class Pause(NamedTuple):
    """
    The backoff after the end of a run.

    :ivar seconds: for how long the instance must not be started
    :ivar hold: whether requests stay queued meanwhile, instead of being rejected
    """

    seconds: float
    hold: bool


class Restarts:
    """
    Counts the failures of an instance, and computes its backoff.

    :param longest: the upper limit of a backoff, in seconds
    :ivar failures: those that still count
    """

    __slots__ = ("_longest", "failures")

    def __init__(self, longest: float = 60.0) -> None:
        self._longest = longest
        self.failures = 0

    def __repr__(self) -> str:
        return f"<Restarts after {self.failures} failures>"

    def crashed(self, answered: bool, stable: bool = False) -> Pause:
        """
        Count the unexpected end of a run that was ready.

        :param answered: whether it has answered a request since it was ready
        :param stable: whether it had been ready for `STABLE_SEC`
        """
        if answered or stable:
            self.failures = 0
        if answered:
            return Pause(0.0, hold=True)
        if self.failures == 0:
            self.failures = 1
            return Pause(0.0, hold=True)
        seconds = self._longer()
        return Pause(seconds, hold=seconds <= HOLD_SEC)

    def load_failed(self) -> Pause:
        """Count a run that ended before it was ready, or was not ready in time."""
        return Pause(self._longer(), hold=False)

    def _longer(self) -> float:
        # The exponent is bounded: after days of failures the power would overflow.
        seconds = min(BACKOFF_FIRST * 2.0 ** min(self.failures, 30), self._longest)
        self.failures += 1
        return seconds
