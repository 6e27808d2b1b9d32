"""
How soon an instance may be started again after its run has ended unasked.

Pure arithmetic; lifecycle.py says when.
"""

from __future__ import annotations

from typing import NamedTuple

#: Seconds of the first backoff; each further one doubles them.
BACKOFF_FIRST = 1.0

#: Seconds that an instance must have been ready for its earlier failures to be forgotten.
STABLE_SEC = 10.0

#: The longest backoff, in seconds, for whose end requests wait after a crash.
HOLD_SEC = 5.0


class Pause(NamedTuple):
    """
    What follows from the end of a run.

    :ivar seconds: for how long the instance must not be started
    :ivar hold: whether requests wait for it meanwhile, instead of being rejected
    """

    seconds: float
    hold: bool


class Restarts:
    """
    Decides how soon an instance may be started again.

    :param longest: seconds that no backoff exceeds
    :ivar failures: those that are not forgotten
    """

    __slots__ = ("_longest", "failures")

    def __init__(self, longest: float = 60.0) -> None:
        self._longest = longest
        self.failures = 0

    def __repr__(self) -> str:
        return f"<Restarts after {self.failures} failures>"

    def crashed(self, answered: bool, stable: bool = False) -> Pause:
        """
        A run that was ready has ended unasked.

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
        """A run has ended before it was ready, or did not become ready in time."""
        return Pause(self._longer(), hold=False)

    def _longer(self) -> float:
        # Bounded before it is a power: after days of failures that would overflow.
        seconds = min(BACKOFF_FIRST * 2.0 ** min(self.failures, 30), self._longest)
        self.failures += 1
        return seconds
