"""
A world on a clock of its own, which drives the real scheduler: loads, stops, waits, and ticks.

What clients do, and how long loads and answers take, is for a subclass: swaps_simulated.py,
fit_sim.py.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count

from llamagw.fleet.actions import Action, Admit, Reject, Start, Stop
from llamagw.fleet.model import Status
from llamagw.fleet.scheduler import Scheduler

#: What happens, and what the scheduler says to it.
Event = Callable[[], list[Action]]


class World:
    """
    :param scheduler: that decides
    :ivar now: seconds since the beginning
    :ivar waits: of each request that was admitted, in seconds
    :ivar loads: how many there were
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.now = 0.0
        self.waits: list[float] = []
        self.loads = 0
        self._asked: dict[Hashable, float] = {}
        self._events: list[tuple[float, int, Event]] = []
        self._number = count()
        self._due: float | None = None

    # For a subclass

    def admitted(self, ticket: Hashable) -> None:
        """A request has its lease: its end is to be set, by `later`."""
        raise NotImplementedError

    def rejected(self, ticket: Hashable) -> None:
        """A request was turned away."""
        raise AssertionError("nobody is turned away here")

    def starts(self, action: Start) -> float:
        """A load begins; in how many seconds it will be over."""
        raise NotImplementedError

    def stops(self, action: Stop) -> float:
        """A stop begins; in how many seconds the process will be gone."""
        raise NotImplementedError

    def gone(self, key: str) -> None:
        """The process of a model is gone, and its memory free."""

    # What it has for it

    def later(self, seconds: float, event: Event) -> None:
        """Have something happen in so many seconds."""
        heappush(self._events, (self.now + seconds, next(self._number), event))

    def ask(self, key: str, ticket: Hashable) -> list[Action]:
        """A request arrives."""
        self._asked[ticket] = self.now
        return self.scheduler.arrived(key, ticket, self.now)

    def until(self, seconds: float) -> None:
        """Let time pass; who waits at the end has waited so long at least."""
        while self._events and self._events[0][0] <= seconds:
            self.now, _, event = heappop(self._events)
            self._do(event())
        self.waits += [seconds - asked for asked in self._asked.values()]

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Admit):
                self.waits.append(self.now - self._asked.pop(action.ticket))
                self.admitted(action.ticket)
            elif isinstance(action, Reject):
                del self._asked[action.ticket]
                self.rejected(action.ticket)
            elif isinstance(action, Start):
                self.loads += 1
                self.later(self.starts(action), partial(self._loaded, action.key))
            else:
                assert isinstance(action, Stop), "nothing is killed here"
                self.later(self.stops(action), partial(self._exited, action.key))
        due = self.scheduler.wake_at
        if due is not None and due != self._due:
            self.later(due - self.now, partial(self._tick, due))
        self._due = due

    def _loaded(self, key: str) -> list[Action]:
        if self.scheduler.models[key].status is not Status.LOADING:
            return []
        return self.scheduler.loaded(key, self.now)

    def _exited(self, key: str) -> list[Action]:
        self.gone(key)
        return self.scheduler.exited(key, None, self.now)

    def _tick(self, due: float) -> list[Action]:
        return self.scheduler.tick(self.now) if due == self._due else []


def share_of(waits: Sequence[float], *shares: float) -> list[float]:
    """
    Of all waits, those that so many are not above.

    :param waits: not empty
    :param shares: from 0 to 1: 0.5 is half of them, 1 for the longest
    """
    waits = sorted(waits)
    return [waits[int(share * (len(waits) - 1))] for share in shares]
